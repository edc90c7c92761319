"""The flags in the answer to INIT, and nothing else of it; what the kernel then no longer asks."""

import os
import socket
import struct
from pathlib import Path

import pyfuse3
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from megafs.fuse import loop
from megafs.fuse.handshake import DONT_MASK, INIT, WANTED, Handshake, asking, offered

WRITES = 20


def request(flags: int, *, opcode: int = INIT) -> bytes:
    """As the kernel sends it; ``flags`` is what it can do."""
    header = struct.pack("=IIQQIIIHH", 104, opcode, 7, 0, 0, 0, 0, 0, 0)
    return header + struct.pack("=IIII", 7, 45, 131072, flags) + bytes(48)


def answer(flags: int, *, error: int = 0) -> bytes:
    return struct.pack("=IiQ", 80, error, 7) + struct.pack("=IIII", 7, 36, 131072, flags) + bytes(48)


def test_only_an_init_offers_something():
    assert offered(request(DONT_MASK | 1)) == DONT_MASK
    assert offered(request(0xFFFFFFFF)) == WANTED
    assert not offered(request(~WANTED & 0xFFFFFFFF))
    assert not offered(request(DONT_MASK, opcode=1))
    assert not offered(request(DONT_MASK)[:55])
    assert not offered(b"")


@given(flags=st.integers(0, 2**32 - 1), wanted=st.sampled_from([0, DONT_MASK, WANTED]))
def test_only_these_bits_change(flags, wanted):
    assert asking(answer(flags), wanted) == answer(flags | wanted)


@pytest.mark.parametrize("refusal", [answer(0, error=-71), answer(0)[:31], b""])
def test_refusals_pass_as_they_are(refusal):
    assert asking(refusal, WANTED) == refusal


@pytest.mark.parametrize("offers", [0, DONT_MASK, WANTED])
async def test_the_kernel_is_back_in_its_place(offers):
    kernel, served = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    open_before = len(os.listdir("/proc/self/fd"))
    with kernel, served:
        handshake, fd = Handshake(), served.fileno()
        asked = request(offers)
        kernel.send(asked)
        await handshake.begin(fd)
        assert os.read(fd, 1000) == asked
        os.write(fd, answer(5))
        handshake.end(fd)
        assert kernel.recv(1000) == answer(5 | offers)
        kernel.send(b"the next request")
        assert os.read(fd, 1000) == b"the next request"
        assert not os.get_inheritable(fd)
        assert len(os.listdir("/proc/self/fd")) == open_before


class Counting(pyfuse3.Operations):
    """One file that takes everything, and how often its capabilities were asked for."""

    enable_writeback_cache = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def _entry(self, ino: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode = ino, 0o40755 if ino == 1 else 0o100644
        entry.entry_timeout = entry.attr_timeout = 3600
        return entry

    async def getattr(self, inode, ctx):
        return self._entry(inode)

    async def setattr(self, inode, attr, fields, fh, ctx):
        return self._entry(inode)

    async def lookup(self, parent_inode, name, ctx):
        return self._entry(2)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=2)

    async def write(self, fh, off, buf):
        return len(buf)

    async def getxattr(self, inode, name, ctx):
        self.asked += name == b"security.capability"
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR)


def write_often(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        for _ in range(WRITES):
            file.write(b"x")


async def asked_while_writing(folder: Path, *, enabled: bool) -> int:
    loop.install(enabled=enabled)
    counting = Counting()
    pyfuse3.init(counting, str(folder), {"default_permissions", "fsname=test"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            with trio.fail_after(20):
                await trio.to_thread.run_sync(write_often, folder / "file")
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)
        loop.uninstall()
    return counting.asked


@pytest.mark.mounted
@pytest.mark.parametrize(("enabled", "most"), [(True, 1), (False, WRITES)])
async def test_writes_ask_for_capabilities_once(tmp_path, enabled, most):
    """The control: with trio's own loop, each write(2) asks."""
    assert await asked_while_writing(tmp_path, enabled=enabled) == most
