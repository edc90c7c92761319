"""How far is read ahead: it doubles, it has a bound, and a few kilobytes of a large file stay a few kilobytes."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from megafs.config import KIB, MIB
from megafs.files.ahead import DISORDER_BYTES, NEAR_BYTES, ReadAhead
from megafs.model import Ino

FILE = Ino(7)


def streamed(ahead, size, step, *, shuffled=None):
    """The ranges asked for while ``size`` bytes are read from the front, ``step`` at a time."""
    starts = list(range(0, size, step))
    if shuffled is not None:  # neighbours change places, as the kernel's requests do
        for at in range(0, len(starts) - 1, 2):
            if shuffled.random() < 0.5:
                starts[at], starts[at + 1] = starts[at + 1], starts[at]
    return [found for start in starts if (found := ahead.note(FILE, start, start + step)) is not None]


def test_a_thumbnail_brings_no_more_than_it_read():
    for read in (4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB):
        ranges = streamed(ReadAhead(), read, 4 * KIB)
        assert all(stop <= 2 * read for _, stop in ranges)


def test_jumps_bring_nothing():
    ahead, chance = ReadAhead(), random.Random(1)
    for _ in range(1000):
        start = chance.randrange(0, 1 << 40, 2 * DISORDER_BYTES)
        assert ahead.note(FILE, start, start + 128 * KIB) is None


def test_what_is_asked_for_doubles_up_to_the_reach():
    for reach in (NEAR_BYTES, 16 * MIB):
        ahead = ReadAhead()
        ahead.note(FILE, 0, 128 * KIB)
        ahead.set_reach(FILE, reach)
        most, before = 0, 0
        for start in range(128 * KIB, 100 * MIB, 128 * KIB):
            found = ahead.note(FILE, start, start + 128 * KIB)
            if found is not None:
                assert found[1] - (start + 128 * KIB) <= max(2 * before, 256 * KIB), "at most doubled"
                before = found[1] - (start + 128 * KIB)
                most = max(most, before)
        assert most == reach


@given(st.integers(1, 1024), st.integers(0, 1 << 30), st.booleans())
def test_reading_on_finds_everything_brought_once(kilobytes, seed, is_shuffled):
    step, size = kilobytes * KIB // (1 + is_shuffled), 40 * MIB
    ranges = streamed(ReadAhead(), size, step, shuffled=random.Random(seed) if is_shuffled else None)
    assert all(low < high for low, high in ranges)
    assert all(before[1] <= after[0] for before, after in pairwise(ranges)), "nothing twice"
    covered = sum(min(high, size) - min(low, size) for low, high in ranges)
    assert covered >= size - 3 * step - DISORDER_BYTES, "all but the head is there before it is asked for"


def test_a_file_that_is_forgotten_begins_anew():
    ahead = ReadAhead()
    streamed(ahead, MIB, 128 * KIB)
    ahead.forget(FILE)
    assert ahead.note(FILE, MIB, MIB + 4096) is None
