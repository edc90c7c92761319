"""A file system with an empty root and a control socket: what the CLI needs of a daemon to mount, find and end one.

Run as ``python -m tests.cli.standin VAULT_DIRECTORY MOUNTPOINT``; says "ready" on stdout.
"""

import stat
import sys
from pathlib import Path

import pyfuse3
import trio

from megafs.control import server
from megafs.control.messages import Status, Synced


class Empty(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o700
        entry.st_nlink = 2
        return entry

    async def opendir(self, inode, ctx):
        return inode


async def main(vault, mountpoint):
    async def status(request):
        yield Status(
            vault=vault.name,
            mountpoint=mountpoint,
            files=0,
            bytes=0,
            unshipped_bytes=2048,
            unshipped_commits=1,
            newest_commit=1,
            cache_bytes=0,
            cache_limit_bytes=0,
            hosts=(),
        )

    async def sync(request):
        yield Synced(bytes=0, newest_commit=1)

    pyfuse3.init(Empty(), mountpoint, {f"fsname={vault}", "subtype=megafs"})
    async with server.serving(vault, {"status": status, "sync": sync}), trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        print("ready", flush=True)
    pyfuse3.close()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
