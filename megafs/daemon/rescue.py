"""Files that only an older copy of this device's state had, or a damaged index, put into lost+found once that state was
brought forward, or rebuilt.

Rows of ``only_here`` and the packs kept beside (daemon.salvage) in, files out, through the engine like anybody's. A
file that the newer history has just so is left out. Rows and packs go when all files are durable; a crash begins anew,
over the same names.
"""

import logging
import os
import shutil
import stat
from itertools import groupby

import trio

from megafs.canonical import parse
from megafs.daemon.engine import Engine
from megafs.errors import MegaFSError, Unavailable
from megafs.files.namespace import Change
from megafs.index.aside import Aside
from megafs.model import ROOT_INO, ChunkId, ChunkPlace, Ino, PackNumber
from megafs.packs.codec import Codec
from megafs.store.disk import Disk
from megafs.sync.aside import Piece, Run

log = logging.getLogger(__name__)

LOST_AND_FOUND = b"lost+found"
RETRY_S = 60.0  # hosts that have a chunk may be away


class Rescue:
    """Owner of nothing: what is left to do stands in rows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._aside = Aside(engine.database.connection)
        self._codec = Codec(enabled=False)

    async def run(self) -> None:
        """Until cancelled; mostly there is nothing to do."""
        while self._aside.all() and not self._engine.keeping.claims.is_lost:
            try:
                await self._bring_back()
            except MegaFSError as error:
                log.info("files of an older state are not in lost+found yet: %s", error)
                await trio.sleep(RETRY_S)
        await trio.sleep_forever()

    async def _bring_back(self) -> None:
        rows = self._aside.all()
        found = [parse(Piece, piece) for _, piece in rows]
        brought = 0
        for _, of_one in groupby(found, lambda piece: (piece.folder, piece.path)):
            whole = list(of_one)
            if not self._is_there(whole):
                await self._bring(whole)
                brought += 1
        await self._engine.commits.durable_now()
        self._aside.remove(rows[-1][0])
        await self._engine.commits.durable_now()
        folders = sorted({piece.folder for piece in found})
        for folder in folders:
            await trio.to_thread.run_sync(
                lambda name: shutil.rmtree(self._engine.paths.aside / name, ignore_errors=True), os.fsdecode(folder)
            )
        if brought:
            log.warning(
                "%d files that this device had and never shipped differ from the hosts' newer state: they are in %s",
                brought,
                ", ".join(f"lost+found/{os.fsdecode(folder)}" for folder in folders),
            )

    def _is_there(self, whole: list[Piece]) -> bool:
        """Whether the newer state has the same under the same path, with the same attributes."""
        names, first = self._engine.names, whole[0]
        row = names.row(ROOT_INO)
        for name in first.path.split(b"/"):
            found = names.lookup(row.ino, name)
            if found is None:
                return False
            row = found
        ino = row.ino
        said = first.mode, first.uid, first.gid, first.mtime_ns, first.size
        tags = [(tag.name, tag.value) for tag in first.tags]
        if (row.mode, row.uid, row.gid, row.mtime_ns, row.size) != said:
            return False
        if sorted(self._engine.inodes.xattrs(ino)) != sorted(tags):
            return False
        if stat.S_ISLNK(row.mode):
            return names.target(ino) == first.target
        mine = [(run.start, run.stop, ChunkId(run.chunk), run.skip) for piece in whole for run in piece.runs]
        return mine == self._engine.extents.covering(ino, 0, row.size) and not self._engine.content.pending_bytes(ino)

    async def _bring(self, whole: list[Piece]) -> None:
        engine, first = self._engine, whole[0]
        above, owner = ROOT_INO, engine.names.row(ROOT_INO)
        for name in (LOST_AND_FOUND, first.folder, *first.path.split(b"/")[:-1]):
            above = self._there(above, name, stat.S_IFDIR | 0o700, owner.uid, owner.gid, b"")
        name = first.path.rpartition(b"/")[2]
        ino = self._there(above, name, first.mode, first.uid, first.gid, first.target)
        for piece in whole:
            for run in piece.runs:
                plain = await self._plain(run)
                await engine.content.write(ino, run.start, plain[run.skip : run.skip + run.stop - run.start])
        if stat.S_ISREG(first.mode):
            engine.names.change(ino, Change(size=first.size))
        for tag in first.tags:
            engine.inodes.set_xattr(ino, tag.name, tag.value)
        engine.names.change(ino, Change(mode=first.mode, mtime_ns=first.mtime_ns))
        engine.commits.note_change()

    def _there(self, above: Ino, name: bytes, mode: int, uid: int, gid: int, target: bytes) -> Ino:
        """The inode of that name, made if it is not there."""
        names = self._engine.names
        row = names.lookup(above, name)
        if row is None:
            row = names.create(above, name, mode, uid, gid, target=target if stat.S_ISLNK(mode) else None)
        return row.ino

    async def _plain(self, run: Run) -> bytes:
        """A chunk: from the packs kept beside, else as the newer history has it."""
        place = ChunkPlace(
            chunk=ChunkId(run.chunk),
            pack=PackNumber(run.pack),
            offset=run.offset,
            sealed_bytes=run.sealed_bytes,
            plain_bytes=run.plain_bytes,
            codec=run.codec,
            digest=run.digest,
        )
        found = await trio.to_thread.run_sync(self._kept, run, place)
        if found is not None:
            return found
        there = self._engine.extents.place(place.chunk)
        if there is None:
            raise Unavailable("a chunk of an older state is neither here nor on a host")
        return await self._engine.reader.chunk(there)

    def _kept(self, run: Run, place: ChunkPlace) -> bytes | None:
        """Thread."""
        for folder in self._engine.paths.aside.glob("*"):
            disk = Disk(folder)
            try:
                sealed = disk.read(place.pack, place.offset, place.sealed_bytes)
                packed = self._engine.device.keyring.open_chunk(run.epoch, place, sealed)
            except MegaFSError:
                continue
            finally:
                disk.close()
            return bytes(self._codec.decompress(place.codec, packed, place.plain_bytes))
        return None
