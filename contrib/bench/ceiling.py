#!/usr/bin/env python3
# ruff: noqa: ANN001, ANN201 - the handlers' signatures are those of pyfuse3.Operations
"""The bare pyfuse3 ceiling: a file system that keeps everything in a few dicts and does nothing else.

What a benchmark loses here, no file system on pyfuse3 can win back; what MegaFS loses beyond it is its own. Uses the
same mount options, the same kernel flags and (unless ``--stock``) the same loop as MegaFS.

    python contrib/bench/ceiling.py MOUNTPOINT [--stock]     # in the foreground until it is unmounted
"""

import argparse
import bisect
import errno
import os
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pyfuse3
import trio

from megafs.fuse import loop

TIMEOUT_S = 3600.0
READ_AHEAD_KIB = 1024


class Node:
    """One inode: its reply, reused for every request, and what it holds."""

    __slots__ = ("attributes", "data", "entries", "extended", "lookups", "parent", "target")

    def __init__(self, ino: int, mode: int, parent: int, ctx: pyfuse3.RequestContext | None) -> None:
        now_ns = time.time_ns()
        self.attributes = pyfuse3.EntryAttributes()
        self.attributes.st_ino = pyfuse3.InodeT(ino)
        self.attributes.st_mode = pyfuse3.ModeT(mode)
        self.attributes.st_nlink = 2 if stat.S_ISDIR(mode) else 1
        self.attributes.st_uid = ctx.uid if ctx else os.getuid()
        self.attributes.st_gid = ctx.gid if ctx else os.getgid()
        self.attributes.st_atime_ns = self.attributes.st_mtime_ns = self.attributes.st_ctime_ns = now_ns
        self.attributes.entry_timeout = self.attributes.attr_timeout = TIMEOUT_S
        self.data = bytearray()
        self.entries: dict[bytes, tuple[int, int]] = {}  # name -> cookie, inode
        self.extended: dict[bytes, bytes] = {}
        self.lookups = 1
        self.parent = parent
        self.target = b""


class Bare(pyfuse3.Operations):
    """Every request that the benchmark's workloads make, at the least cost that Python allows."""

    enable_writeback_cache = True
    enable_acl = True
    supports_dot_lookup = True

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {1: Node(1, stat.S_IFDIR | 0o755, 1, None)}
        self.last_ino = 1
        self.last_cookie = 2
        self.last_listing = 0
        self.listings: dict[int, list[tuple[int, bytes, int]]] = {}
        self.nothing = pyfuse3.EntryAttributes()
        self.nothing.entry_timeout = TIMEOUT_S

    def add(self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> Node:
        entries = self.nodes[parent].entries
        if name in entries:
            raise pyfuse3.FUSEError(errno.EEXIST)
        self.last_ino = ino = self.last_ino + 1
        self.last_cookie += 1
        node = self.nodes[ino] = Node(ino, mode, parent, ctx)
        entries[name] = (self.last_cookie, ino)
        return node

    def drop(self, ino: int) -> None:
        node = self.nodes[ino]
        node.attributes.st_nlink -= 1
        if node.lookups == 0 and node.attributes.st_nlink <= 0:
            del self.nodes[ino]

    async def lookup(self, parent_inode, name, ctx):
        if name == b".":
            ino = parent_inode
        elif name == b"..":
            ino = self.nodes[parent_inode].parent
        else:
            entry = self.nodes[parent_inode].entries.get(name)
            if entry is None:
                return self.nothing
            ino = entry[1]
        node = self.nodes[ino]
        node.lookups += 1
        return node.attributes

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            node = self.nodes.get(ino)
            if node is not None:
                node.lookups -= count
                if node.lookups <= 0 and node.attributes.st_nlink <= 0:
                    del self.nodes[ino]

    async def getattr(self, inode, ctx):
        return self.nodes[inode].attributes

    async def setattr(self, inode, attr, fields, fh, ctx):
        node = self.nodes[inode]
        mine = node.attributes
        if fields.update_size:
            size = attr.st_size
            if size < len(node.data):
                del node.data[size:]
            else:
                node.data += bytes(size - len(node.data))
            mine.st_size = size
        if fields.update_mode:
            mine.st_mode = attr.st_mode
        if fields.update_uid:
            mine.st_uid = attr.st_uid
        if fields.update_gid:
            mine.st_gid = attr.st_gid
        if fields.update_atime:
            mine.st_atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            mine.st_mtime_ns = attr.st_mtime_ns
        if fields.update_ctime:
            mine.st_ctime_ns = attr.st_ctime_ns
        return mine

    async def readlink(self, inode, ctx):
        return self.nodes[inode].target

    async def mknod(self, parent_inode, name, mode, rdev, ctx):
        return self.add(parent_inode, name, mode, ctx).attributes

    async def mkdir(self, parent_inode, name, mode, ctx):
        node = self.add(parent_inode, name, stat.S_IFDIR | mode, ctx)
        self.nodes[parent_inode].attributes.st_nlink += 1
        return node.attributes

    async def symlink(self, parent_inode, name, target, ctx):
        node = self.add(parent_inode, name, stat.S_IFLNK | 0o777, ctx)
        node.target = target
        node.attributes.st_size = len(target)
        return node.attributes

    async def link(self, inode, new_parent_inode, new_name, ctx):
        entries = self.nodes[new_parent_inode].entries
        if new_name in entries:
            raise pyfuse3.FUSEError(errno.EEXIST)
        self.last_cookie += 1
        entries[new_name] = (self.last_cookie, inode)
        node = self.nodes[inode]
        node.attributes.st_nlink += 1
        node.lookups += 1
        return node.attributes

    async def unlink(self, parent_inode, name, ctx):
        entry = self.nodes[parent_inode].entries.pop(name, None)
        if entry is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        self.drop(entry[1])

    async def rmdir(self, parent_inode, name, ctx):
        parent = self.nodes[parent_inode]
        entry = parent.entries.get(name)
        if entry is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        if self.nodes[entry[1]].entries:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del parent.entries[name]
        parent.attributes.st_nlink -= 1
        self.nodes[entry[1]].attributes.st_nlink = 1
        self.drop(entry[1])

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        if flags:
            raise pyfuse3.FUSEError(errno.EINVAL)
        old, new = self.nodes[parent_inode_old], self.nodes[parent_inode_new]
        cookie, ino = old.entries.pop(name_old)
        replaced = new.entries.get(name_new)
        new.entries[name_new] = (replaced[0] if replaced else cookie, ino)
        if replaced:
            self.drop(replaced[1])
        if stat.S_ISDIR(self.nodes[ino].attributes.st_mode):
            self.nodes[ino].parent = parent_inode_new
            old.attributes.st_nlink -= 1
            new.attributes.st_nlink += 1

    async def open(self, inode, flags, ctx):
        if flags & os.O_TRUNC:
            self.nodes[inode].data.clear()
            self.nodes[inode].attributes.st_size = 0
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def create(self, parent_inode, name, mode, flags, ctx):
        node = self.add(parent_inode, name, mode, ctx)
        return pyfuse3.FileInfo(fh=node.attributes.st_ino, keep_cache=True), node.attributes

    async def read(self, fh, off, size):
        return memoryview(self.nodes[fh].data)[off : off + size]

    async def write(self, fh, off, buf):
        node = self.nodes[fh]
        data = node.data
        if off == len(data):
            data += buf
        else:
            if off > len(data):
                data += bytes(off - len(data))
            data[off : off + len(buf)] = buf
        if len(data) > node.attributes.st_size:
            node.attributes.st_size = len(data)
        return len(buf)

    async def flush(self, fh):
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, fh):
        pass

    async def fsync(self, fh, datasync):
        pass

    async def opendir(self, inode, ctx):
        self.last_listing += 1
        self.listings[self.last_listing] = sorted((c, name, i) for name, (c, i) in self.nodes[inode].entries.items())
        return self.last_listing

    async def readdir(self, fh, start_id, token):
        listing = self.listings[fh]
        for place in range(bisect.bisect_right(listing, start_id, key=lambda entry: entry[0]), len(listing)):
            cookie, name, ino = listing[place]
            node = self.nodes.get(ino)
            if node is None:
                continue
            if not pyfuse3.readdir_reply(token, name, node.attributes, cookie):
                return
            node.lookups += 1

    async def releasedir(self, fh):
        del self.listings[fh]

    async def fsyncdir(self, fh, datasync):
        pass

    async def getxattr(self, inode, name, ctx):
        value = self.nodes[inode].extended.get(name)
        if value is None:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return value

    async def setxattr(self, inode, name, value, ctx):
        if name.startswith(b"system."):  # no ACLs, as ever
            raise pyfuse3.FUSEError(errno.ENOTSUP)
        self.nodes[inode].extended[name] = value

    async def listxattr(self, inode, ctx):
        return self.nodes[inode].extended

    async def statfs(self, ctx):
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = 4096
        answer.f_blocks = answer.f_bfree = answer.f_bavail = 1 << 28
        answer.f_files = answer.f_ffree = answer.f_favail = 1 << 28
        answer.f_namemax = 255
        return answer


def raise_read_ahead(mountpoint: Path) -> None:
    """What MegaFS does as well where it may; the mount is reachable only once the loop runs."""
    device = os.stat(mountpoint).st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if os.access(knob, os.W_OK):
        knob.write_text(str(READ_AHEAD_KIB))


async def serve(mountpoint: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, raise_read_ahead, mountpoint)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--stock", action="store_true", help="trio's own lock and wait_readable")
    arguments = parser.parse_args()
    loop.install(enabled=not arguments.stock)
    options = {*pyfuse3.default_options, "fsname=ceiling"}
    pyfuse3.init(Bare(), str(arguments.mountpoint), options)
    try:
        trio.run(serve, arguments.mountpoint)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
