"""The index failed in the middle of a change: once its disk is well, the daemon begins anew from the last commit,
inside the same mount.

As after a crash, what was not synced since the last commit is lost; but here kernel and programs live on. So files that
lost something say EIO once at the next write or fsync, inodes that were never committed are gone for whoever has them
open, and the kernel forgets what it knew of all of them.
"""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import pyfuse3
import trio

from megafs.daemon.cure import disk_gives, sentence
from megafs.daemon.engine import Engine
from megafs.errors import DamagedIndex, DiskError, MegaFSError
from megafs.fuse.operations import Operations
from megafs.index import lost
from megafs.index.database import SICK
from megafs.model import Ino
from megafs.slotfile import write_private

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between two looks at a disk that was sick
LOOK_AGAIN_S = 60.0  # at an index that is damaged
OVER = DiskError("what was not synced before the index could not be read is lost")


class Anew(Protocol):
    """Makes an engine from the last commit. ``given_out``: the newest counter that the kernel may know."""

    def __call__(self, former: Engine, given_out: int) -> Engine: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the kernel may know that is not so."""

    inodes: set[Ino]
    dirents: set[int]
    names: set[tuple[Ino, bytes]]


async def until_well(engine: Engine) -> None:
    """Return once the whole index can be read and its disk takes a file. If it is the index that is damaged, and not
    its disk that is sick, that is said, with what to do."""
    pause_s, paths, database = LOOK_S, engine.paths, engine.database

    def is_damaged() -> bool:
        return disk_gives(paths.index) and not database.is_well()  # in this order: what was given is in memory now

    def is_well() -> bool:
        probe = paths.root / "probe"
        try:
            write_private(probe, b"")
            os.unlink(probe)
        except OSError:
            return False
        return database.is_well()

    while True:
        await trio.sleep(pause_s)
        if await trio.to_thread.run_sync(is_well):
            return
        if pause_s == LOOK_S and await trio.to_thread.run_sync(is_damaged):
            pause_s = LOOK_AGAIN_S
            engine.commits.explain(sentence(paths.root.name, DamagedIndex("its pages do not fit together")))


def before(engine: Engine) -> Known | None:
    """What was changed since the last commit; None if nobody can know: then only a new mount helps."""
    try:
        changeset = engine.database.forgotten_changes()
        if changeset is None:
            return None
        inodes, dirents = lost.changed(changeset)
        inodes |= engine.database.rows.late.keys()
        return Known(inodes=inodes, dirents=dirents, names=lost.names(engine.database.connection, dirents))
    except SICK:
        return None


async def begin(engine: Engine, known: Known, operations: Operations, make: Anew) -> Engine:
    """``engine``'s loops have ended. Returns the one that follows, which answers requests already."""
    inodes = known.inodes | engine.content.end(OVER)
    engine.commits.end(OVER)
    given_out = engine.database.given_out
    engine.database.stop_writing()
    while True:
        try:
            anew = make(engine, given_out)
            break
        except (MegaFSError, *SICK) as error:
            log.warning("the index cannot be opened again yet: %s", error)
            await trio.sleep(LOOK_S)
    operations.begin_anew(anew.names, anew.content, anew.xattrs, anew.commits)
    anew.content.note_lost(inodes)
    names = known.names | lost.names(anew.database.connection, known.dirents)
    log.warning(
        "the index can be read again: all goes on from the last commit; %d files and directories had changes since, "
        "which are lost",
        len(inodes),
    )
    await trio.to_thread.run_sync(_forget, inodes, names)
    return anew


def _forget(inodes: set[Ino], names: set[tuple[Ino, bytes]]) -> None:
    """Thread: the kernel may have to hand over pages first, and the loop takes them."""
    for parent, name in names:
        with suppress(OSError):  # it did not know the name
            pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))
    for ino in inodes:
        with suppress(OSError):
            pyfuse3.invalidate_inode(pyfuse3.InodeT(ino))
