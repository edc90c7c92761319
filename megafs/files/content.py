"""What is in files: accepts writes into RAM, seals them in batches, reads from wherever the bytes are.

Called by fuse.operations (read, write, truncate) and files.commit (flush, hold). A write waits for RAM or for the
cache, never for a host. Landing (adding chunk and extent rows) is held back between the last sync and the COMMIT of a
commit, so the index never names bytes that are not synced.
"""

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import trio

from megafs.config import CHUNK_BYTES, MIB, SMALL_CHUNK_BYTES
from megafs.errors import Corrupt, DiskError, MegaFSError, NoSpace, Unavailable
from megafs.files.ahead import NEAR_BYTES, ReadAhead
from megafs.files.landing import Landing
from megafs.files.pending import Group, Pending
from megafs.files.ranges import Span, clip, overlay
from megafs.files.settle import Settler
from megafs.index.extents import Extents, Row
from megafs.index.inodes import Inodes
from megafs.model import ChunkId, ChunkPlace, Ino
from megafs.store.reader import Reader
from megafs.store.writer import PackWriter

BATCH_BYTES = 4 * MIB  # of one trip to a sealing thread: the hop is then under 1 % of it
FLIGHTS = 3  # batches under way
RETRY_S = 1.0  # after the disk refused a batch
NEARLY_FULL_S = 0.14  # what one write is slowed by when the cache is nine tenths full
TRIP_BYTES = MIB  # opened by one trip to a thread, or fetched by one request, when reading ahead
TRIPS = 3  # of them at once: they leave one of a host's connections to whoever waits in earnest
AHEAD_ROWS = 256
INLINE_CHUNKS = 8  # small chunks opened on the loop for one request, 20 µs each
REMEMBERED = 10_000  # files whose access pattern is kept in mind

Admit = Callable[[int], float]


@dataclass(slots=True, eq=False)
class Flight:
    """A batch on its way into a pack."""

    batch: list[Group]
    over: trio.Event = field(default_factory=trio.Event)
    error: MegaFSError | None = None  # why it came back


class Content:
    """Owner of pending content and of the flights."""

    def __init__(
        self,
        extents: Extents,
        inodes: Inodes,
        writer: PackWriter,
        reader: Reader,
        *,
        dirty_bytes: int,
        admit: Admit = lambda size: 0.0,
    ) -> None:
        """``admit(n)`` is asked before n bytes are accepted: for how many seconds to slow down; raises NoSpace."""
        self._extents, self._inodes, self._writer, self.reader = extents, inodes, writer, reader
        self._limit = dirty_bytes
        self._admit = admit
        self._pending = Pending()
        self._random: set[Ino] = set()
        self._ahead, self._trips = ReadAhead(), trio.CapacityLimiter(TRIPS)
        self._flights: dict[Flight, None] = {}  # ordered: the oldest first
        self._landed, self._work = trio.Event(), trio.Event()
        self._slots = trio.Semaphore(FLIGHTS)
        self._nursery: trio.Nursery | None = None
        self.failing: MegaFSError | None = None  # why the last batch could not be stored; None: it could
        self.ended: MegaFSError | None = None  # why nothing is accepted any more, for good
        self.errors: dict[Ino, tuple[int, int]] = {}  # (serial, errno) of a late error: each handle reports it once
        self._error_serial = 0
        self.settler = Settler(self.settle)
        self._landing = Landing(extents, inodes, self._pending, self.settler)
        self.on_change: Callable[[], None] = lambda: None  # content became pending without a request

    async def run(self) -> None:
        """The sealer: takes full runs as they come, everything when RAM fills. Ends by cancellation."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.settler.run)
                while True:
                    await self._work.wait()
                    self._work = trio.Event()
                    await self._launch(self._take_off(everything=self.is_pressed()))
                    if self.failing is not None:
                        await trio.sleep(RETRY_S)
                        self._work.set()
        finally:
            self._nursery = None

    def is_pressed(self) -> bool:
        """Whether dirty runs take more than half of the RAM they may."""
        return self._pending.dirty > self._limit // 2

    async def write(self, ino: Ino, start: int, data: bytes) -> None:
        """Accept. Slows down while the cache fills; raises NoSpace before a byte was taken."""
        pending = self._pending
        slow_s = self._admit(len(data))
        if slow_s or pending.dirty + pending.aloft > self._limit:
            await self._make_room(slow_s, len(data))
            if self.ended is not None:  # meanwhile: it would go to nobody
                raise self.ended
        window = CHUNK_BYTES if ino in pending.nodes else self._window(ino, start)
        if pending.write(ino, start, data, window) or self.is_pressed():
            self._work.set()

    async def _make_room(self, slow_s: float, size: int) -> None:
        while slow_s:
            await trio.sleep(slow_s)
            slow_s = self._admit(size)
            if slow_s < 1:
                break
        while self._pending.dirty + self._pending.aloft > self._limit:
            if self.failing is not None:
                raise self.failing
            self._work.set()
            await self._landed.wait()

    def _window(self, ino: Ino, start: int) -> int:
        """How large this file's chunks are: written from front to back, or not."""
        if ino not in self._random and start:
            row = self._inodes.get(ino)
            if row is not None and start != row.size:
                self.note_random(ino)
        return SMALL_CHUNK_BYTES if ino in self._random else CHUNK_BYTES

    def is_nearly_full(self) -> bool:
        """Before a file is opened for writing: whether writers are slowed so much that they may soon be refused. Raises
        NoSpace where nothing would be accepted."""
        return self._admit(0) > NEARLY_FULL_S

    def note_random(self, ino: Ino) -> None:
        """This file is written at random, or was opened O_DIRECT."""
        if len(self._random) > REMEMBERED:
            self._random.clear()
        self._random.add(ino)

    def truncate(self, ino: Ino, size: int) -> None:
        """Forget content at or beyond ``size``; the size itself is the caller's."""
        self._pending.truncate(ino, size)
        dropped = self._extents.truncate(ino, size)
        if dropped:
            self._inodes.grow(ino, 0, -dropped)

    def forget(self, ino: Ino) -> None:
        """The file is gone for good."""
        self._pending.forget(ino)
        self._random.discard(ino)
        self._ahead.forget(ino)
        self.errors.pop(ino, None)
        self._extents.truncate(ino, 0)

    def size(self, ino: Ino, indexed: int) -> int:
        """The file's size, given what the index says."""
        return self._pending.size(ino, indexed)

    def pending_bytes(self, ino: Ino) -> int:
        """Bytes of content that the index does not count yet."""
        return self._pending.bytes(ino)

    @property
    def unsealed_bytes(self) -> int:
        """Accepted and not yet in a pack."""
        return self._pending.dirty + self._pending.aloft

    def end(self, error: MegaFSError) -> set[Ino]:
        """Nothing will be sealed any more: whoever waits for room is told why. Returns the files with content that is
        lost by this."""
        self.failing = self.ended = error
        self._landed.set()
        return set(self._pending.nodes)

    def note_lost(self, inos: Iterable[Ino]) -> None:
        """Accepted content of these files is gone; whoever has one open hears it at the next write or fsync."""
        self._error_serial += 1
        self.errors.update(dict.fromkeys(inos, (self._error_serial, errno.EIO)))

    # -- sealing

    def _take_off(self, *, everything: bool) -> list[Flight]:
        batches = self._pending.take(BATCH_BYTES, SMALL_CHUNK_BYTES, everything=everything)
        flights = [Flight(batch) for batch in batches]
        self._flights.update(dict.fromkeys(flights))
        return flights

    async def _launch(self, flights: list[Flight]) -> None:
        assert self._nursery is not None, "run() owns the flights"
        for flight in flights:
            await self._slots.acquire()
            self._nursery.start_soon(self._fly, flight)

    async def flush(self) -> None:
        """What was accepted before this call is stored, and has landed or is held. Raises what the disk said of it.
        Waits for no later flight: under a steady writer there always is one."""
        mine = self._take_off(everything=True)
        before = list(self._flights)
        await self._launch(mine)
        for flight in before:
            await flight.over.wait()
        for flight in before:
            if flight.error is not None:
                raise flight.error

    def has_work(self) -> bool:
        """Whether flush would find anything."""
        return bool(self._pending.nodes)

    async def _fly(self, flight: Flight) -> None:
        batch = flight.batch
        pieces = [group[0].bytes() if len(group) == 1 else b"".join(part.bytes() for part in group) for group in batch]
        try:
            places = await self._writer.store(pieces)
        except (NoSpace, DiskError) as error:
            flight.error = error
            self._fail(batch, error)
        else:
            self.failing = None
            await self._landing.arrived(zip(batch, places, strict=True))
        finally:
            del self._flights[flight]
            flight.over.set()
            self._slots.release()
            self._landed.set()
            self._landed = trio.Event()

    def _fail(self, batch: list[Group], error: MegaFSError) -> None:
        self.failing = error
        self._error_serial += 1
        for group in batch:
            self._pending.refuse(group)
            self.errors[group[0].ino] = (self._error_serial, error.code)

    def hold(self) -> None:
        """From now on landings wait (files.landing)."""
        self._landing.hold()

    async def release(self) -> None:
        """The COMMIT is done, or given up."""
        await self._landing.release()

    async def settle(self, ino: Ino, start: int, stop: int) -> bool:
        """Write what the index has of the range again, in one piece, unless it changes meanwhile or has a hole."""
        rows = self._extents.covering(ino, start, stop)
        if ino in self._pending.nodes or any(left[1] != right[0] for left, right in pairwise(rows)):
            return False
        start, stop = (max(start, rows[0][0]), min(stop, rows[-1][1])) if rows else (start, start)
        data = await self._found(ino, start, stop, rows)
        if not rows or ino in self._pending.nodes or rows != self._extents.covering(ino, start, stop):
            return False
        self._pending.write(ino, start, bytes(data), CHUNK_BYTES)
        self.on_change()
        return True

    # -- reading

    async def read(self, ino: Ino, start: int, size: int, indexed: int) -> bytes | memoryview:
        """The bytes from ``start``, at most ``size``; shorter only at the end of the file. Raises Unavailable."""
        stop = min(start + size, self._pending.size(ino, indexed))
        if start >= stop:
            return b""
        self._note_read(ino, start, stop)
        while True:
            rows = self._extents.covering(ino, start, stop)
            try:
                if len(rows) == 1 and rows[0][0] <= start and stop <= rows[0][1] and ino not in self._pending.nodes:
                    low, _, chunk, skip = rows[0]
                    found = self._look(chunk)  # most often it is there: a small file, or a chunk that was read ahead
                    plain = found if isinstance(found, bytes) else (await self.reader.chunks([found]))[chunk]
                    return _part(plain, skip + start - low, stop - start)
                return await self._found(ino, start, stop, rows)
            except (Corrupt, Unavailable):
                # Overwritten while we waited, and what we went for is collected by now: look again.
                if rows == self._extents.covering(ino, start, stop):
                    raise

    async def _found(self, ino: Ino, start: int, stop: int, rows: list[Row]) -> bytes | memoryview:
        if ino in self._pending.nodes:
            return await self._overlaid(ino, start, stop, rows)
        plains = await self._plains([row[2] for row in rows])
        parts: list[bytes | memoryview] = []
        at = start
        for low, high, chunk, skip in rows:
            first, last = max(low, start), min(high, stop)
            if first > at:
                parts.append(bytes(first - at))
            parts.append(_part(plains[chunk], skip + first - low, last - first))
            at = last
        parts.append(bytes(stop - at))
        return b"".join(parts)

    async def _overlaid(self, ino: Ino, start: int, stop: int, rows: list[Row]) -> memoryview:
        extents = clip([Span(*row) for row in rows], start, stop)
        node = self._pending.nodes[ino]
        out = bytearray(stop - start)
        layers: list[list[Span[object]]] = [list(extents), list(node.flying), list(node.runs.spans)]
        wanted: list[tuple[int, int, ChunkId, int]] = []
        for span in overlay(layers, start, stop):  # what is in RAM is copied before the first await: it may change
            source = span.source
            if isinstance(source, bytes):
                wanted.append((span.start, span.stop, ChunkId(source), span.skip))
            elif source is not None:
                data = source if isinstance(source, bytearray | memoryview) else source.data  # type: ignore[attr-defined]
                length = span.stop - span.start
                out[span.start - start : span.stop - start] = memoryview(data)[span.skip : span.skip + length]
        plains = await self._plains([chunk for _, _, chunk, _ in wanted])
        for low, high, chunk, skip in wanted:
            out[low - start : high - start] = _part(plains[chunk], skip, high - low)
        return memoryview(out)

    async def _plains(self, chunks: Sequence[ChunkId]) -> dict[ChunkId, bytes]:
        """The plaintext of each: from RAM, a few small ones from the page cache, the others in one trip to a thread."""
        plains: dict[ChunkId, bytes] = {}
        places: list[ChunkPlace] = []
        for chunk in dict.fromkeys(chunks):
            found = self._look(chunk, may_open=len(plains) < INLINE_CHUNKS)
            if isinstance(found, bytes):
                plains[chunk] = found
            else:
                places.append(found)
        if places:
            plains.update(await self.reader.chunks(places))
        return plains

    def _look(self, chunk: ChunkId, *, may_open: bool = True) -> bytes | ChunkPlace:
        """The plaintext of a chunk if that needs no wait, else where it lies. Raises Corrupt."""
        plain = self.reader.cache.get(chunk)
        if plain is not None:
            return plain
        place = self._extents.place(chunk)
        if place is None:
            raise Corrupt("an extent names a chunk that the index does not have")
        return (self.reader.now(place) if may_open else None) or place

    def _note_read(self, ino: Ino, start: int, stop: int) -> None:
        """Of a file that is read from front to back, open the next chunks meanwhile."""
        wanted = self._ahead.note(ino, start, stop)
        if wanted is None or self._nursery is None:
            return
        reader = self.reader
        trip: list[ChunkPlace] = []
        for row in self._extents.covering(ino, *wanted)[:AHEAD_ROWS]:
            place = None if reader.cache.get(row[2]) else self._extents.place(row[2])
            if place is None or not reader.is_idle(place.chunk):
                continue
            if place.plain_bytes <= SMALL_CHUNK_BYTES and reader.reach_bytes(place.pack) <= NEAR_BYTES:
                continue  # the page cache has it
            trip.append(place)
            if sum(each.plain_bytes for each in trip) >= TRIP_BYTES:
                self._nursery.start_soon(self._fetch_ahead, ino, trip)
                trip = []
        if trip:
            self._nursery.start_soon(self._fetch_ahead, ino, trip)

    async def _fetch_ahead(self, ino: Ino, places: list[ChunkPlace]) -> None:
        async with self._trips:
            try:
                await self.reader.chunks(places)
            except MegaFSError:
                return  # whoever asks for it in earnest is told
        self._ahead.set_reach(ino, self.reader.reach_bytes(places[-1].pack))

    def late_error(self, ino: Ino, seen: int) -> tuple[int, int] | None:
        """(serial, errno) of an error that happened after the write was answered, unless ``seen`` already."""
        found = self.errors.get(ino)
        return found if found is not None and found[0] > seen else None


def _part(plain: bytes, skip: int, size: int) -> memoryview:
    """What an extent shows of its chunk."""
    if len(plain) < skip + size:
        raise Corrupt("an extent reaches beyond its chunk")
    return memoryview(plain)[skip : skip + size]
