"""Packs less than half alive, and many small ones, are written together into new ones; the old ones die.

Chosen purely from rows; the live chunks are read (here, else from hosts) and appended as they are: a chunk is sealed
for its id, not for its place. Those of a former epoch are sealed anew; once the owner has asked for it (``--deep``),
all of them are, a round after the other. The rows move after the bytes are synced, and only those of chunks that are
still where they were. What became of the old packs is for sync.collect.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from megafs.config import MIB
from megafs.crypto.keys import Keyring
from megafs.crypto.seal import digest
from megafs.errors import MegaFSError, Unavailable
from megafs.index.extents import Extents
from megafs.index.packs import SHIPPED, Packs
from megafs.model import ChunkPlace, Pack, PackNumber
from megafs.store.disk import Disk
from megafs.store.reader import Fetcher
from megafs.store.writer import PackWriter
from megafs.sync.ship import Commits

log = logging.getLogger(__name__)

SMALL_BYTES = 4 * MIB  # packs below this are merged …
SMALL_TOTAL_BYTES = 16 * MIB  # … once there is enough for a full one
ROUND_BYTES = 32 * MIB  # moved at a time: the rest waits for the next look
BATCH_BYTES, BATCH_CHUNKS = MIB, 1_000  # of one trip to a thread
SLICE_ROWS = 100  # moved between two looks at other tasks: about 2 ms
WAITING_PACKS = 2  # while more than these are not shipped, nothing is sealed anew: it is not urgent


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How much of a closed pack is alive, in bytes."""

    number: PackNumber
    stored: int
    live: int


def chosen(fillings: Sequence[Filling], round_bytes: int = ROUND_BYTES) -> list[PackNumber]:
    """Which packs to empty now: the deadest of those less than half alive, then all small ones if they fill a pack.
    Pure."""
    sparse = sorted(
        (each for each in fillings if each.live * 2 < each.stored), key=lambda each: each.live / each.stored
    )
    small = [each for each in fillings if each.stored < SMALL_BYTES and each not in sparse]
    if sum(each.live for each in small) < SMALL_TOTAL_BYTES:
        small = []
    picked: list[PackNumber] = []
    total = 0
    for each in [*sparse, *small]:
        if total + each.live <= round_bytes:
            picked.append(each.number)
            total += each.live
    return picked


def chosen_to_reseal(fillings: Sequence[Filling], round_bytes: int) -> list[PackNumber]:
    """Which packs to seal anew now, the oldest first; at least one. Pure."""
    picked: list[PackNumber] = []
    total = 0
    for each in sorted(fillings, key=lambda each: each.number):
        if picked and total + each.live > round_bytes:
            break
        picked.append(each.number)
        total += each.live
    return picked


def batches(places: Sequence[ChunkPlace]) -> Iterator[Sequence[ChunkPlace]]:
    """What is read and written by one trip to a thread: a pack may hold fifty thousand chunks. Pure."""
    first = size = 0
    for number, place in enumerate(places):
        if number > first and (size + place.sealed_bytes > BATCH_BYTES or number - first == BATCH_CHUNKS):
            yield places[first:number]
            first, size = number, 0
        size += place.sealed_bytes
    yield places[first:]


def resealed(
    keyring: Keyring, epoch: int, chunks: Sequence[tuple[ChunkPlace, bytes]]
) -> list[tuple[ChunkPlace, bytes]]:
    """Thread. Chunks of ``epoch`` as the newest one seals them: as long as before, id and plaintext are the same."""
    anew = []
    for place, sealed in chunks:
        plain = keyring.open_chunk(epoch, place, sealed)
        data = keyring.seal_chunk(place.chunk, place.codec, place.plain_bytes, plain)
        anew.append((place._replace(digest=digest(data)), data))
    return anew


class Compactor:
    """Owner of nothing: every look begins with the rows."""

    def __init__(
        self,
        *,
        packs: Packs,
        extents: Extents,
        writer: PackWriter,
        disk: Disk,
        fetcher: Fetcher,
        commits: Commits,
        may_run: Callable[[], bool],
        deep_epoch: Callable[[], int],
    ) -> None:
        """``may_run`` says whether this device may write now, ``deep_epoch`` that all of earlier epochs is sealed anew
        (0: what is compacted)."""
        self._packs, self._extents, self._writer, self._disk = packs, extents, writer, disk
        self._fetcher, self._commits, self._may_run, self._deep_epoch = fetcher, commits, may_run, deep_epoch
        self.moved = self.resealed = 0
        self.round_bytes = ROUND_BYTES

    def fillings(self, before_epoch: int = 0) -> list[Filling]:
        """Of every shipped pack that still holds something, or of those of earlier epochs."""
        found = []
        for pack in self._packs.all():
            local = self._packs.local(pack.number)
            is_shipped = pack.stored_bytes > 0 and (local is None or local[1] == SHIPPED)
            if is_shipped and not pack.dead_since_s and not 0 < before_epoch <= pack.epoch:
                live = self._packs.live_bytes(pack.number)
                if live:
                    found.append(Filling(number=pack.number, stored=pack.stored_bytes, live=live))
        return found

    async def run_once(self) -> int:
        """Empty what is worth it; how many chunks were moved. A pack of which a chunk cannot be read now is left."""
        return await self._empty_all(chosen(self.fillings()))

    async def reseal_once(self) -> int:
        """A round of what the owner wants sealed anew; how many chunks that were. 0: all is done, or not now."""
        if not self._deep_epoch() or sum(local[2] < SHIPPED for local in self._packs.locals()) > WAITING_PACKS:
            return 0
        left = self.fillings(self._deep_epoch())
        picked = chosen_to_reseal(left, self.round_bytes)
        moved = await self._empty_all(picked)
        if len(picked) == len(left) and moved:
            log.info("everything of earlier epochs is sealed anew; hosts keep the old packs for the retention")
        return moved

    async def _empty_all(self, numbers: Sequence[PackNumber]) -> int:
        moved = 0
        for number in numbers:
            if not self._may_run():
                break
            try:
                moved += await self._empty(number)
            except Unavailable:
                continue
            except MegaFSError as error:  # the local disk refuses: the old packs are still good
                log.warning("compacting pauses: %s", error)
                break
        self.moved += moved
        return moved

    async def _empty(self, number: PackNumber) -> int:
        pack = self._packs.get(number)
        if pack is None:
            return 0
        moves: list[tuple[ChunkPlace, ChunkPlace]] = []
        for places in batches(self._packs.places(number)):
            chunks = await self._sealed(pack, places)
            if pack.epoch != self._writer.keyring.epoch:
                chunks = await trio.to_thread.run_sync(resealed, self._writer.keyring, pack.epoch, chunks)
                self.resealed += len(chunks)
            moves += zip(places, await self._writer.append(chunks), strict=True)
        await self._writer.sync()
        for count, (old, new) in enumerate(moves):
            if self._extents.place(old.chunk) == old:
                self._extents.move_chunk(new)
            if count % SLICE_ROWS == 0:
                await trio.lowlevel.checkpoint()
        await self._commits.durable_now()
        return len(moves)

    async def _sealed(self, pack: Pack, places: Sequence[ChunkPlace]) -> list[tuple[ChunkPlace, bytes]]:
        """The chunks as they are: from the local file, where that has them right, else from hosts."""

        def is_right(place: ChunkPlace, sealed: bytes) -> bool:
            return len(sealed) == place.sealed_bytes and digest(sealed) == place.digest

        def from_disk() -> list[bytes | None]:
            found = [self._disk.read(place.pack, place.offset, place.sealed_bytes) for place in places]
            return [sealed if is_right(place, sealed) else None for place, sealed in zip(places, found, strict=True)]

        chunks = []
        for place, sealed in zip(places, await trio.to_thread.run_sync(from_disk), strict=True):
            if sealed is None:
                stop = place.offset + place.sealed_bytes
                sealed = await self._fetcher.fetch(pack, place.offset, stop, partial(is_right, place))
            chunks.append((place, sealed))
        return chunks
