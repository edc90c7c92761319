"""The range reader gives what the library gives, and refuses what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.crypto.partial import cover, open_range
from megafs.crypto.seal import NO_VAULT, context, open_sealed, seal
from megafs.errors import Unauthentic
from megafs.model import Kind

KEY = bytes(range(32))
HERE = context(Kind.CHUNK, 1, NO_VAULT, b"here")
SEGMENT = 16_384
LENGTHS = [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 3 * SEGMENT + 5]
PLAIN = bytes(i * i >> 4 & 255 for i in range(max(LENGTHS)))
SEALED = {size: seal(KEY, HERE, PLAIN[:size]) for size in LENGTHS}


def ranged(sealed, total, start, stop, key=KEY, here=HERE):
    low, high = cover(total, start, stop)
    return open_range(key, here, total_bytes=total, start=start, stop=stop, header=sealed[:56], part=sealed[low:high])


@given(st.data())
def test_every_range_is_what_the_library_opens(data):
    size = data.draw(st.sampled_from(LENGTHS))
    near = st.sampled_from([n for k in range(4) for n in (k * SEGMENT - 1, k * SEGMENT, k * SEGMENT + 1)])
    place = (near | st.integers(0, size)).map(lambda n: min(max(n, 0), size))
    start, stop = sorted((data.draw(place), data.draw(place)))
    assert ranged(SEALED[size], size, start, stop) == open_sealed(KEY, HERE, SEALED[size])[start:stop]


def test_only_what_is_needed_is_asked_for():
    total = 3 * SEGMENT + 5
    assert cover(total, 0, 1) == (56, 56 + SEGMENT + 16)
    assert cover(total, SEGMENT, 2 * SEGMENT) == (56 + SEGMENT + 16, 56 + 2 * (SEGMENT + 16))
    assert cover(total, 3 * SEGMENT, total) == (56 + 3 * (SEGMENT + 16), 56 + 3 * (SEGMENT + 16) + 21)
    assert cover(total, total, total) == (56 + 3 * (SEGMENT + 16), 56 + 3 * (SEGMENT + 16) + 21)
    assert cover(SEGMENT, 0, SEGMENT) == (56, 56 + SEGMENT + 32)
    assert cover(SEGMENT, SEGMENT, SEGMENT) == (56 + SEGMENT + 16, 56 + SEGMENT + 32)


@given(st.data())
def test_a_flipped_bit_in_what_was_fetched(data):
    total = 3 * SEGMENT + 5
    start, stop = sorted((data.draw(st.integers(0, total)), data.draw(st.integers(0, total))))
    low, high = cover(total, start, stop)
    place = data.draw(st.integers(0, 55) | st.integers(low, high - 1))
    forged = bytearray(SEALED[total])
    forged[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Unauthentic):
        ranged(bytes(forged), total, start, stop)


def test_wrong_key_context_place_or_length():
    """A34."""
    total = 3 * SEGMENT + 5
    sealed = SEALED[total]
    assert ranged(sealed, total, 0, 10) == PLAIN[:10]
    step = SEGMENT + 16
    moved = sealed[:56] + sealed[56 + step : 56 + 2 * step] + sealed[56 : 56 + step] + sealed[56 + 2 * step :]
    for attempt in (
        lambda: ranged(sealed, total, 0, 10, key=bytes(32)),
        lambda: ranged(sealed, total, 0, 10, here=HERE + b"x"),
        lambda: ranged(moved, total, 0, 10),
        lambda: ranged(sealed, total + 1, total - 4, total),
        lambda: ranged(sealed, total - 1, total - 4, total - 1),
        lambda: ranged(sealed, total + SEGMENT, total, total + SEGMENT),
        lambda: ranged(sealed[:40], total, 0, 10),
        lambda: ranged(b"", total, 0, 10),
        lambda: ranged(sealed[:1000], total, 0, 10),
        lambda: ranged(bytes(len(sealed)), total, 0, 10),
    ):
        with pytest.raises(Unauthentic):
            attempt()


def test_reaching_the_end_proves_the_end():
    """A27."""
    sealed = SEALED[3 * SEGMENT]
    cut = sealed[:-1] + bytes([sealed[-1] ^ 1])
    assert ranged(cut, 3 * SEGMENT, 0, 3 * SEGMENT - 1) == PLAIN[: 3 * SEGMENT - 1]
    with pytest.raises(Unauthentic):
        ranged(cut, 3 * SEGMENT, 0, 3 * SEGMENT)
