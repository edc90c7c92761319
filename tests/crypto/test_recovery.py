"""24 words in any layout, and boot objects that only they find and open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.crypto.recovery import WORDS, RecoveryKey
from megafs.errors import Unauthentic, WrongKey

KEY = RecoveryKey(bytes(range(32)))


def test_the_word_list():
    assert len(WORDS) == len(set(WORDS)) == 2048
    assert list(WORDS) == sorted(WORDS)
    assert len({word[:4] for word in WORDS}) == 2048
    assert (WORDS[0], WORDS[2047]) == ("abandon", "zoo")


@given(st.binary(min_size=32, max_size=32))
def test_round_trip(secret):
    words = RecoveryKey(secret).words()
    assert len(words) == 24
    assert RecoveryKey.from_text(" ".join(words)).secret == secret


def test_generated_keys_differ():
    assert RecoveryKey.generate().secret != RecoveryKey.generate().secret
    assert RecoveryKey.generate(lambda size: bytes(size)).words()[-1] == "art"


LAYOUTS = {
    "capitals": lambda words: " ".join(words).upper(),
    "title case": lambda words: " ".join(words).title(),
    "lines": "\n".join,
    "windows lines": "\r\n".join,
    "tabs": "\t".join,
    "commas": ", ".join,
    "hyphens": "-".join,
    "no-break spaces": "\u00a0".join,
    "ideographic spaces": "\u3000".join,
    "numbers": lambda words: " ".join(f"{n}. {word}" for n, word in enumerate(words, 1)),
    "numbers without space": lambda words: "\n".join(f"{n}){word}" for n, word in enumerate(words, 1)),
    "columns": lambda words: "\n".join(
        "   ".join(f"{row + 1 + 6 * column:2}  {words[row * 4 + column]:8}" for column in range(4)) for row in range(6)
    ),
    "quotes": lambda words: '"' + " ".join(words) + '"\n',
    "full width": lambda words: " ".join("".join(chr(ord(c) + 0xFEE0) for c in word) for word in words),
    "space around": lambda words: "\n\n  " + "  ".join(words) + "  \n\n",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_layout(layout):
    assert RecoveryKey.from_text(layout(KEY.words())).secret == KEY.secret


@pytest.mark.parametrize("count", [0, 1, 12, 23, 25, 48])
def test_wrong_number_of_words(count):
    with pytest.raises(WrongKey, match=f"^A recovery key has 24 words, these are {count}\\.$"):
        RecoveryKey.from_text(" ".join((KEY.words() * 2)[:count]))


def test_unknown_words_are_named_by_place_only():
    words = KEY.words()
    words[6] = "hunterz"
    with pytest.raises(WrongKey, match=r"^Word 7 is not in the list") as caught:
        RecoveryKey.from_text(" ".join(words))
    assert "hunterz" not in str(caught.value)
    words[23] = "żoo"
    with pytest.raises(WrongKey, match=r"^Words 7, 24 are not in the list"):
        RecoveryKey.from_text(" ".join(words))


@pytest.mark.parametrize("place", range(24))
def test_another_word_breaks_the_checksum(place):
    """One checksum byte: of all 2047 other words in a place about 8 pass (all 255 of 256 wrong ones do not)."""
    words = KEY.words()
    passed = 0
    for word in WORDS:
        if word == words[place]:
            continue
        try:
            other = RecoveryKey.from_text(" ".join([*words[:place], word, *words[place + 1 :]]))
        except WrongKey:
            continue
        passed += 1
        assert other.secret != KEY.secret
    assert passed < 30


def test_swapped_words():
    words = KEY.words()
    with pytest.raises(WrongKey, match=r"^These words do not belong together"):
        RecoveryKey.from_text(" ".join([words[1], words[0], *words[2:]]))
    with pytest.raises(WrongKey):
        RecoveryKey.from_text(" ".join(["abandon"] * 24))
    with pytest.raises(WrongKey):
        RecoveryKey.from_text(" ".join(["zoo"] * 24))


@given(st.text(max_size=300))
def test_no_text_raises_anything_but_wrong_key(text):
    with pytest.raises(WrongKey):
        RecoveryKey.from_text(text)


def test_boot_names():
    names = KEY.boot_names()
    assert len(names) == len(set(names)) == 64
    assert all(len(name) == 32 for name in names)
    assert not set(names) & set(RecoveryKey(bytes(32)).boot_names())


def test_boot_objects():
    sealed = KEY.seal_boot(b"secrets")
    assert KEY.open_boot(sealed) == b"secrets"
    for key, forged in [
        (RecoveryKey(bytes(32)), sealed),
        (KEY, RecoveryKey(bytes(32)).seal_boot(b"attacker's vault")),
        (KEY, sealed[:-1]),
        (KEY, b""),
        (KEY, bytes(200)),
    ]:
        with pytest.raises(Unauthentic):
            key.open_boot(forged)
    for bit in range(8 * len(sealed)):
        forged = bytearray(sealed)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Unauthentic):
            KEY.open_boot(forged)


def test_the_key_is_not_shown():
    said = f"{KEY} {KEY!r} {[KEY]}"
    assert KEY.secret.hex() not in said
    assert repr(KEY.secret)[2:-1] not in said
    assert not any(word in said for word in KEY.words())
