"""What its owner wants to have on this device: brought once (fetch) or kept here for good (pin).

A pin is an inode; what lies below a pinned directory, now or later, is pinned with it. Eviction asks ``kept`` and
spares those chunks; what came into a pinned tree without its content (a rename, a compaction elsewhere, a damaged file)
is brought by the loop. Bytes come straight from hosts into the sparse pack files, by runs, authenticated by the digests
in the index and not opened.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import trio

from megafs.config import MIB
from megafs.errors import DiskError, MegaFSError, NoSpace, Unavailable
from megafs.index.database import Database
from megafs.index.pins import Pins, tree_places
from megafs.model import ChunkPlace, Ino, PackNumber
from megafs.store.cache import Ranges
from megafs.store.disk import Disk
from megafs.store.reader import Reader, runs

log = logging.getLogger(__name__)

SHARE = 0.7  # of the cache that pins may take; the rest is for what is written and read besides
AT_ONCE = 3  # requests
LOOK_S = 60.0  # how often pinned trees are looked through, if anything was committed meanwhile
RUN_BYTES = 4 * MIB


class Keeper:
    """Owner of the pins' loop and of its last figures."""

    def __init__(self, database: Database, disk: Disk, reader: Reader, limit_bytes: Callable[[], int]) -> None:
        self._database, self._disk, self._reader = database, disk, reader
        self._limit_bytes = limit_bytes
        self.pins = Pins(database)
        self._woken = trio.Event()
        self._seen = -1  # the id counter when the pinned trees were looked through last
        self.wanted_bytes = self.here_bytes = 0

    async def places(self, roots: Sequence[Ino]) -> list[ChunkPlace]:
        """All chunks below these inodes, as of the last commit. Raises DiskError."""

        def asked() -> list[ChunkPlace]:
            with self._database.snapshot() as connection:
                return tree_places(connection, roots)

        return await trio.to_thread.run_sync(asked) if roots else []

    async def absent(self, places: Sequence[ChunkPlace]) -> list[ChunkPlace]:
        """Those of them that are not here."""
        return await trio.to_thread.run_sync(lambda: [p for p in places if not self._disk.has(p.pack, p.offset)])

    async def kept(self) -> Ranges:
        """For eviction: what of each pack is pinned, as (start, stop) in order."""
        found: dict[PackNumber, list[tuple[int, int]]] = {}
        for place in await self.places(self.pins.all()):
            found.setdefault(place.pack, []).append((place.offset, place.offset + place.sealed_bytes))
        return found

    async def check_fits(self, roots: Sequence[Ino]) -> None:
        """Raises NoSpace if the cache cannot hold these and what is pinned already."""
        wanted = sum(place.sealed_bytes for place in await self.places([*self.pins.all(), *roots]))
        most = int(SHARE * self._limit_bytes())
        if wanted > most:
            raise NoSpace(
                f"this needs {wanted / MIB:.0f} MiB of the cache with what is pinned already, and {most / MIB:.0f} MiB "
                f"({SHARE:.0%} of it) may be; mount with a larger --cache-size"
            )

    async def bring(self, roots: Sequence[Ino]) -> AsyncGenerator[tuple[int, int], None]:
        """Fetch what is not here; yields (bytes done, bytes in all) as it goes. Raises Unavailable at the end if hosts
        did not give everything."""
        missing = await self.absent(await self.places(roots))
        total, done = sum(place.sealed_bytes for place in missing), 0
        failed: list[MegaFSError] = []
        yield done, total
        parts = runs(missing, RUN_BYTES)
        for first in range(0, len(parts), AT_ONCE):
            group = parts[first : first + AT_ONCE]
            async with trio.open_nursery() as nursery:
                for run in group:
                    nursery.start_soon(self._bring, run, failed)
            if failed:
                raise failed[0]
            done += sum(place.sealed_bytes for run in group for place in run)
            yield done, total

    async def _bring(self, run: Sequence[ChunkPlace], failed: list[MegaFSError]) -> None:
        try:
            if await self._reader.fetch_run(run) is None:
                for place in run:  # each alone may be right somewhere
                    if await self._reader.fetch_run([place]) is None:
                        raise Unavailable("no host has a chunk of this file right")
        except MegaFSError as error:
            failed.append(error)

    def wake(self) -> None:
        """A pin was added or removed."""
        self._seen = -1
        self._woken.set()

    async def run(self) -> None:
        """Keep pinned trees here. Ends by cancellation; does nothing while nothing is pinned or changes."""
        while True:
            self._woken = trio.Event()
            roots = self.pins.all()
            if not roots:
                self.wanted_bytes = self.here_bytes = 0
            elif self._seen != self._database.committed_counter:
                self._seen = self._database.committed_counter
                try:
                    await self._look(roots)
                except (Unavailable, NoSpace, DiskError) as error:
                    self._seen = -1
                    log.info("pinned files are not all here: %s", error)
            with trio.move_on_after(LOOK_S if roots else float("inf")):
                await self._woken.wait()

    async def _look(self, roots: Sequence[Ino]) -> None:
        places = await self.places(roots)
        missing = await self.absent(places)
        self.wanted_bytes = sum(place.sealed_bytes for place in places)
        self.here_bytes = self.wanted_bytes - sum(place.sealed_bytes for place in missing)
        if not missing:
            return
        await self.check_fits(())
        before = self.here_bytes
        async with aclosing(self.bring(roots)) as steps:
            async for done, _ in steps:
                self.here_bytes = before + done
