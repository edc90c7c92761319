"""Sealing: round trips, and nothing but the right bytes in the right place opens."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import assume, given
from hypothesis import strategies as st

from megafs.crypto.seal import (
    ALGORITHM,
    HEADER_BYTES,
    NO_VAULT,
    TAG_BYTES,
    context,
    expand,
    open_sealed,
    plain_bytes,
    seal,
    sealed_bytes,
)
from megafs.errors import Unauthentic
from megafs.model import Kind, VaultId

KEY = bytes(range(32))
HERE = context(Kind.HEAD, 1, NO_VAULT, b"here")
SEGMENT = 16_384
LENGTHS = [0, 1, 15, 16, 17, 4096, SEGMENT - 1, SEGMENT, SEGMENT + 1]
LENGTHS += [2 * SEGMENT - 1, 2 * SEGMENT, 2 * SEGMENT + 1, 200_000, 16 * SEGMENT, 16 * SEGMENT + 1]

fields = st.lists(st.binary(max_size=6), max_size=4)
places = st.tuples(
    st.sampled_from(Kind), st.integers(0, 3) | st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32), fields
)


def refused(opener, attempts):
    """Which of these are wrongly accepted."""
    accepted = []
    for name, attempt in attempts:
        try:
            opener(attempt)
        except Unauthentic:
            continue
        accepted.append(name)
    return accepted


def opened_without_tags(sealed):
    """A careless reader: takes one segment's key stream and forgets tag and commitment."""
    derived = expand(KEY, ALGORITHM + sealed[:24] + HERE, 44)
    return AESGCM(derived[:32]).encrypt(derived[32:44], sealed[HEADER_BYTES:-TAG_BYTES], None)[:-TAG_BYTES]


@pytest.mark.parametrize("size", LENGTHS)
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_round_trip_of_every_length_class(size, form):
    plain = bytes(i * 7 & 255 for i in range(size))
    sealed = seal(KEY, HERE, form(plain))
    assert len(sealed) == sealed_bytes(size)
    assert plain_bytes(len(sealed)) == size
    assert type(sealed) is bytes
    assert open_sealed(KEY, HERE, form(sealed)) == plain
    assert type(open_sealed(KEY, HERE, form(sealed))) is bytes


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32), places)
def test_round_trip(plain, key, place):
    kind, epoch, vault, parts = place
    here = context(kind, epoch, VaultId(vault), *parts)
    assert open_sealed(key, here, seal(key, here, plain)) == plain


@given(places, places)
def test_contexts_are_injective(left, right):
    assume(left != right)
    assert context(left[0], left[1], VaultId(left[2]), *left[3]) != context(
        right[0], right[1], VaultId(right[2]), *right[3]
    )


def test_contexts_keep_field_borders():
    pairs = [([b"ab", b"c"], [b"a", b"bc"]), ([b""], []), ([b"a", b""], [b"a"]), ([b"\0\0\0\0"], [b"", b""])]
    for left, right in pairs:
        assert context(Kind.HEAD, 1, NO_VAULT, *left) != context(Kind.HEAD, 1, NO_VAULT, *right)
    # The control: joined without lengths, three of the four pairs are one and the same.
    assert sum(b"".join(left) == b"".join(right) for left, right in pairs) == 3


def test_the_same_bytes_never_look_the_same():
    sealed = [seal(KEY, HERE, b"same" * 100) for _ in range(100)]
    assert len({one[:24] for one in sealed}) == len({one[56:] for one in sealed}) == 100


@pytest.mark.parametrize("size", [0, 1, 40])
def test_every_flipped_bit(size):
    sealed = seal(KEY, HERE, bytes(size))

    def flips():
        for bit in range(8 * len(sealed)):
            forged = bytearray(sealed)
            forged[bit // 8] ^= 1 << bit % 8
            yield bit, bytes(forged)

    assert refused(lambda forged: open_sealed(KEY, HERE, forged), flips()) == []
    assert len(refused(opened_without_tags, flips())) == 8 * len(sealed), "the control finds what it should"


@pytest.mark.parametrize("size", [0, 1, 40, SEGMENT, SEGMENT + 3])
def test_every_truncation_and_extension(size):
    sealed = seal(KEY, HERE, bytes(size))
    tried = [(length, sealed[:length]) for length in range(len(sealed))]
    tried += [(-length, sealed + sealed[-length:]) for length in (1, 15, 16, 17, 40, 56)]
    if size > 1000:
        tried = tried[:200] + tried[SEGMENT - 20 :]
    tried.append((SEGMENT + 16, sealed + bytes(SEGMENT + 16)))
    assert refused(lambda forged: open_sealed(KEY, HERE, forged), tried) == []
    longer = [attempt for attempt in tried if len(attempt[1]) > len(sealed)]
    assert len(refused(lambda forged: open_sealed(KEY, HERE, forged[: len(sealed)]), longer)) == len(longer)


def test_segments_in_another_order():
    """A12: drop, repeat, swap segments, graft one of another object under the same key."""
    step = SEGMENT + TAG_BYTES
    sealed, other = (seal(KEY, HERE, bytes([n]) * (2 * SEGMENT + 9)) for n in (1, 2))
    head, one, two, last = (
        sealed[:56],
        sealed[56 : 56 + step],
        sealed[56 + step : 56 + 2 * step],
        sealed[56 + 2 * step :],
    )
    tried = {
        "swap": head + two + one + last,
        "drop the first": head + two + last,
        "drop the second": head + one + last,
        "drop the last": head + one + two,
        "only the last": head + last,
        "repeat": head + one + one + two + last,
        "repeat the last": head + one + two + last + last,
        "graft": head + one + other[56 + step : 56 + 2 * step] + last,
        "other header": other[:56] + one + two + last,
    }
    assert refused(lambda forged: open_sealed(KEY, HERE, forged), tried.items()) == []


@pytest.mark.parametrize("size", [*range(200), SEGMENT + 71, SEGMENT + 72, SEGMENT + 73, 40_000])
@pytest.mark.parametrize("fill", [b"\0", b"\1", b"\xff"])
def test_constant_bytes_never_open(size, fill):
    """A21: zeros are not a hole, they are a forgery."""
    with pytest.raises(Unauthentic):
        open_sealed(KEY, HERE, fill * size)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_unauthentic(data):
    with pytest.raises(Unauthentic):
        open_sealed(KEY, HERE, data)


def test_sealed_under_weak_keys():
    """A04: an object under the zero key, the one key, or a key that the bytes themselves suggest."""
    salt = seal(KEY, HERE, b"x")[:24]
    weak = [bytes(32), b"\1" * 32, b"\xff" * 32, salt + salt[:8], HERE[:32]]
    sealed = [(key.hex(), seal(key, HERE, b"forged")) for key in weak]
    assert refused(lambda forged: open_sealed(KEY, HERE, forged), sealed) == []
    assert len(refused(lambda forged: [open_sealed(key, HERE, forged) for key in weak[:1]], sealed)) == 1


def test_the_commitment_is_checked():
    """A39: with the right AES key but another commitment, a key-committing reader must refuse."""
    sealed = seal(KEY, HERE, b"two-faced")
    for commitment in (bytes(32), sealed[55:23:-1], seal(KEY, HERE, b"")[24:56]):
        forged = sealed[:24] + commitment + sealed[56:]
        with pytest.raises(Unauthentic):
            open_sealed(KEY, HERE, forged)
        assert opened_without_tags(forged) == b"two-faced", "the control: everything but the commitment is right"


def test_failures_say_nothing():
    sealed = seal(KEY, HERE, b"body")
    said = set()
    for forged in (b"", sealed[:-1], sealed[:30], bytes(72), sealed + b"x", sealed[:24] + bytes(32) + sealed[56:]):
        with pytest.raises(Unauthentic) as caught:
            open_sealed(KEY, HERE, forged)
        said.add(str(caught.value))
        assert caught.value.__cause__ is None
    assert len(said) == 1


@given(st.integers(0, 2**40))
def test_lengths_are_inverse(size):
    assert plain_bytes(sealed_bytes(size)) == size


def test_lengths_that_nothing_has():
    valid = {sealed_bytes(size) for size in range(40_000)}
    for length in range(max(valid)):
        if length in valid:
            continue
        with pytest.raises(Unauthentic):
            plain_bytes(length)
