"""Places in, plaintext out: RAM, then the local pack file, then the hosts. The one path from stored bytes to content.

A local pack file is a sparse copy of the object: what was never fetched, was punched or has rotted fails its digest and
is fetched again; nothing else records what is present. Plaintext enters the cache only after it was authenticated. A
chunk asked for by several readers at once is opened once.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from megafs.config import KIB, MIB
from megafs.crypto.keys import Keyring
from megafs.crypto.seal import digest
from megafs.errors import Corrupt, DiskError, MegaFSError, NoSpace, Unauthentic, Unavailable
from megafs.index.packs import Packs
from megafs.model import Bytes, ChunkId, ChunkPlace, Pack, PackNumber
from megafs.packs.codec import AS_IS, Codec
from megafs.store.disk import ABSENT, Disk
from megafs.store.neighbours import Neighbours

log = logging.getLogger(__name__)

OPENING_THREADS = 2
INLINE_BYTES = 24 * 1024  # up to here opening costs less than the hop to a thread (about 40 µs)
BESIDE_BYTES = 128 * KIB  # sealed, opened in one go on the loop: less than a millisecond
RUN_BYTES = MIB + 64 * KIB  # of one request: four chunks
NEIGHBOUR_BYTES = MIB  # fetched together at most, until it is known how fast hosts are
GAP_BYTES = 64 * KIB  # between two chunks: fetched with them, for it takes less time than a request of its own


class Fetcher(Protocol):
    """Where bytes of packs come from when they are not here."""

    async def fetch(self, pack: Pack, start: int, stop: int, verify: Callable[[bytes], bool]) -> bytes:
        """The range of the pack as ``verify`` accepts it, from whichever host has it. Raises Unavailable."""

    def reach_bytes(self, least_bytes: int = 4 * MIB) -> int:
        """How much whoever reads from front to back should have under way, at least so much."""


class ChunkCache:
    """Decrypted chunks in RAM, least recently used out first. Owner: the reader."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._held: OrderedDict[ChunkId, bytes] = OrderedDict()

    def get(self, chunk: ChunkId) -> bytes | None:
        found = self._held.get(chunk)
        if found is not None:
            self._held.move_to_end(chunk)
        return found

    def put(self, chunk: ChunkId, plain: bytes) -> None:
        if chunk not in self._held:
            self._held[chunk] = plain
            self.bytes += len(plain)
            while self.bytes > self.limit_bytes:
                self.bytes -= len(self._held.popitem(last=False)[1])

    def clear(self) -> None:
        self._held.clear()
        self.bytes = 0


class Reader:
    """Owner of the chunk cache and of what is being opened."""

    def __init__(self, disk: Disk, keyring: Keyring, packs: Packs, fetcher: Fetcher, *, cache_bytes: int) -> None:
        self._disk, self.keyring, self._packs, self._fetcher = disk, keyring, packs, fetcher
        self.cache = ChunkCache(cache_bytes)
        self._opening: dict[ChunkId, trio.Event] = {}
        self._limiter = trio.CapacityLimiter(OPENING_THREADS)
        self._codecs = threading.local()  # zstandard's objects are not thread-safe
        self._neighbours = Neighbours(packs.places)  # of what is fetched
        self._beside = Neighbours(packs.places)  # of what is here
        self._known: dict[PackNumber, Pack] = {}
        self.fetched = self.healed = 0
        self.on_fetched: Callable[[], None] = lambda: None  # the cache grew
        self._minute = 0
        self._used: set[PackNumber] = set()
        self._distant: set[PackNumber] = set()  # of which something had to be fetched

    def pack(self, number: PackNumber) -> Pack:
        """The pack row, remembered: epoch and id never change."""
        found = self._known.get(number)
        if found is None:
            found = self._packs.get(number)
            if found is None:
                raise Corrupt("a chunk names a pack that the index does not have")
            if len(self._known) > 4096:
                self._known.clear()
            self._known[number] = found
        return found

    async def chunk(self, place: ChunkPlace) -> bytes:
        """The plaintext. Raises Unavailable when no host answers with the right bytes."""
        while True:
            plain = self.cache.get(place.chunk)
            if plain is not None:
                return plain
            waiting = self._opening.get(place.chunk)
            if waiting is None:
                break
            await waiting.wait()
        self._opening[place.chunk] = done = trio.Event()
        try:
            plain = await self._open(place)
            self.cache.put(place.chunk, plain)
            return plain
        finally:
            del self._opening[place.chunk]
            done.set()

    async def chunks(self, places: Sequence[ChunkPlace]) -> dict[ChunkId, bytes]:
        """Several chunks: those that nobody has opened yet in one trip to a thread, what is not here from the hosts,
        side by side. Raises Unavailable."""
        found: dict[ChunkId, bytes] = {}
        by_chunk = {place.chunk: place for place in places}  # extents may share one
        fresh = [place for chunk, place in by_chunk.items() if self.cache.get(chunk) is None and self.is_idle(chunk)]
        if len(fresh) > 1:
            found, absent = await self._open_together(fresh)
            for run in runs(absent):
                found.update(await self._fetch_run(run))
        left = [place for chunk, place in by_chunk.items() if chunk not in found]
        if len(left) == 1:
            found[left[0].chunk] = await self.chunk(left[0])
        elif left:
            failures: list[MegaFSError] = []

            async def one(place: ChunkPlace) -> None:
                try:
                    found[place.chunk] = await self.chunk(place)
                except MegaFSError as error:
                    failures.append(error)

            async with trio.open_nursery() as nursery:
                for place in left:
                    nursery.start_soon(one, place)
            if failures:
                raise failures[0]
        return found

    async def _open_together(self, places: Sequence[ChunkPlace]) -> tuple[dict[ChunkId, bytes], list[ChunkPlace]]:
        """What of them the local files have, whole, and what is not there at all; the rest goes the long way."""
        epochs = [self.pack(place.pack).epoch for place in places]
        done = trio.Event()
        self._opening.update((place.chunk, done) for place in places)
        absent: list[ChunkPlace] = []

        def from_disk() -> dict[ChunkId, bytes]:
            opened = {}
            for epoch, place in zip(epochs, places, strict=True):
                try:
                    sealed = self._disk.read(place.pack, place.offset, place.sealed_bytes)
                    if len(sealed) < place.sealed_bytes or sealed[:24] == ABSENT:
                        absent.append(place)
                    else:
                        opened[place.chunk] = self._plain(epoch, place, sealed)
                except (Unauthentic, Corrupt, DiskError):
                    continue  # whoever looks at it alone counts and heals it
            return opened

        try:
            opened = await trio.to_thread.run_sync(from_disk, limiter=self._limiter)
            for place in places:
                if place.chunk in opened:
                    self.cache.put(place.chunk, opened[place.chunk])
                    self._touch(place.pack)
            return opened, absent
        finally:
            self._opened(places, done)

    def _opened(self, places: Sequence[ChunkPlace], done: trio.Event) -> None:
        for place in places:
            del self._opening[place.chunk]
        done.set()

    async def _fetch_run(self, run: Sequence[ChunkPlace]) -> dict[ChunkId, bytes]:
        """Neighbours, none of which is here, by one request. Nothing if no host has them all right: each alone may
        still be right somewhere. Raises Unavailable."""
        if len(run) < 2 or not all(self.is_idle(place.chunk) for place in run):
            return {}
        epoch, done = self.pack(run[0].pack).epoch, trio.Event()
        self._opening.update((place.chunk, done) for place in run)
        try:
            pieces = await self.fetch_run(run)
            if pieces is None:
                return {}

            def opened() -> dict[ChunkId, bytes]:
                return {p.chunk: self._plain(epoch, p, sealed) for p, sealed in zip(run, pieces, strict=True)}

            found = await trio.to_thread.run_sync(opened, limiter=self._limiter)
            for place in run:
                self.cache.put(place.chunk, found[place.chunk])
            return found
        finally:
            self._opened(run, done)

    async def fetch_run(self, run: Sequence[ChunkPlace]) -> list[bytes] | None:
        """Neighbours by one request, authenticated by their digests and kept in the local file, as they are sealed.
        None if hosts answered, but none with all of them right. Raises Unavailable."""
        start, was_wrong = run[0].offset, False

        def pieces(data: bytes) -> list[bytes]:
            return [data[p.offset - start : p.offset - start + p.sealed_bytes] for p in run]

        def right(data: bytes) -> bool:
            nonlocal was_wrong
            is_right = all(digest(piece) == place.digest for place, piece in zip(run, pieces(data), strict=True))
            was_wrong = was_wrong or not is_right
            return is_right

        try:
            stop = run[-1].offset + run[-1].sealed_bytes
            found = pieces(await self._fetcher.fetch(self.pack(run[0].pack), start, stop, right))
        except Unavailable:
            if was_wrong:
                return None
            raise
        await self._keep(run, found)
        return found

    def reach_bytes(self, number: PackNumber) -> int:
        """How much to read ahead in this pack; 0: it is here, as far as is known."""
        return self._fetcher.reach_bytes() if number in self._distant else 0

    def is_idle(self, chunk: ChunkId) -> bool:
        """Whether nobody opens this chunk just now."""
        return chunk not in self._opening

    def now(self, place: ChunkPlace) -> bytes | None:
        """A small chunk that needs neither a thread nor the disk; else None. Where small files are read one after the
        other, those behind it are opened with it: several in one go cost a third of what each costs alone, between two
        requests, when nothing of what opening needs is in the processor's caches any more."""
        if place.sealed_bytes > INLINE_BYTES or place.chunk in self._opening:
            return None
        group = self._beside.of(place, BESIDE_BYTES)
        last = group[-1]
        sealed = self._disk.read_now(place.pack, place.offset, last.offset + last.sealed_bytes - place.offset)
        if sealed is None:
            if len(group) == 1:
                return None
            group = [place]
            sealed = self._disk.read_now(place.pack, place.offset, place.sealed_bytes)
            if sealed is None:
                return None
        epoch, held = self.pack(place.pack).epoch, memoryview(sealed)
        plain = None
        for each in group:
            start = each.offset - place.offset
            try:
                opened = self._plain(epoch, each, held[start : start + each.sealed_bytes])
            except (Unauthentic, Corrupt):
                continue  # absent or damaged: the long way finds out which
            self.cache.put(each.chunk, opened)
            if each is place:
                plain = opened
        self._touch(place.pack)
        return plain

    def _plain(self, epoch: int, place: ChunkPlace, sealed: Bytes) -> bytes:
        data = self.keyring.open_chunk(epoch, place, sealed)
        if place.codec == AS_IS and len(data) == place.plain_bytes:
            return data
        codec = getattr(self._codecs, "codec", None)
        if codec is None:
            codec = self._codecs.codec = Codec()
        return bytes(codec.decompress(place.codec, data, place.plain_bytes))

    def opens(self, place: ChunkPlace, sealed: bytes) -> bool:
        """Thread. Whether these bytes are the chunk, and can be opened."""
        pack = self._packs.get(place.pack)
        try:
            return pack is not None and len(self._plain(pack.epoch, place, sealed)) == place.plain_bytes
        except (Unauthentic, Corrupt):
            return False

    def _touch(self, number: PackNumber) -> None:
        minute = int(time.time() / 60)
        if minute != self._minute:
            self._minute = minute
            self._used.clear()
        if number not in self._used:
            self._used.add(number)
            self._packs.use_local(number, minute)

    async def _open(self, place: ChunkPlace) -> bytes:
        pack = self.pack(place.pack)

        def from_disk() -> bytes | None:
            sealed = self._disk.read(place.pack, place.offset, place.sealed_bytes)
            if len(sealed) < place.sealed_bytes or sealed[:24] == ABSENT:
                return None
            return self._plain(pack.epoch, place, sealed)

        damaged = False
        try:
            plain = await trio.to_thread.run_sync(from_disk, limiter=self._limiter)
        except (Unauthentic, Corrupt, DiskError):
            plain, damaged = None, True
        if plain is None:
            plain = await (self._fetch if damaged else self._fetch_with_neighbours)(pack, place)
            self.healed += damaged
        else:
            self._touch(place.pack)
        return plain

    async def _fetch_with_neighbours(self, pack: Pack, place: ChunkPlace) -> bytes:
        """The plaintext; and what lies behind it in its pack, if small files are read one after the other."""
        behind = self._neighbours.of(place, self._fetcher.reach_bytes(NEIGHBOUR_BYTES))[1:]
        behind = [each for each in behind if self.is_idle(each.chunk)]
        if not behind:
            return await self._fetch(pack, place)
        done = trio.Event()
        self._opening.update((each.chunk, done) for each in behind)
        try:
            absent = await trio.to_thread.run_sync(self._absent, behind, limiter=self._limiter)
            pieces = await self.fetch_run([place, *absent])
        finally:
            self._opened(behind, done)
        if pieces is None:  # each alone may still be right somewhere
            return await self._fetch(pack, place)
        return await trio.to_thread.run_sync(self._plain, pack.epoch, place, pieces[0], limiter=self._limiter)

    def _absent(self, places: Sequence[ChunkPlace]) -> list[ChunkPlace]:
        """Thread. Those that are not here."""
        return [place for place in places if not self._disk.has(place.pack, place.offset)]

    async def _fetch(self, pack: Pack, place: ChunkPlace) -> bytes:
        plain: bytes | None = None

        def right(sealed: bytes) -> bool:
            nonlocal plain
            try:
                plain = self._plain(pack.epoch, place, sealed)
            except (Unauthentic, Corrupt):
                return False
            return True

        sealed = await self._fetcher.fetch(pack, place.offset, place.offset + place.sealed_bytes, right)
        if plain is None:
            raise Unavailable("no host has a chunk of this file")
        await self._keep([place], [sealed])
        return plain

    async def _keep(self, places: Sequence[ChunkPlace], pieces: Sequence[bytes]) -> None:
        """Into the sparse local file of their pack what was fetched of it."""
        number = places[0].pack

        def write() -> None:
            self._disk.ensure(number)
            for place, sealed in zip(places, pieces, strict=True):
                self._disk.write(number, place.offset, [sealed])

        self.fetched += len(places)
        if len(self._distant) > 4096:
            self._distant.clear()
        self._distant.add(number)
        try:
            await trio.to_thread.run_sync(write, limiter=self._limiter)
        except (DiskError, NoSpace) as error:
            log.info("what was fetched is not kept: %s", error)  # whoever asked for it has it
        else:
            self._packs.note_fetched(number, sum(map(len, pieces)), int(time.time() / 60))
            self.on_fetched()

    async def mend(self, place: ChunkPlace) -> None:
        """The local file has it damaged: fetch it anew. Raises Unavailable."""
        await self._fetch(self.pack(place.pack), place)
        self.healed += 1


def runs(places: Sequence[ChunkPlace], most_bytes: int = RUN_BYTES) -> list[list[ChunkPlace]]:
    """Cut into neighbours of one pack that are worth one request each."""
    found: list[list[ChunkPlace]] = []
    for place in sorted(places, key=lambda place: (place.pack, place.offset)):
        last = found[-1][-1] if found else None
        if (
            last is not None
            and last.pack == place.pack
            and place.offset - last.offset - last.sealed_bytes <= GAP_BYTES
            and place.offset + place.sealed_bytes - found[-1][0].offset <= most_bytes
        ):
            found[-1].append(place)
        else:
            found.append([place])
    return found
