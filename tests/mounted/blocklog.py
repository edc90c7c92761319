"""A block device that remembers every write and every flush, in order, so that power can be cut anywhere.

What dm-log-writes does in the kernel, which not every kernel has, done with a loop device: its backing file is the one
file of a small FUSE file system, opened past the page cache. The loop driver turns a write into WRITE and a flush (what
fsync of the file system above ends in) into FSYNC; both are appended to a log before they are answered.

Run as a program: ``python -m tests.mounted.blocklog MOUNTPOINT IMAGE LOG`` serves ``MOUNTPOINT/image`` until unmounted.
"""

import errno
import os
import random
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import pyfuse3
import trio

HEADER = Struct(">BQId")  # kind, offset, length, when (of the clock that does not jump); the bytes of a write follow
assert HEADER.size == 21
WRITE, FLUSH = 1, 2
SECTOR = 512
IMAGE_INO = 2


class BlockLog(pyfuse3.Operations):
    """One file named ``image``. Owner of the image and of the log; the log is append-only."""

    def __init__(self, image: Path, log: Path) -> None:
        super().__init__()
        self.image = os.open(image, os.O_RDWR)
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino = inode
        found.st_nlink = 1
        found.st_mode = stat.S_IFREG | 0o600 if inode == IMAGE_INO else stat.S_IFDIR | 0o700
        found.st_size = os.fstat(self.image).st_size if inode == IMAGE_INO else 0
        found.attr_timeout = found.entry_timeout = 3600
        return found

    async def getattr(self, inode, ctx=None):
        return self.attributes(inode)

    async def lookup(self, parent_inode, name, ctx=None):
        if name != b"image":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.attributes(IMAGE_INO)

    async def setattr(self, inode, attr, fields, fh, ctx=None):
        return self.attributes(inode)

    async def open(self, inode, flags, ctx=None):
        return pyfuse3.FileInfo(fh=IMAGE_INO, direct_io=True)

    async def read(self, fh, off, size):
        return os.pread(self.image, size, off)

    async def write(self, fh, off, buf):
        os.writev(self.log, [HEADER.pack(WRITE, off, len(buf), time.monotonic()), buf])
        return os.pwrite(self.image, buf, off)

    async def fsync(self, fh, datasync):
        os.write(self.log, HEADER.pack(FLUSH, 0, 0, time.monotonic()))

    async def flush(self, fh):
        """Closing is no flush of the device."""


class Entry(NamedTuple):
    """One step of the log."""

    kind: int
    offset: int
    data: bytes
    position: int  # of the log, behind it
    time: float


def entries(log: Path, start: int = 0) -> Iterator[Entry]:
    """Each whole entry behind the position ``start``."""
    position = start
    with log.open("rb") as file:
        file.seek(start)
        while len(header := file.read(HEADER.size)) == HEADER.size:
            kind, offset, length, when = HEADER.unpack(header)
            data = file.read(length)
            if len(data) < length:
                return
            position += HEADER.size + length
            yield Entry(kind, offset, data, position, when)


class Replay:
    """The disk of a log at growing positions. Owner of ``safe``, the image of what has been flushed so far."""

    def __init__(self, log: Path, base: Path) -> None:
        self._log, self.safe = log, base.with_name("safe")
        self._position = 0  # all before it is in the image
        os.system(f"cp --sparse=always {base} {self.safe}")

    def cut(self, target: Path, position: int, lots: random.Random) -> None:
        """Make ``target`` the disk as a power cut at ``position`` of the log, not before the last one, may leave it.

        What was written before the last flush is there. Of what came after, any part may be: each write is there,
        missing or torn at a sector, and they arrive in any order.
        """
        unsafe = self._flush(position)
        os.system(f"cp --sparse=always {self.safe} {target}")
        share = lots.choice((0.0, 0.5, 0.9, 1.0))
        lots.shuffle(unsafe)
        with target.open("r+b") as disk:
            for entry in unsafe:
                if lots.random() < share:
                    sectors = len(entry.data) // SECTOR
                    torn = lots.randrange(sectors + 1) * SECTOR if lots.random() < 0.1 else len(entry.data)
                    os.pwrite(disk.fileno(), entry.data[:torn], entry.offset)

    def cut_lying(self, target: Path, position: int) -> None:
        """The same, but the second half of the flushes was a lie (negative control)."""
        flushes = [entry.position for entry in entries(self._log) if entry.kind == FLUSH and entry.position <= position]
        self._flush(flushes[len(flushes) // 2])
        os.system(f"cp --sparse=always {self.safe} {target}")

    def _flush(self, position: int) -> list[Entry]:
        """Carry out what is flushed by then; returns the writes that are not."""
        assert position >= self._position, "backwards"
        writes: list[Entry] = []
        with self.safe.open("r+b") as disk:
            for entry in entries(self._log, self._position):
                if entry.position > position:
                    break
                if entry.kind == WRITE:
                    writes.append(entry)
                    continue
                for write in writes:
                    os.pwrite(disk.fileno(), write.data, write.offset)
                writes.clear()
                self._position = entry.position
        return writes


def serve(mountpoint: str, image: str, log: str) -> None:
    """Until unmounted."""
    pyfuse3.init(BlockLog(Path(image), Path(log)), mountpoint, {"fsname=blocklog", *pyfuse3.default_options})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    serve(*sys.argv[1:])
