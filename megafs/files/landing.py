"""What was sealed becomes rows: a chunk and the extents that show it, for what of a batch is still current.

Called by files.content when a batch is in its pack. Between the last sync of a commit and its COMMIT landings are held
(files.commit), so the index never names bytes that are not synced. Many land in slices: no request waits for all.
"""

from collections import deque
from collections.abc import Iterable

import trio

from megafs.files.pending import Group, Pending
from megafs.files.settle import SMALL_BYTES, Settler
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.model import ChunkPlace

PARTS_A_SLICE = 64  # landed between two looks at other tasks: about a millisecond

Arrival = tuple[Group, ChunkPlace | None]  # None: all zeros, a hole


class Landing:
    """Owner of what is held."""

    def __init__(self, extents: Extents, inodes: Inodes, pending: Pending, settler: Settler) -> None:
        self._extents, self._inodes, self._pending, self._settler = extents, inodes, pending, settler
        self._held: deque[Arrival] | None = None

    def hold(self) -> None:
        """From now on landings wait: the sync that covers everything landed so far begins."""
        assert self._held is None
        self._held = deque()

    async def release(self) -> None:
        """The COMMIT is done, or given up. What arrives meanwhile lands behind what was held."""
        try:
            if self._held is not None:
                await self._land_all(self._held, were_held=True)
        finally:
            self._held = None

    async def arrived(self, arrivals: Iterable[Arrival]) -> None:
        """A batch is in its pack: it lands, or is held."""
        await self._land_all(deque(arrivals), were_held=False)

    async def _land_all(self, arrivals: deque[Arrival], *, were_held: bool) -> None:
        try:
            parts = 0
            while arrivals:
                if self._held is not None and not were_held:
                    self._held.extend(arrivals)
                    return
                group, place = arrivals.popleft()
                self._land(group, place)
                parts += len(group)
                if parts >= PARTS_A_SLICE and arrivals:
                    parts = 0
                    await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            while arrivals:
                self._land(*arrivals.popleft())
            raise

    def _land(self, group: Group, place: ChunkPlace | None) -> None:
        landed = self._pending.land(group)
        if not landed:
            return
        known = self._inodes.get(group[0].ino)
        fresh = known is not None and not known.stored  # nothing of it was stored before, so nothing is covered
        if place is not None:
            self._extents.add_chunk(place)
        stop = added = 0
        for part, spans in landed:
            for span in spans:
                if place is None:
                    added -= self._extents.clear(part.ino, span.start, span.stop)
                else:
                    skip = part.base + span.skip - part.skip
                    rows = [(span.start, span.stop, place.chunk, skip)]
                    added += self._extents.write(part.ino, rows, fresh=fresh)
                    if span.stop - span.start < SMALL_BYTES:
                        self._settler.note(part.ino, span.start)
            stop = max(stop, spans[-1].stop)
        self._inodes.grow(group[0].ino, stop, added)
