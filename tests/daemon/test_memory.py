"""What the daemon holds does not grow with the number of files, and what it has freed goes back to the system."""

import ctypes
import gc
import os
import sys
import tracemalloc
from pathlib import Path

import trio

from megafs.config import MIB
from megafs.daemon import memory
from megafs.files.settle import REMEMBERED
from megafs.index.ledger import Ledger
from megafs.index.replication import touched
from megafs.model import ROOT_INO
from tests.security.rig import Drive, Rig

FILES = REMEMBERED + 1_000  # what is remembered of so many is all that ever is
PIECES, PIECE_BYTES = 200_000, 300


async def fill(drive: Drive, first: int, kept: list[object] | None = None) -> int:
    """Make and ship as many files more, and forget them as the kernel does; objects of Python that are left."""
    engine = drive.engine
    for number in range(first, first + FILES):
        row = engine.names.create(ROOT_INO, b"%d" % number, 0o100644, 0, 0)
        await engine.content.write(row.ino, 0, b"a small file")
        engine.commits.note_change()
        if kept is not None:
            kept.append(row)
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    await drive.sync()
    engine.database.rows.settle()  # of which there are so and so many at most (tests/index/test_rows.py)
    gc.collect()
    return sys.getallocatedblocks()


async def test_nothing_is_held_of_a_file(tmp_path):
    """Of eleven thousand files more fewer than two thousand objects more are left; the control keeps one of each."""
    async with Rig(tmp_path).running() as drive:
        before = await fill(drive, 0)
        after = await fill(drive, FILES)
        assert after - before < FILES / 5
        kept: list[object] = []
        assert await fill(drive, 2 * FILES, kept) - after > FILES


async def test_a_checkpoint_looks_through_changesets_one_by_one(tmp_path):
    """All of them may be more than fits: half as much as the checkpoint."""
    async with Rig(tmp_path).running() as drive:
        for number in range(8):
            row = drive.engine.names.create(ROOT_INO, b"%d" % number, 0o100644, 0, 0)
            for part in range(16):
                drive.engine.names.set_xattr(row.ino, b"user.%d" % part, os.urandom(65_000), keep_set_gid=True)
            await drive.engine.commits.durable_now()
        ledger = Ledger(drive.engine.database.connection)
        tracemalloc.start()
        try:
            assert sum(1 for _ in touched(ledger.changesets(0, ledger.newest_outbox())))
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            whole = list(ledger.changesets(0, ledger.newest_outbox()))
            _, all_at_once = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sum(map(len, whole)) > 7 * MIB
        assert most < 4 * MIB < all_at_once


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_is_freed_goes_back():
    """Small pieces, with one behind them that stays: by itself glibc keeps all of it."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    pieces = [libc.malloc(PIECE_BYTES) for _ in range(PIECES)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE_BYTES)
    for piece in pieces[:-1]:
        libc.free(piece)
    before = resident_bytes()
    memory.give_back()
    assert before - resident_bytes() > PIECES * PIECE_BYTES / 2
    libc.free(pieces[-1])
