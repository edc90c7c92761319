"""Is everything there, and right? Index, local pack files and hosts compared; nothing is changed unless asked to.

In: an open index, the pack files, the hosts. Out: findings, one by one, then counts. The rules of the index are those
of index.invariants, which the crash simulator uses as well. Runs beside a mount: the index is read in a snapshot.
Repair does only what loses nothing: counts are made true, what has no name goes to lost+found, stray pack files are
moved aside, damaged chunks and copies are made anew from those that are right.
"""

import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import trio

from megafs.errors import Corrupt, DiskError, HostError, MegaFSError, ObjectMissing
from megafs.index.changed import paths_of
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.invariants import faults
from megafs.index.mend import Mender
from megafs.index.packs import SHIPPED, Packs
from megafs.model import WHOLE, ChunkId, ChunkPlace, Finding, HostId, Pack, PackNumber, shard_parts
from megafs.packs import shards
from megafs.placement import Part, can_be_read
from megafs.store.disk import ABSENT, Disk
from megafs.store.reader import Reader
from megafs.sync.objects import Objects
from megafs.sync.possession import MISSING, Copy, Examiner

SAMPLED_CHUNKS = 500  # of local files, unless all are asked for
SAMPLED_COPIES = 50  # of each host
MOST_FINDINGS = 1_000
OF_EXTENTS = {"extent-without-chunk", "extent-overlap"}  # rules whose rows are extents, chunks, packs of harmed files
OF_CHUNKS, OF_PACKS = {"chunk-without-pack", "chunk-overlap"}, {"pack-nowhere"}
STRAYS = "lost+found"  # in the vault's directory, for pack files that the index does not know


@dataclass(slots=True, kw_only=True)
class Counts:
    """What was looked at."""

    chunks: int = 0
    copies: int = 0
    silent: list[str] = field(default_factory=list)  # hosts that did not answer


class Checker:
    """One check. Owner of its findings."""

    def __init__(
        self,
        *,
        root: Path,
        database: Database,
        packs: Packs,
        extents: Extents,
        disk: Disk,
        reader: Reader,
        objects: Objects,
        labels: dict[HostId, str],
        durable_now: Callable[[], Awaitable[None]],
        lost_copy: Callable[[Pack, HostId, int], None],
        full: bool,
        repair: bool,
    ) -> None:
        """``lost_copy`` has a copy made anew, sooner or later; ``durable_now`` makes what repair changed durable."""
        self._root, self._database, self._packs, self._extents, self._disk = root, database, packs, extents, disk
        self._reader, self._objects, self._labels = reader, objects, labels
        self._durable_now, self._lost_copy = durable_now, lost_copy
        self._full, self._repair = full, repair
        self._chance = secrets.SystemRandom()  # what is looked at next is no host's to foresee
        self._examiner = Examiner(objects, packs, self._chance)
        self._missing: set[PackNumber] = set()  # that should be here, and of which no host has anything
        self._left: dict[PackNumber, set[Part]] = {}  # of packs with bad copies: the others
        self._inodes: set[int] = set()  # of harmed files, and the chunks that harm them
        self._chunks: set[ChunkId] = set()
        self.findings: list[Finding] = []
        self.counts = Counts()

    async def run(self) -> AsyncIterator[tuple[int, int]]:
        """All of it; yields (bytes looked at, bytes to look at) now and then. A disk that fails altogether raises
        DiskError; everything else is a finding."""
        await self._check_index()
        await self._check_files()
        places, copies = self._places(), self._copies()
        total = sum(place.sealed_bytes for place in places) + sum(copy.pack.stored_bytes for copy in copies)
        done = 0
        for place in places:
            await self._check_chunk(place)
            done += place.sealed_bytes
            yield done, total
        sound = Sound()
        for copy in copies:
            await self._check_copy(copy, sound)
            done += copy.pack.stored_bytes
            yield done, total
        await self._count_what_is_left()
        if self._repair:
            await self._durable_now()

    async def harmed_paths(self) -> list[bytes]:
        """After ``run``: the files that cannot be read, wholly or in part, because of what was found."""

        def look() -> list[bytes]:
            with self._database.snapshot() as connection:
                return paths_of(connection, self._inodes, self._chunks)

        return await trio.to_thread.run_sync(look)

    def _note(self, where: str, rule: str, subject: str, sentence: str, *, repaired: bool = False) -> None:
        if len(self.findings) < MOST_FINDINGS:
            finding = Finding(where=where, rule=rule, subject=subject, sentence=sentence, repaired=repaired)
            self.findings.append(finding)

    # -- the index

    async def _check_index(self) -> None:
        def look() -> list[tuple[str, str, str]]:
            with self._database.snapshot() as connection:
                return [(fault.rule, str(fault.row), fault.text) for fault in faults(connection)]

        found = await trio.to_thread.run_sync(look)
        mended: set[tuple[str, int | str]] = set()
        if found and self._repair:
            mended = Mender(self._database, time.time_ns()).mend()
        done = {(rule, str(row)) for rule, row in mended}
        for rule, row, text in found:
            self._harm(rule, row)
            self._note("index", rule, row, text, repaired=(rule, row) in done)

    def _harm(self, rule: str, row: str) -> None:
        if rule in OF_EXTENTS:
            self._inodes.update(
                ino for (ino,) in self._database.connection.execute("SELECT ino FROM extent WHERE id = ?", (int(row),))
            )
        elif rule in OF_CHUNKS:
            self._chunks.add(ChunkId(bytes.fromhex(row)))
        elif rule in OF_PACKS:
            self._chunks.update(place.chunk for place in self._packs.places(PackNumber(int(row))))

    # -- local files

    async def _check_files(self) -> None:
        """Files that the index does not know; files that are not here and nowhere else."""
        known = {number: state for number, _, state, _ in self._packs.locals()}
        there = set(await trio.to_thread.run_sync(self._disk.numbers))
        known |= {number: state for number, _, state, _ in self._packs.locals()}  # a pack may have begun meanwhile
        for number in sorted(there - set(known)):
            if self._repair:
                await trio.to_thread.run_sync(self._set_aside, number)
            self._note("local", "stray", str(number), "a pack file that the index does not know", repaired=self._repair)
        absent = 0
        for number in sorted(set(known) - there):
            local, places = self._packs.local(number), self._packs.places(number)
            if local is None or await trio.to_thread.run_sync(self._disk.path(number).exists):
                continue  # evicted or begun meanwhile
            if local[1] != SHIPPED and places:
                self._missing.add(number)
                self._chunks.update(place.chunk for place in places)
                self._note("local", "missing", str(number), "a pack file that is on no host yet is missing")
            elif local[1] == SHIPPED:
                absent += 1
                if self._repair:
                    self._packs.delete_local(number)
        if absent:
            files = (
                "1 pack file of the cache is missing: it comes"
                if absent == 1
                else f"{absent} pack files of the cache are missing: they come"
            )
            self._note("local", "absent", str(absent), f"{files} from the hosts again when read", repaired=self._repair)

    def _set_aside(self, number: PackNumber) -> None:
        """Thread. Its bytes may be somebody's only copy, so they are kept."""
        folder = self._root / STRAYS
        folder.mkdir(mode=0o700, exist_ok=True)
        source = self._disk.path(number)
        free = (folder / f"{source.name}{'~' * n}" for n in count())  # numbers come again when an index is made anew
        os.rename(source, next(path for path in free if not path.exists()))

    def _places(self) -> list[ChunkPlace]:
        """The chunks to look at: all, or some."""
        places = [place for number, _, _, _ in self._packs.locals() for place in self._packs.places(number)]
        if not self._full and len(places) > SAMPLED_CHUNKS:
            places = self._chance.sample(places, SAMPLED_CHUNKS)
        return sorted(places, key=lambda each: (each.pack, each.offset))

    async def _check_chunk(self, place: ChunkPlace) -> None:
        local = self._packs.local(place.pack)
        if local is None or place.pack in self._missing:
            return  # evicted meanwhile, or told of
        is_right = await trio.to_thread.run_sync(self._is_right, place)
        if is_right is None and local[1] == SHIPPED:
            return  # a sparse copy
        self.counts.chunks += 1
        if not is_right and self._packs.local(place.pack) is not None and self._extents.place(place.chunk) == place:
            await self._damaged(place, is_only_here=local[1] != SHIPPED)

    def _is_right(self, place: ChunkPlace) -> bool | None:
        """Thread. What reading it here would find; None: it is not here."""
        try:
            sealed = self._disk.read(place.pack, place.offset, place.sealed_bytes)
        except DiskError:
            return False
        if len(sealed) < place.sealed_bytes or sealed[:24] == ABSENT:
            return None
        return self._reader.opens(place, sealed)

    async def _damaged(self, place: ChunkPlace, *, is_only_here: bool) -> None:
        repaired, is_lost = False, is_only_here
        if self._repair:
            try:
                await self._reader.mend(place)
                repaired = True
            except MegaFSError:
                is_lost = True  # no host has it right, either: it is listed as not repaired
        if is_lost and not repaired:
            self._chunks.add(place.chunk)
        subject = f"{place.pack} at {place.offset}"
        where = ", and no host has it yet" if is_only_here else ""
        self._note("local", "damaged", subject, f"a chunk in a local pack file is damaged{where}", repaired=repaired)

    # -- hosts

    def _copies(self) -> list[Copy]:
        """The copies to look at on each host: all, or some."""
        chosen: list[Copy] = []
        packs = self._packs.all()
        for host in self._objects.hosts:
            copies = [
                Copy(pack=pack, host=host, shard=shard, root=root)
                for pack in packs
                for where, shard, root in self._packs.copies(pack.number)
                if where == host
            ]
            if not self._full and len(copies) > SAMPLED_COPIES:
                copies = self._chance.sample(copies, SAMPLED_COPIES)
            chosen += copies
        return sorted(chosen, key=lambda copy: copy.pack.number)

    async def _check_copy(self, copy: Copy, sound: "Sound") -> None:
        """There, of the right length, and right where it is looked at; in full also what is sealed in it."""
        label = self._labels[copy.host]
        if label in self.counts.silent:
            return
        data = b""
        try:
            if self._full:
                look, data = await self._examiner.whole(copy)
                wrong = look.wrong
            else:
                wrong = (await self._examiner.look_at(copy, full=False)).wrong
        except ObjectMissing:
            wrong = MISSING
        except HostError:
            self.counts.silent.append(label)
            return
        self.counts.copies += 1
        if wrong and any(where == copy.host for where, _, _ in self._packs.copies(copy.pack.number)):
            self._subtract(copy)
            if self._repair:
                self._lost_copy(copy.pack, copy.host, copy.shard)
                wrong += "; the mounted vault makes it anew"  # which takes a while, and may not succeed
            self._note(label, "copy", str(copy.pack.number), wrong)
        elif data and (whole := await trio.to_thread.run_sync(sound.whole, copy, data)):
            await self._open_all(copy.pack, whole)

    async def _open_all(self, pack: Pack, data: bytes) -> None:
        """Once for each pack: what had rotted here before it left is the same on every host."""
        places = self._packs.places(pack.number)

        def wrong() -> list[ChunkPlace]:
            view = memoryview(data)
            return [
                each for each in places if not self._reader.opens(each, bytes(view[each.offset :][: each.sealed_bytes]))
            ]

        for place in await trio.to_thread.run_sync(wrong):
            if self._extents.place(place.chunk) == place:
                self._chunks.add(place.chunk)
                subject = f"{place.pack} at {place.offset}"
                self._note(
                    "hosts", "rotten", subject, "a chunk is damaged on every host: it was when it left this device"
                )

    def _subtract(self, bad: Copy) -> None:
        """What brings the pack back, without this copy."""
        number = bad.pack.number
        if number not in self._left:
            self._left[number] = {Part(host, shard) for host, shard, _ in self._packs.copies(number)}
        self._left[number].discard(Part(bad.host, bad.shard))

    async def _count_what_is_left(self) -> None:
        """Packs that neither a host nor the cache has whole any more. (Hosts that do not answer may have it.)"""
        for number, left in self._left.items():
            if can_be_read(left):
                continue
            places = self._packs.places(number)
            lost = [place.chunk for place in places if not await trio.to_thread.run_sync(self._is_right, place)]
            if lost:
                self._chunks.update(lost)
                self._note(
                    "hosts", "lost", str(number), f"{len(lost)} chunks of a pack are neither here nor on any host"
                )


class Sound:
    """Right parts of one pack after the other, until they are the whole. Owner: one check."""

    def __init__(self) -> None:
        self._pack, self._done = PackNumber(0), False
        self._parts: dict[int, dict[int, bytes]] = {}  # by k

    def whole(self, copy: Copy, data: bytes) -> bytes:
        """Thread. The pack, once for each; empty: not yet, or it was there before."""
        if copy.pack.number != self._pack:
            self._pack, self._done, self._parts = copy.pack.number, False, {}
        if self._done:
            return b""
        if copy.shard != WHOLE:
            k, number = shard_parts(copy.shard)
            parts = self._parts.setdefault(k, {})
            parts[number] = data
            if len(parts) < k:
                return b""
            try:
                data = shards.decode(parts, k, shards.SHARDS_MAX - k, copy.pack.stored_bytes)
            except Corrupt:
                return b""
        self._done, self._parts = True, {}
        return data
