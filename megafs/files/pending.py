"""Content that the index does not know yet: dirty runs, and runs flying (being sealed in a thread). No trio, no disk.

Both layers are trimmed by the same pure functions when a range is overwritten or truncated, so what a late batch
brings is only what is still current. Owner: files.content, which moves runs through ``take`` and then ``land`` or
``refuse``.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from megafs.files.ranges import START, Buffer, Runs, Span, cover, gaps, gather, total, truncate
from megafs.model import Ino


@dataclass(slots=True, eq=False)
class Part:
    """One run on its way into a chunk, of which it is ``base`` bytes from the beginning."""

    ino: Ino
    start: int
    stop: int
    data: Buffer
    skip: int  # where in ``data`` the byte at ``start`` stands
    base: int

    def bytes(self) -> bytes | bytearray | memoryview:
        """The run's bytes; no copy where the run is its whole buffer."""
        size = self.stop - self.start
        return self.data if size == len(self.data) else memoryview(self.data)[self.skip : self.skip + size]


Group = list[Part]  # parts of one file that become one chunk


@dataclass(slots=True)
class Node:
    """What is pending of one file; dropped when nothing is."""

    runs: Runs
    flying: list[Span[Part]] = field(default_factory=list)


class Pending:
    """Owner of all nodes and of the memory they hold."""

    def __init__(self) -> None:
        self.nodes: dict[Ino, Node] = {}
        self.dirty = 0  # memory of dirty runs
        self.aloft = 0  # bytes taken and not yet landed or refused
        self._full: set[Ino] = set()  # files with a run that fills its window: worth sealing before anything asks

    def write(self, ino: Ino, start: int, data: bytes, window: int) -> bool:
        """Accept; ``window`` counts for a file that has nothing pending. Returns whether a run became full."""
        node = self.nodes.get(ino)
        if node is None:
            node = self.nodes[ino] = Node(Runs(window))
        runs = node.runs
        before = runs.memory_bytes
        runs.add(start, data)
        self.dirty += runs.memory_bytes - before
        if len(data) >= runs.size or (start + len(data)) % runs.size == 0:
            self._full.add(ino)
            return True
        return False

    def truncate(self, ino: Ino, size: int) -> None:
        """Forget what lies at or beyond ``size``."""
        node = self.nodes.get(ino)
        if node is None:
            return
        before = node.runs.memory_bytes
        node.runs.truncate(size)
        self.dirty += node.runs.memory_bytes - before
        node.flying = truncate(node.flying, size)
        self._drop_if_empty(ino, node)

    def forget(self, ino: Ino) -> None:
        """Forget everything about the file."""
        node = self.nodes.pop(ino, None)
        if node is not None:
            self.dirty -= node.runs.memory_bytes
            self._full.discard(ino)

    def size(self, ino: Ino, indexed: int) -> int:
        """The file's size, given what the index says."""
        node = self.nodes.get(ino)
        if node is None:
            return indexed
        return max(indexed, node.runs.stop, node.flying[-1].stop if node.flying else 0)

    def bytes(self, ino: Ino) -> int:
        """Bytes of content pending."""
        node = self.nodes.get(ino)
        return 0 if node is None else node.runs.bytes + total(node.flying)

    def _drop_if_empty(self, ino: Ino, node: Node) -> None:
        if not node.runs and not node.flying and self.nodes.get(ino) is node:
            del self.nodes[ino]

    def take(self, batch_bytes: int, shared_bytes: int, *, everything: bool) -> list[list[Group]]:
        """Batches of groups to seal: full runs, or all. Runs shorter than ``shared_bytes`` of one file share a
        chunk."""
        batches: list[list[Group]] = []
        held = batch_bytes
        inos = list(self.nodes) if everything else list(self._full)
        self._full.clear()
        for ino in inos:
            node = self.nodes.get(ino)
            if node is None or not node.runs:
                continue
            before = node.runs.memory_bytes
            taken = node.runs.take_all() if everything else node.runs.take_full()
            self.dirty += node.runs.memory_bytes - before
            for spans in gather(taken, shared_bytes):
                size = total(spans)
                if held + size > batch_bytes:
                    batches.append([])
                    held = 0
                batches[-1].append(self._depart(ino, node, spans))
                held += size
        return batches

    def _depart(self, ino: Ino, node: Node, spans: Sequence[Span[Buffer]]) -> Group:
        group = []
        base = 0
        for span in spans:
            part = Part(ino, span.start, span.stop, span.source, span.skip, base)
            flying = Span(span.start, span.stop, part, span.skip)
            if not node.flying or node.flying[-1].stop <= span.start:
                node.flying.append(flying)
            else:
                node.flying = cover(node.flying, flying)
            base += span.stop - span.start
            group.append(part)
        self.aloft += base
        return group

    def land(self, group: Group) -> list[tuple[Part, list[Span[Part]]]]:
        """The group is stored. Returns what of it is still current, per part, and forgets it here."""
        current = []
        for part in group:
            self.aloft -= part.stop - part.start
            node = self.nodes.get(part.ino)
            if node is None:
                continue
            # Thousands of small runs of one file may be flying: what is left of this one is where it was.
            low = bisect_left(node.flying, part.start, key=START)
            high = bisect_left(node.flying, part.stop, lo=low, key=START)
            there = node.flying[low:high]
            mine = [span for span in there if span.source is part]
            if mine:
                node.flying[low:high] = [span for span in there if span.source is not part]
                current.append((part, mine))
            self._drop_if_empty(part.ino, node)
        return current

    def refuse(self, group: Group) -> None:
        """The group could not be stored: what is still current is dirty again, below whatever was written since."""
        for part, spans in self.land(group):
            node = self.nodes.get(part.ino)
            if node is None:
                node = self.nodes[part.ino] = Node(Runs(max(part.stop - part.start, 1 << 16)))
            before = node.runs.memory_bytes
            for span in spans:
                offset = span.skip - span.start
                for start, stop in gaps(node.runs.spans, span.start, span.stop):
                    node.runs.add(start, memoryview(part.data)[start + offset : stop + offset])
            self.dirty += node.runs.memory_bytes - before
