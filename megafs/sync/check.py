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
from pathlib import Path

import trio

from megafs.crypto.seal import digest
from megafs.errors import DiskError, HostError, MegaFSError
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.invariants import faults
from megafs.index.mend import Mender
from megafs.index.packs import SHIPPED, Packs
from megafs.model import ChunkPlace, Finding, HostId, Pack, PackNumber
from megafs.store.disk import ABSENT, Disk
from megafs.store.reader import Reader
from megafs.sync.objects import Objects
from megafs.sync.possession import Copy, Examiner

SAMPLED_CHUNKS = 500  # of local files, unless all are asked for
SAMPLED_COPIES = 50  # of each host
MOST_FINDINGS = 1_000
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
        for copy in copies:
            await self._check_copy(copy)
            done += copy.pack.stored_bytes
            yield done, total
        if self._repair:
            await self._durable_now()

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
            self._note("index", rule, row, text, repaired=(rule, row) in done)

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
        for number, state in sorted(known.items()):
            if state != SHIPPED and number not in there and self._packs.places(number):
                self._note("local", "missing", str(number), "a pack file that is on no host yet is missing")

    def _set_aside(self, number: PackNumber) -> None:
        """Thread. Its bytes may be somebody's only copy, so they are kept."""
        folder = self._root / STRAYS
        folder.mkdir(mode=0o700, exist_ok=True)
        source = self._disk.path(number)
        os.rename(source, folder / source.name)

    def _places(self) -> list[ChunkPlace]:
        """The chunks to look at: all, or some."""
        places = [place for number, _, _, _ in self._packs.locals() for place in self._packs.places(number)]
        if not self._full and len(places) > SAMPLED_CHUNKS:
            places = self._chance.sample(places, SAMPLED_CHUNKS)
        return sorted(places, key=lambda each: (each.pack, each.offset))

    async def _check_chunk(self, place: ChunkPlace) -> None:
        local = self._packs.local(place.pack)
        if local is None:
            return  # evicted meanwhile
        self.counts.chunks += 1
        if await trio.to_thread.run_sync(self._is_right, place, local[1] == SHIPPED):
            return
        if self._packs.local(place.pack) is not None and self._extents.place(place.chunk) == place:
            await self._damaged(place)

    def _is_right(self, place: ChunkPlace, may_be_absent: bool) -> bool:
        """Thread."""
        try:
            sealed = self._disk.read(place.pack, place.offset, place.sealed_bytes)
        except DiskError:
            return False
        if may_be_absent and (len(sealed) < place.sealed_bytes or sealed[:24] == ABSENT):
            return True  # a sparse copy
        return digest(sealed) == place.digest

    async def _damaged(self, place: ChunkPlace) -> None:
        repaired = False
        if self._repair:
            try:
                await self._reader.mend(place)
                repaired = True
            except MegaFSError:
                pass  # no host has it right, either: it is listed as not repaired
        subject = f"{place.pack} at {place.offset}"
        self._note("local", "damaged", subject, "a chunk in a local pack file is damaged", repaired=repaired)

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
        return chosen

    async def _check_copy(self, copy: Copy) -> None:
        """There, of the right length, and right where it is looked at."""
        label = self._labels[copy.host]
        if label in self.counts.silent:
            return
        try:
            wrong = (await self._examiner.look_at(copy, full=self._full)).wrong
        except HostError:
            self.counts.silent.append(label)
            return
        self.counts.copies += 1
        if wrong and any(where == copy.host for where, _, _ in self._packs.copies(copy.pack.number)):
            if self._repair:
                self._lost_copy(copy.pack, copy.host, copy.shard)
                wrong += "; the mounted vault makes it anew"  # which takes a while, and may not succeed
            self._note(label, "copy", str(copy.pack.number), wrong)
