"""Arithmetic of byte ranges of one file: what a write covers, what a read finds, where sequential data is cut. Pure.

Extents of the index, runs being sealed and dirty runs are all lists of ``Span``: sorted by start, none empty, none
overlapping. Functions take such lists and return new ones; ``Runs`` applies them in place to the dirty bytes of one
inode. Ranges are half-open and in bytes. Called for each FUSE read and write: long lists are bisected, never walked.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from megafs.model import Bytes

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")

START, STOP = attrgetter("start"), attrgetter("stop")  # bisect calls them in C, log2(n) times
Buffer = bytearray | memoryview  # a view: read-only, of bytes
KEPT_BYTES = 4 << 20  # a longer write is copied, so that a part of it that is left does not keep all of it
RUN_OVERHEAD_BYTES = 256  # a run's span, bytearray header and list entry, measured with tracemalloc and rounded up


class Span(NamedTuple, Generic[T_co]):
    """The bytes ``start <= i < stop`` of a file; byte ``start`` stands at ``skip`` in ``source``, which is opaque here
    (a chunk id, a token of a run in flight, a buffer; None: a hole). A tuple, because a read makes a dozen."""

    start: int
    stop: int
    source: T_co
    skip: int

    def part(self, start: int, stop: int) -> "Span[T_co]":
        """The same bytes, of a smaller range inside this one."""
        assert self.start <= start < stop <= self.stop
        return Span(start, stop, self.source, self.skip + start - self.start)


def touched(spans: Sequence[Span[T]], start: int, stop: int) -> tuple[int, int]:
    """Which spans share a byte with the range: ``spans[first:last]``, where first <= last."""
    first = bisect_right(spans, start, key=STOP)
    return first, max(first, bisect_left(spans, stop, first, key=START))


def clip(spans: Sequence[Span[T]], start: int, stop: int) -> list[Span[T]]:
    """Only what lies in the range."""
    if start >= stop or not spans:
        return []
    first, last = touched(spans, start, stop)
    found = list(spans[first:last])
    if found:
        if found[0].start < start:
            found[0] = found[0].part(start, found[0].stop)
        if found[-1].stop > stop:
            found[-1] = found[-1].part(found[-1].start, stop)
    return found


def _replace(spans: list[Span[T]], start: int, stop: int, new: list[Span[T]]) -> None:
    """In place: trim, split and remove what the range covers, and put ``new``, which lies in the range, there."""
    assert start < stop
    first, last = touched(spans, start, stop)
    if first < last:
        head, tail = spans[first], spans[last - 1]
        if head.start < start:
            new = [head.part(head.start, start), *new]
        if tail.stop > stop:
            new = [*new, tail.part(stop, tail.stop)]
    spans[first:last] = new


def subtract(spans: Sequence[Span[T]], start: int, stop: int) -> list[Span[T]]:
    """Without what the range covers: trimmed, split in two, or gone."""
    left = list(spans)
    if start < stop:
        _replace(left, start, stop, [])
    return left


def cover(spans: Sequence[Span[T]], new: Span[U]) -> list[Span[T | U]]:
    """With ``new`` in place of whatever it covers."""
    covered: list[Span[T | U]] = list(spans)
    _replace(covered, new.start, new.stop, [new])
    return covered


def truncate(spans: Sequence[Span[T]], size: int) -> list[Span[T]]:
    """Without what lies at or beyond ``size``."""
    left = list(spans[: bisect_left(spans, size, key=START)])
    if left and left[-1].stop > size:
        left[-1] = left[-1].part(left[-1].start, size)
    return left


def gaps(spans: Sequence[Span[T]], start: int, stop: int) -> list[tuple[int, int]]:
    """The parts of the range, as (start, stop), that no span covers."""
    return _between(clip(spans, start, stop), start, stop)


def _between(clipped: Sequence[Span[T]], start: int, stop: int) -> list[tuple[int, int]]:
    """The gaps around spans that all lie in the range."""
    found = []
    at = start
    for span in clipped:
        if at < span.start:
            found.append((at, span.start))
        at = span.stop
    if at < stop:
        found.append((at, stop))
    return found


def total(spans: Sequence[Span[T]]) -> int:
    """Bytes covered."""
    return sum([span.stop - span.start for span in spans])


def overlay(layers: Sequence[Sequence[Span[T]]], start: int, stop: int) -> list[Span[T | None]]:
    """Partition the range into segments, each from the topmost layer that covers it, or a hole (source None, skip 0).

    Layers stand bottom first: extents, runs in flight, dirty runs. Works from the top down: each lower layer only
    fills the gaps left, so the cost follows the number of segments in the range, not the length of the layers.
    """
    found: list[Span[T | None]] = []
    for layer in reversed(layers):
        if not layer:
            continue
        if not found:
            found = list(clip(layer, start, stop))
        elif free := _between(found, start, stop):
            for low, high in free:
                found += clip(layer, low, high)
            found.sort(key=START)
    if free := _between(found, start, stop):
        found += [Span(low, high, None, 0) for low, high in free]
        found.sort(key=START)
    return found


def cut(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """Partition the range at multiples of ``size`` in the file, so that rewriting a region finds the same cuts."""
    edges = [start, *range((start // size + 1) * size, stop, size), stop]
    return list(pairwise(edges)) if start < stop else []


def gather(spans: Sequence[Span[T]], limit: int) -> list[list[Span[T]]]:
    """Which runs of one flush share a chunk: those of ``limit`` bytes or more stand alone, smaller ones are put
    together in file order up to ``limit`` in all. Concatenating a group gives the chunk's plaintext."""
    groups: list[list[Span[T]]] = []
    small: list[Span[T]] = []
    held = 0
    for span in spans:
        length = span.stop - span.start
        if length >= limit:
            groups.append([span])
            continue
        if held + length > limit:
            groups.append(small)
            small, held = [], 0
        small.append(span)
        held += length
    return [*groups, small] if small else groups


class Runs:
    """The dirty bytes of one inode: accepted, not yet taken to be sealed. One owner: the inode's content.

    Each run lies in one window of ``size`` bytes of the file (so runs are chunks already) and owns its bytearray, to
    which sequential writes are appended: as fast as joining pieces (2 GiB/s here), and a
    million appends of one byte stay a million bytes. A window that one write fills is kept as a view of what was
    written, and copied only when it is written again. Nobody holds a memoryview of ``spans`` across an await: their
    bytes may grow and change. What was taken is never touched again.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.spans: list[Span[Buffer]] = []
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self.spans)

    @property
    def memory_bytes(self) -> int:
        """What to count against the limit for dirty data: many tiny runs cost more than their bytes."""
        return self.bytes + RUN_OVERHEAD_BYTES * len(self.spans)

    @property
    def stop(self) -> int:
        """The byte after the last dirty one; 0 without any."""
        return self.spans[-1].stop if self.spans else 0

    def add(self, start: int, data: Bytes) -> None:
        """Accept a write."""
        if not data:
            return
        stop = start + len(data)
        if start // self.size == (stop - 1) // self.size:
            self._add(start, stop, data)
            return
        view = memoryview(data)
        # Views keep all of ``data``, so they must be at least half of it.
        may_keep = view.readonly and 2 * self.size <= len(data) <= KEPT_BYTES
        for low, high in cut(start, stop, self.size):
            part = view[low - start : high - start]
            if may_keep and high - low == self.size:
                self.subtract(low, high)
                self.spans.insert(bisect_left(self.spans, low, key=START), Span(low, high, part, 0))
                self.bytes += self.size
            else:
                self._add(low, high, part)

    def _add(self, start: int, stop: int, data: Bytes) -> None:
        """A write inside one window: into the run that it continues or begins in, else as a run of its own."""
        if not self.spans:
            self.spans.append(Span(start, stop, bytearray(data), 0))
            self.bytes += stop - start
            return
        at = bisect_left(self.spans, start, key=STOP)
        if start % self.size == 0 and at < len(self.spans) and self.spans[at].stop == start:
            at += 1  # it ends where this window begins: full, or of the window before
        if at < len(self.spans) and (run := self.spans[at]).start <= start:
            if stop <= run.stop or run.stop % self.size:
                run = self._own(at)
            source, where = run.source, run.skip + start - run.start
            if stop <= run.stop:
                source[where : where + len(data)] = data
                return
            if run.skip + run.stop - run.start == len(run.source):  # its bytes end where the buffer ends
                self.subtract(run.stop, stop)
                source[where:] = data
                self.spans[at] = Span(run.start, stop, source, run.skip)
                self.bytes += stop - run.stop
                return
        self.subtract(start, stop)
        self.spans.insert(bisect_left(self.spans, start, key=START), Span(start, stop, bytearray(data), 0))
        self.bytes += stop - start

    def _own(self, at: int) -> Span[Buffer]:
        """The run, its bytes in a buffer that may change."""
        run = self.spans[at]
        if not isinstance(run.source, bytearray):
            held = bytearray(run.source[run.skip : run.skip + run.stop - run.start])
            run = self.spans[at] = Span(run.start, run.stop, held, 0)
        return run

    def subtract(self, start: int, stop: int) -> None:
        """Forget what the range covers."""
        first, last = touched(self.spans, start, stop)
        if start >= stop or first == last:
            return
        lost = total(clip(self.spans[first:last], start, stop))
        _replace(self.spans, start, stop, [])
        self.bytes -= lost
        if (
            last - first == 1
            and len(self.spans) > first + 1
            and self.spans[first].source is self.spans[first + 1].source
        ):
            # Split in two: the second gets a buffer of its own, because the first may be taken while the second grows.
            rest = self.spans[first + 1]
            held = rest.source[rest.skip : rest.skip + rest.stop - rest.start]
            self.spans[first + 1] = Span(rest.start, rest.stop, held, 0)

    def truncate(self, size: int) -> None:
        """Forget what lies at or beyond ``size``."""
        self.subtract(size, max(size, self.stop))

    def take(self, max_bytes: int) -> list[Span[Buffer]]:
        """Remove and return the first runs: as many as fit into ``max_bytes``, at least one if there is one."""
        count = held = 0
        for span in self.spans:
            held += span.stop - span.start
            if held > max_bytes and count:
                break
            count += 1
        taken, self.spans = self.spans[:count], self.spans[count:]
        self.bytes -= total(taken)
        return taken

    def take_full(self) -> list[Span[Buffer]]:
        """Remove and return the runs that fill their window: waiting longer would not make their chunks larger."""
        taken = [span for span in self.spans if span.stop - span.start == self.size]
        if taken:
            self.spans = [span for span in self.spans if span.stop - span.start != self.size]
            self.bytes -= len(taken) * self.size
        return taken

    def take_all(self) -> list[Span[Buffer]]:
        """Remove and return everything."""
        taken, self.spans, self.bytes = self.spans, [], 0
        return taken
