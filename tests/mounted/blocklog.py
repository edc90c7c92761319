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
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import pyfuse3
import trio

HEADER = Struct(">BQI")  # kind, offset, length; the bytes of a write follow
assert HEADER.size == 13
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
        os.writev(self.log, [HEADER.pack(WRITE, off, len(buf)), buf])
        return os.pwrite(self.image, buf, off)

    async def fsync(self, fh, datasync):
        os.write(self.log, HEADER.pack(FLUSH, 0, 0))

    async def flush(self, fh):
        """Closing is no flush of the device."""


def entries(log: Path) -> Iterator[tuple[int, int, bytes, int]]:
    """(kind, offset, bytes, position behind it) of each whole entry."""
    position = 0
    with log.open("rb") as file:
        while len(header := file.read(HEADER.size)) == HEADER.size:
            kind, offset, length = HEADER.unpack(header)
            data = file.read(length)
            if len(data) < length:
                return
            position += HEADER.size + length
            yield kind, offset, data, position


def cut(log: Path, base: Path, target: Path, position: int, lots: random.Random, *, honest: bool = True) -> int:
    """Make ``target`` the disk as a power cut at ``position`` of the log may leave it; returns how many were lost.

    What was written before the last flush is there. Of what came after, any part may be: each write is there, missing
    or torn at a sector, and they arrive in any order. Not ``honest``: the second half of the flushes was a lie.
    """
    found = [entry for entry in entries(log) if entry[3] <= position]
    flushes = [index for index, entry in enumerate(found) if entry[0] == FLUSH]
    if not honest:
        flushes = flushes[: len(flushes) // 2]
    safe = flushes[-1] + 1 if flushes else 0
    os.system(f"cp --sparse=always {base} {target}")
    lost = 0
    with target.open("r+b") as disk:
        for _, offset, data, _ in found[:safe]:
            os.pwrite(disk.fileno(), data, offset)
        unsafe = [entry for entry in found[safe:] if entry[0] == WRITE] if honest else []
        share = lots.choice((0.0, 0.5, 0.9, 1.0))
        lots.shuffle(unsafe)
        for _, offset, data, _ in unsafe:
            if lots.random() >= share:
                lost += 1
                continue
            sectors = len(data) // SECTOR
            torn = lots.randrange(sectors + 1) * SECTOR if lots.random() < 0.1 else len(data)
            os.pwrite(disk.fileno(), data[:torn], offset)
    return lost


def serve(mountpoint: str, image: str, log: str) -> None:
    """Until unmounted."""
    pyfuse3.init(BlockLog(Path(image), Path(log)), mountpoint, {"fsname=blocklog", *pyfuse3.default_options})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    serve(*sys.argv[1:])
