"""The flag in the answer to INIT, and nothing else of it."""

import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.fuse.handshake import DONT_MASK, INIT, Handshake, asking, offers


def request(flags: int, *, opcode: int = INIT) -> bytes:
    """As the kernel sends it; ``flags`` is what it can do."""
    header = struct.pack("=IIQQIIIHH", 104, opcode, 7, 0, 0, 0, 0, 0, 0)
    return header + struct.pack("=IIII", 7, 45, 131072, flags) + bytes(48)


def answer(flags: int, *, error: int = 0) -> bytes:
    return struct.pack("=IiQ", 80, error, 7) + struct.pack("=IIII", 7, 36, 131072, flags) + bytes(48)


def test_only_an_init_with_the_flag_offers_it():
    assert offers(request(DONT_MASK | 1))
    assert not offers(request(~DONT_MASK & 0xFFFFFFFF))
    assert not offers(request(DONT_MASK, opcode=1))
    assert not offers(request(DONT_MASK)[:55])
    assert not offers(b"")


@given(flags=st.integers(0, 2**32 - 1))
def test_one_bit_changes(flags):
    assert asking(answer(flags)) == answer(flags | DONT_MASK)


@pytest.mark.parametrize("refusal", [answer(0, error=-71), answer(0)[:31], b""])
def test_refusals_pass_as_they_are(refusal):
    assert asking(refusal) == refusal


@pytest.mark.parametrize("offered", [True, False])
async def test_the_kernel_is_back_in_its_place(offered):
    kernel, served = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    open_before = len(os.listdir("/proc/self/fd"))
    with kernel, served:
        handshake, fd = Handshake(), served.fileno()
        asked = request(DONT_MASK if offered else 0)
        kernel.send(asked)
        await handshake.begin(fd)
        assert os.read(fd, 1000) == asked
        os.write(fd, answer(5))
        handshake.end(fd)
        assert kernel.recv(1000) == answer(5 | DONT_MASK if offered else 5)
        kernel.send(b"the next request")
        assert os.read(fd, 1000) == b"the next request"
        assert not os.get_inheritable(fd)
        assert len(os.listdir("/proc/self/fd")) == open_before
