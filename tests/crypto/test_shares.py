"""SLIP-39 shares: any M of N give the recovery key back, fewer and mixed ones a sentence."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shamir_mnemonic import Share, combine_mnemonics

from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.shares import SHARE_WORDS, joined, recovery_key, split
from megafs.errors import Usage, WrongKey

KEY = RecoveryKey(bytes(range(32)))
SHARES = split(KEY, 3, 5)


def test_any_three_of_five():
    assert all(len(share.split()) == SHARE_WORDS for share in SHARES)
    for some in combinations(SHARES, 3):
        assert recovery_key("\n".join(some)).secret == KEY.secret
    assert recovery_key("\n".join(reversed(SHARES))).secret == KEY.secret, "more than enough"
    for some in combinations(SHARES, 2):
        with pytest.raises(WrongKey, match="3 different shares are needed, these are 2"):
            recovery_key("\n".join(some))
    with pytest.raises(WrongKey, match="these are 1"):
        recovery_key("\n".join([SHARES[0]] * 3))


@given(st.binary(min_size=32, max_size=32), st.integers(2, 4), st.integers(0, 3))
def test_round_trip(secret, needed, more):
    shares = split(RecoveryKey(secret), needed, needed + more)
    assert joined(shares[more:]).secret == secret


def numbered(share):
    return "\n".join(f"{place:2}. {word.upper()}" for place, word in enumerate(share.split(), 1))


def test_a_printed_sheet_reads_back():
    sheet = "# Share 1 of 5 of a drive\n\n" + "\n".join(
        f"# Share {n}, words of which three are enough\n" + numbered(s) for n, s in enumerate(SHARES[:3], 1)
    )
    assert recovery_key(sheet).secret == KEY.secret
    assert recovery_key("# twenty four words\n" + " ".join(KEY.words())).secret == KEY.secret


def test_shares_that_do_not_belong_together():
    others = split(KEY, 3, 5)
    with pytest.raises(WrongKey, match="Share 3 is not of the same set"):
        recovery_key("\n".join([*SHARES[:2], others[2]]))
    with pytest.raises(WrongKey, match="24 words, these are 98"):
        recovery_key("\n".join(SHARES[:3]).rpartition(" ")[0])


def test_a_wrong_word_is_said_and_not_repeated():
    words = SHARES[1].split()
    for wrong in ([words[1], words[0], *words[2:]], ["megafsword", *words[1:]]):
        with pytest.raises(WrongKey, match="Share 2 is no share") as caught:
            recovery_key("\n".join([SHARES[0], " ".join(wrong), SHARES[2]]))
        assert "megafsword" not in str(caught.value)


def test_a_made_up_share_is_noticed():
    """It has a right checksum and says that it is of this set; the secret that comes out has a digest."""
    true = Share.from_mnemonic(SHARES[2])
    forged = Share(**{**true.__dict__, "value": bytes(b ^ 1 for b in true.value)}).mnemonic()
    with pytest.raises(WrongKey, match="made up"):
        joined([*SHARES[:2], forged])


def test_a_secret_of_another_size_is_no_recovery_key():
    from shamir_mnemonic import generate_mnemonics

    shares = generate_mnemonics(1, [(2, 2)], bytes(16))[0]
    assert len(shares[0].split()) == 20
    with pytest.raises(WrongKey):
        joined(shares)


@pytest.mark.parametrize(("needed", "count"), [(1, 1), (1, 3), (0, 2), (4, 3), (2, 17), (17, 17), (-1, 3)])
def test_sharings_that_cannot_be(needed, count):
    with pytest.raises(Usage):
        split(KEY, needed, count)


def test_vector_of_the_reference():
    """Of Trezor's vectors.json: 256 bits in one share, sealed under a passphrase."""
    share = (
        "theory painting academic academic armed sweater year military elder discuss acne wildlife boring employer "
        "fused large satoshi bundle carbon diagnose anatomy hamster leaves tracks paces beyond phantom capital marvel "
        "lips brave detect luck"
    )
    secret = combine_mnemonics([share], b"TREZOR").hex()
    assert secret == "989baf9dcaad5b10ca33dfd8cc75e42477025dce88ae83e75a230086a0e00e92"


@given(st.text(max_size=300))
def test_no_text_raises_anything_else(text):
    with pytest.raises(WrongKey):
        recovery_key(text)
    with pytest.raises(WrongKey):
        recovery_key(SHARES[0] + "\n" + text)
