"""Chunks in, places out: compress and seal in a thread, append to the open pack, sync on request.

Called by files.content (store), files.commit (sync) and sync.ship (close). One open pack at a time; where it is full
the next begins in the same call. Offsets are handed out on the trio thread, bytes are written in threads, so writes
into one pack overlap; nothing is ever rewritten. What a failed write leaves behind is a gap that no chunk row names.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import urandom

import trio

from megafs.config import CHUNK_BYTES, KIB
from megafs.crypto.keys import Keyring
from megafs.crypto.merkle import leaf_hashes, root_of
from megafs.crypto.seal import digest
from megafs.index.packs import OPEN, Packs
from megafs.model import WHOLE, Bytes, ChunkId, ChunkPlace, Kind, Pack, PackId, PackNumber
from megafs.packs.codec import Codec, is_zero
from megafs.packs.format import encode_directory, encode_footer, fits, layout, sealed_bytes
from megafs.store.disk import Disk

INLINE_BYTES = 32 * KIB  # sealed on the loop, in 0.1 ms: an fsync of a few pages has hops to threads enough
SEALING_THREADS = 2  # one per core of a small machine; zstd, AES and SHA-256 release the GIL


@dataclass(slots=True, kw_only=True)
class OpenPack:
    """The pack being written; owner: PackWriter."""

    number: PackNumber
    id: PackId
    epoch: int
    position: int = 0
    chunks: int = 0
    first_s: float = 0.0  # clock at its first byte of this session; 0: none yet
    last_s: float = 0.0
    synced: int = 0  # bytes known to be durable
    unwritten: list[int] = field(default_factory=list)  # offsets of writes under way: what lies behind is not there yet
    doubtful: bool = False  # a sync failed: Linux then calls the lost pages clean, so a second sync would lie
    idle: trio.Event = field(default_factory=trio.Event)

    @property
    def written(self) -> int:
        """Everything before this offset was written, or was given up."""
        return min(self.unwritten, default=self.position)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A chunk ready to be appended."""

    chunk: ChunkId
    plain_bytes: int
    codec: int
    data: bytes
    digest: bytes


def seal_batch(keyring: Keyring, prefix: bytes, pieces: Sequence[Bytes], *, compress: bool) -> list[Sealed | None]:
    """Thread. None stands for a piece that is all zeros: a hole."""
    codec = Codec(enabled=compress)
    sealed: list[Sealed | None] = []
    for piece in pieces:
        if is_zero(piece):
            sealed.append(None)
            continue
        chunk = ChunkId(prefix + urandom(12))
        kind, data = codec.compress(piece)
        packed = keyring.seal_chunk(chunk, kind, len(piece), data)
        sealed.append(Sealed(chunk, len(piece), kind, packed, digest(packed)))
    return sealed


class PackWriter:
    """Owner of the open pack."""

    def __init__(
        self,
        disk: Disk,
        keyring: Keyring,
        packs: Packs,
        *,
        compress: bool = True,
        coarse: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk, self.keyring, self._packs = disk, keyring, packs
        self.compress, self._coarse = compress, coarse
        self._clock = clock
        self._limiter = trio.CapacityLimiter(SEALING_THREADS)
        self.current: OpenPack | None = None
        self._next = PackId(urandom(16))
        self.full: list[OpenPack] = []  # written to the end, to be closed by ship
        self._directory_unsynced = False
        self.failed_writes = 0

    def resume(self) -> list[PackNumber]:
        """After a start, with an index that is durable as it is: go on with the newest open pack, cut behind its last
        chunk. Blocks for a truncate. Open packs that hold nothing are dropped; further ones are handed to ship as full;
        files that the index does not know (made or evicted just before a crash) are removed. Returns the packs
        dropped."""
        dropped = []
        known = {number for number, _, _, _ in self._packs.locals()}
        for stray in self._disk.numbers():
            if stray not in known:
                self._disk.unlink(stray)
        for number, _, state, _ in sorted(self._packs.locals()):
            if state != OPEN:
                continue
            pack, end = self._packs.get(number), self._packs.end(number)
            if pack is None or not end:
                self._packs.delete(number)
                self._disk.unlink(number)
                dropped.append(number)
                continue
            self._disk.truncate(number, end)
            if self.current is not None:
                self.full.append(self.current)
            self.current = self._as_it_lies(pack, end)
        if self.current is not None and self.current.epoch != self.keyring.epoch:
            self.full.append(self.current)
            self.current = None
        return dropped

    def _as_it_lies(self, pack: Pack, end: int) -> OpenPack:
        now_s, chunks = self._clock(), len(self._packs.places(pack.number))
        return OpenPack(
            number=pack.number,
            id=pack.id,
            epoch=pack.epoch,
            position=end,
            synced=end,
            chunks=chunks,
            first_s=now_s,
            last_s=now_s,
        )

    async def reopen(self, pack: Pack) -> None:
        """A closed pack that no host has is to be closed once more, behind its last live chunk."""
        end = self._packs.end(pack.number)
        await trio.to_thread.run_sync(self._disk.truncate, pack.number, end)
        self._packs.set_local(pack.number, end, OPEN)
        self.full.append(self._as_it_lies(pack, end))

    async def store(self, pieces: Sequence[Bytes]) -> list[ChunkPlace | None]:
        """Seal and append. Returns a place per piece, None for all zeros, once the bytes can be read back (not yet
        durable: ``sync``). Raises NoSpace or DiskError; then nothing of the batch has a place."""
        prefix = (self.current.id if self.current else self._next)[:4]  # no pack before there is something to put in
        if sum(map(len, pieces)) <= INLINE_BYTES:
            sealed = seal_batch(self.keyring, prefix, pieces, compress=self.compress)
        else:
            sealed = await trio.to_thread.run_sync(
                lambda: seal_batch(self.keyring, prefix, pieces, compress=self.compress), limiter=self._limiter
            )
        places: list[ChunkPlace | None] = []
        writes: list[tuple[OpenPack, int, list[bytes]]] = []
        for one in sealed:
            if one is None:
                places.append(None)
                continue
            number, offset = self._reserve(writes, one.data)
            places.append(ChunkPlace(one.chunk, number, offset, len(one.data), one.plain_bytes, one.codec, one.digest))
        await self._write(writes)
        return places

    async def append(self, chunks: Sequence[tuple[ChunkPlace, bytes]]) -> list[ChunkPlace]:
        """Compaction: sealed bytes at new places. The chunks' epoch must be the newest. ``sync`` comes before the
        places are told to the index, because these bytes do not pass by files.content, which holds landings back."""
        writes: list[tuple[OpenPack, int, list[bytes]]] = []
        moved = []
        for place, data in chunks:
            number, offset = self._reserve(writes, data)
            moved.append(place._replace(pack=number, offset=offset))
        await self._write(writes)
        return moved

    def _reserve(self, writes: list[tuple[OpenPack, int, list[bytes]]], data: bytes) -> tuple[PackNumber, int]:
        """Where the bytes will stand, once ``writes`` have been carried out."""
        pack = self._room_for(len(data))
        if not writes or writes[-1][0] is not pack:
            writes.append((pack, pack.position, []))
        writes[-1][2].append(data)
        offset = pack.position
        pack.position += len(data)
        pack.chunks += 1
        return pack.number, offset

    async def _write(self, writes: list[tuple[OpenPack, int, list[bytes]]]) -> None:
        now_s = self._clock()
        for pack, offset, _ in writes:
            pack.unwritten.append(offset)
            pack.first_s = pack.first_s or now_s
            pack.last_s = now_s
        disk = self._disk

        def write_all() -> None:
            for pack, offset, buffers in writes:
                disk.write(pack.number, offset, buffers)

        try:
            if writes:
                await trio.to_thread.run_sync(write_all, limiter=self._limiter)
        except BaseException:
            self.failed_writes += 1
            raise
        finally:
            for pack, offset, _ in writes:
                pack.unwritten.remove(offset)
                if not pack.unwritten:
                    pack.idle.set()
                    pack.idle = trio.Event()

    def _room_for(self, size: int) -> OpenPack:
        if self.current is not None and not fits(self.current.position, self.current.chunks, size):
            self.retire()
        if self.current is None:
            self._begin()
        assert self.current is not None
        return self.current

    def _begin(self) -> None:
        ident, self._next = self._next, PackId(urandom(16))
        number = self._packs.open(ident, self.keyring.epoch)
        self._disk.create(number)  # here and not in a thread: 30 µs once in 16 MiB, and no write may come before it
        self._directory_unsynced = True
        self.current = OpenPack(number=number, id=ident, epoch=self.keyring.epoch)

    def retire(self) -> None:
        """Write no more into the open pack; ship closes it."""
        if self.current is not None and self.current.position:
            self.full.append(self.current)
            self.current = None

    def due(self, idle_s: float, age_s: float) -> bool:
        """Whether the open pack has waited long enough: ``idle_s`` after its last byte or ``age_s`` after its first."""
        pack = self.current
        if pack is None or not pack.first_s:
            return False
        now_s = self._clock()
        return now_s - pack.last_s >= idle_s or now_s - pack.first_s >= age_s

    def rested(self, quiet_s: float, patience_s: float) -> list[OpenPack]:
        """The retired packs that may be closed: nothing was appended anywhere for ``quiet_s``, or nothing to this one
        for ``patience_s``."""
        now_s = self._clock()
        is_quiet = now_s - max((pack.last_s for pack in self.unclosed()), default=0.0) >= quiet_s
        return [pack for pack in self.full if is_quiet or now_s - pack.last_s >= patience_s]

    @property
    def newest_pack(self) -> PackNumber:
        """The greatest number that a chunk row may name by now."""
        return max((pack.number for pack in self.unclosed()), default=PackNumber(0))

    @property
    def unclosed_bytes(self) -> int:
        """Bytes in packs that ship has not closed yet."""
        total = self.current.position if self.current else 0  # asked for at each write
        for pack in self.full:
            total += pack.position
        return total

    def unclosed(self) -> list[OpenPack]:
        """The packs that ship has not closed yet, the one being written last."""
        return [*self.full, self.current] if self.current else self.full

    async def sync(self) -> None:
        """Everything stored before this call is durable when it returns. Raises NoSpace or DiskError."""
        packs = [(pack, pack.written) for pack in self.unclosed() if pack.position > pack.synced]
        directory = self._directory_unsynced
        if not packs and not directory:
            return
        self._directory_unsynced = False
        disk = self._disk

        def sync_all() -> None:
            for pack, written in packs:
                if pack.doubtful:
                    disk.write(pack.number, pack.synced, [disk.read(pack.number, pack.synced, written - pack.synced)])
                disk.sync(pack.number)
            if directory:
                disk.sync_directory()

        try:
            await trio.to_thread.run_sync(sync_all)
        except BaseException:
            for pack, _ in packs:
                pack.doubtful = True
            self._directory_unsynced = self._directory_unsynced or directory
            raise
        for pack, written in packs:
            pack.synced = max(pack.synced, written)
            pack.doubtful = False

    async def close(self, pack: OpenPack) -> tuple[int, bytes]:
        """Complete a retired pack: its sealed directory, padding and footer, synced. Returns (bytes, Merkle root) and
        writes both to the index. The pack leaves ``full``. A pack whose chunks are all dead should be dropped
        instead."""
        while pack.unwritten:
            await pack.idle.wait()
        places = self._packs.places(pack.number)
        is_full = not fits(pack.position, pack.chunks, sealed_bytes(CHUNK_BYTES))
        where = layout(pack.position, len(places), full=is_full, coarse=self._coarse)
        directory = self.keyring.seal(Kind.DIRECTORY, (pack.id,), encode_directory(places))
        footer = self.keyring.seal(Kind.FOOTER, (pack.id,), encode_footer(where))
        disk, total = self._disk, where.stored_bytes

        def finish() -> list[bytes]:
            if pack.doubtful:
                disk.write(pack.number, pack.synced, [disk.read(pack.number, pack.synced, pack.position - pack.synced)])
            tail = [directory, urandom(where.padding_bytes), footer]
            disk.write(pack.number, where.directory_offset, tail)
            disk.sync(pack.number)
            return leaf_hashes(disk.read(pack.number, 0, total))

        try:
            leaves = await trio.to_thread.run_sync(finish)
        except BaseException:
            pack.doubtful = True
            raise
        root = root_of(leaves)
        self._packs.close(pack.number, total, root)
        self._packs.set_leaves(pack.number, WHOLE, leaves)
        self.full.remove(pack)
        return total, root
