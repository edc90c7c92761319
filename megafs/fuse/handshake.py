"""The first exchange with the kernel, with one thing changed in the answer: the kernel leaves the umask to us.

Under a default ACL the umask does not apply, so the file system must get the mode unmasked. FUSE has a flag for that in
the answer to INIT (FUSE_DONT_MASK), but libfuse's default is not to set it, and pyfuse3 does not let anybody. So for
INIT only, the descriptor that libfuse reads is one end of a pair of sockets; we stand at the other end, pass the
request on, set the flag in the answer, hand it to the kernel, and put the kernel in its place again. Nothing that comes
later is looked at. Should the flag not be there, modes arrive masked, and ``Namespace.create`` masks them once more,
which changes nothing.
"""

import os
import socket
import struct

import trio

REQUEST_BYTES = 1 << 16  # at least 8 KiB, or the kernel refuses the read
ANSWER = struct.Struct("=IiQIIII")  # length, error, number of the request; major, minor, read-ahead, flags
FLAGS_AT = 28
assert ANSWER.size == FLAGS_AT + 4
REQUEST = struct.Struct("=IIQQIIIHHIIII")  # length, opcode, number, node, uid, gid, pid, extensions; as above
assert REQUEST.size == 56
INIT = 26
DONT_MASK = 1 << 6


def offers(request: bytes) -> bool:
    """Whether this is an INIT of a kernel that can leave the umask to us."""
    if len(request) < REQUEST.size:
        return False
    fields = REQUEST.unpack_from(request)
    return bool(fields[1] == INIT and fields[-1] & DONT_MASK)


def asking(answer: bytes) -> bytes:
    """An answer to INIT, with the flag. A refusal, or what is too short to be an answer, stays as it is."""
    if len(answer) < ANSWER.size or ANSWER.unpack_from(answer)[1]:
        return answer
    (flags,) = struct.unpack_from("=I", answer, FLAGS_AT)
    return answer[:FLAGS_AT] + struct.pack("=I", flags | DONT_MASK) + answer[FLAGS_AT + 4 :]


class Handshake:
    """Owner of the kernel's descriptor while libfuse has a socket in its place."""

    def __init__(self) -> None:
        self._kernel = -1
        self._ours: socket.socket | None = None
        self._offered = False

    async def begin(self, fd: int) -> None:
        """Take the place of the kernel behind ``fd`` and pass its first request on: ``fd`` is readable then."""
        await trio.lowlevel.wait_readable(fd)
        request = os.read(fd, REQUEST_BYTES)
        self._offered = offers(request)
        self._kernel = os.dup(fd)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), fd, inheritable=False)
        self._ours.send(request)

    def end(self, fd: int) -> None:
        """libfuse has answered: tell the kernel, and put it behind ``fd`` again."""
        assert self._ours is not None, "begin comes first"
        with self._ours:
            answer = self._ours.recv(REQUEST_BYTES, socket.MSG_DONTWAIT)
        os.dup2(self._kernel, fd, inheritable=False)
        os.close(self._kernel)
        os.write(fd, asking(answer) if self._offered else answer)
