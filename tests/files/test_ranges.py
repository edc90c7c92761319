"""ranges against a bytearray with a mask for holes: what cannot be wrong."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from megafs.files import ranges
from megafs.files.ranges import Runs, Span

SIZE = 64  # bytes of the files below; small, so that ranges touch
offsets = st.integers(0, SIZE)
writes = st.lists(st.tuples(offsets, st.integers(1, 16)), max_size=12)


def in_order(spans):
    return all(span.start < span.stop and span.skip >= 0 for span in spans) and all(
        before.stop <= after.start for before, after in pairwise(spans)
    )


def painted(spans, size=SIZE + 16):
    """Byte by byte, (source, position in source) or None: the slow truth about a list of spans."""
    cells = [None] * size
    for span in spans:
        for i in range(span.start, span.stop):
            assert cells[i] is None, "spans overlap"
            cells[i] = (span.source, span.skip + i - span.start)
    return cells


def layer(pairs, tag=""):
    """Spans as a history of writes leaves them."""
    spans = []
    for number, (start, length) in enumerate(pairs):
        spans = ranges.cover(spans, Span(start, start + length, f"{tag}{number}", 100 * number))
    return spans


@given(writes)
def test_cover_is_a_write(pairs):
    cells = [None] * (SIZE + 16)
    for number, (start, length) in enumerate(pairs):
        for i in range(length):
            cells[start + i] = (f"{number}", 100 * number + i)
    spans = layer(pairs)
    assert in_order(spans)
    assert painted(spans) == cells
    assert ranges.total(spans) == sum(cell is not None for cell in cells)


@given(writes, offsets, offsets)
def test_subtract_clip_and_gaps_share_out_a_range(pairs, start, stop):
    spans = layer(pairs)
    before = list(spans)
    cells = painted(spans)
    inside = [start <= i < stop for i in range(len(cells))]
    left, clipped = ranges.subtract(spans, start, stop), ranges.clip(spans, start, stop)
    assert in_order(left)
    assert in_order(clipped)
    assert painted(left) == [None if within else cell for cell, within in zip(cells, inside, strict=True)]
    assert painted(clipped) == [cell if within else None for cell, within in zip(cells, inside, strict=True)]
    empty = {i for low, high in ranges.gaps(spans, start, stop) for i in range(low, high)}
    assert empty == {i for i in range(len(cells)) if inside[i] and cells[i] is None}
    assert spans == before, "the caller's list is left alone"


@given(writes, offsets)
def test_truncate(pairs, size):
    spans = layer(pairs)
    assert painted(ranges.truncate(spans, size)) == painted(spans)[:size] + [None] * (SIZE + 16 - size)


@given(st.lists(writes, max_size=4), offsets, offsets)
def test_overlay_partitions_the_range_and_the_top_wins(histories, start, stop):
    layers = [layer(pairs, tag) for tag, pairs in zip("abcd", histories, strict=False)]
    truth = [None] * (SIZE + 16)
    for spans in layers:
        truth = [over or under for over, under in zip(painted(spans), truth, strict=True)]
    segments = ranges.overlay(layers, start, stop)
    assert in_order(segments)
    if start < stop:
        assert (segments[0].start, segments[-1].stop) == (start, stop)
        assert all(before.stop == after.start for before, after in pairwise(segments))
    else:
        assert segments == []
    for segment in segments:
        for i in range(segment.start, segment.stop):
            here = None if segment.source is None else (segment.source, segment.skip + i - segment.start)
            assert here == truth[i]


def test_the_oracle_catches_a_wrong_order_of_layers():
    low, high = [Span(0, 4, "low", 0)], [Span(0, 4, "high", 0)]
    assert ranges.overlay([low, high], 0, 4) == high
    assert ranges.overlay([high, low], 0, 4) != high


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 0, []),
        (5, 5, []),
        (0, 10, [(0, 10)]),
        (0, 25, [(0, 10), (10, 20), (20, 25)]),
        (9, 11, [(9, 10), (10, 11)]),
        (10, 20, [(10, 20)]),
        (13, 14, [(13, 14)]),
    ],
)
def test_cut_at_multiples_in_the_file(start, stop, expected):
    assert ranges.cut(start, stop, 10) == expected


@given(st.lists(st.integers(1, 9), max_size=30))
def test_gather_keeps_everything_and_its_limit(lengths):
    spans, at = [], 0
    for length in lengths:
        spans.append(Span(at, at + length, "x", at))
        at += length + 1
    groups = ranges.gather(spans, 6)
    assert sorted((span for group in groups for span in group), key=ranges.START) == spans
    for group in groups:
        assert in_order(group)
        assert ranges.total(group) <= 6 or len(group) == 1
    shared = [ranges.total(group) for group in groups if all(span.stop - span.start < 6 for span in group)]
    assert all(first + second > 6 // 2 for first, second in pairwise(shared)), "no group is left nearly empty"


class RunsMachine(RuleBasedStateMachine):
    """Runs against a bytearray of the dirty bytes and a mask of which they are; taken runs must never change."""

    WINDOW = 16

    def __init__(self):
        super().__init__()
        self.runs = Runs(self.WINDOW)
        self.content = bytearray(2 * SIZE)
        self.mask = bytearray(2 * SIZE)
        self.taken = []

    def took(self, spans):
        assert in_order(spans)
        for span in spans:
            data = bytes(span.source[span.skip : span.skip + span.stop - span.start])
            assert data == self.content[span.start : span.stop]
            assert all(self.mask[span.start : span.stop])
            self.mask[span.start : span.stop] = bytes(len(data))
            self.taken.append((span, bytes(span.source)))

    @rule(start=offsets, data=st.binary(max_size=40), kind=st.sampled_from([bytes, bytearray, memoryview]))
    def add(self, start, data, kind):
        self.runs.add(start, kind(data))
        self.content[start : start + len(data)] = data
        self.mask[start : start + len(data)] = b"\1" * len(data)

    @rule(data=st.binary(min_size=1, max_size=8))
    def append(self, data):
        if self.runs.stop + len(data) <= 2 * SIZE:
            self.add(self.runs.stop, data, bytes)

    @rule(start=offsets, stop=offsets)
    def subtract(self, start, stop):
        self.runs.subtract(start, stop)
        self.mask[start:stop] = bytes(max(0, stop - start))

    @rule(size=offsets)
    def truncate(self, size):
        self.runs.truncate(size)
        self.mask[size:] = bytes(2 * SIZE - size)

    @rule(max_bytes=st.integers(1, 50))
    def take(self, max_bytes):
        had = bool(self.runs)
        taken = self.runs.take(max_bytes)
        assert bool(taken) is had
        assert ranges.total(taken) <= max_bytes or len(taken) == 1
        self.took(taken)

    @rule()
    def take_full(self):
        taken = self.runs.take_full()
        assert all(span.stop - span.start == self.WINDOW for span in taken)
        self.took(taken)

    @precondition(lambda self: self.runs.spans)
    @rule()
    def take_all(self):
        self.took(self.runs.take_all())
        assert not self.runs

    @invariant()
    def agrees(self):
        spans = self.runs.spans
        assert in_order(spans)
        assert self.runs.bytes == ranges.total(spans) == sum(self.mask)
        assert all(span.start // self.WINDOW == (span.stop - 1) // self.WINDOW for span in spans)
        for span in spans:
            assert span.source[span.skip : span.skip + span.stop - span.start] == self.content[span.start : span.stop]
            assert all(self.mask[span.start : span.stop])
        assert all(span.source == before for span, before in self.taken), "what was taken never changes"
        buffers = [id(span.source) for span in spans]
        assert len(set(buffers)) == len(buffers), "each run owns its buffer"


TestRuns = RunsMachine.TestCase


def test_a_million_appends_of_a_byte_stay_one_run_a_window():
    runs = Runs(1 << 18)
    for start in range(1 << 20):
        runs.add(start, b"x")
    assert len(runs.spans) == 4
    assert runs.bytes == 1 << 20
    assert runs.memory_bytes < 2 << 20


def test_rewriting_a_page_takes_no_memory():
    runs = Runs(1 << 18)
    for _ in range(1000):
        runs.add(4096, bytes(4096))
    assert len(runs.spans) == 1
    assert len(runs.spans[0].source) == 4096
