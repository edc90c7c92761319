"""A mount whose daemon takes no page that was written, and asks the kernel for them as ours does at its end.

Run as a program: ``python -m tests.mounted.unanswering MOUNTPOINT own|other``. It mounts ``MOUNTPOINT/image``; once a
program has written to that and a line comes on stdin, it asks for the pages: through ``hand_over`` (another process
waits), or in a thread of its own (the control), and says ``asked`` once the kernel waits for the daemon.
"""

import os
import stat
import sys
import threading
from pathlib import Path

import pyfuse3
import trio

from megafs.fuse.handover import hand_over

FILE_INO = 2


class Unanswering(pyfuse3.Operations):
    """Pages are never taken."""

    enable_writeback_cache = True

    def attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino = inode
        found.st_nlink = 1
        found.st_mode = stat.S_IFREG | 0o600 if inode == FILE_INO else stat.S_IFDIR | 0o700
        found.st_size = 0
        found.attr_timeout = found.entry_timeout = 3600
        return found

    async def getattr(self, inode, ctx=None):
        return self.attributes(inode)

    async def lookup(self, parent_inode, name, ctx=None):
        return self.attributes(FILE_INO)

    async def open(self, inode, flags, ctx=None):
        return pyfuse3.FileInfo(fh=FILE_INO)

    async def write(self, fh, off, buf):
        print("asked", flush=True)
        await trio.sleep_forever()


def ask_in_a_thread(mountpoint: Path) -> None:
    """As it was done once (with syncfs, which waited in older kernels)."""
    os.fsync(os.open(mountpoint / "image", os.O_RDWR))


async def serve(mountpoint: Path, asker: str) -> None:
    """Until killed."""

    def ask() -> None:
        sys.stdin.readline()
        if asker == "other":
            hand_over([bytes(mountpoint / "image")])
        else:
            ask_in_a_thread(mountpoint)

    threading.Thread(target=ask, daemon=True).start()
    await pyfuse3.main()


if __name__ == "__main__":
    pyfuse3.init(Unanswering(), sys.argv[1], {"fsname=unanswering", *pyfuse3.default_options})
    trio.run(serve, Path(sys.argv[1]), sys.argv[2])
