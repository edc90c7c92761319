"""The first exchange with the kernel, with two things changed in the answer.

*The kernel leaves the umask to us* (FUSE_DONT_MASK): under a default ACL it does not apply, so the file system must get
the mode unmasked. Should the flag not be there, modes arrive masked, and ``Namespace.create`` masks them once more,
which changes nothing.

*The kernel leaves set-id bits to us* (FUSE_HANDLE_KILLPRIV_V2, files.setid). Without that it asks for
security.capability at every write(2). With it, it remembers that an inode has none, until it learns new attributes or
somebody sets one. 1 GB in pieces of 128 KiB makes 1,000 requests instead of 8,600; an untarred file ten instead of
fourteen.

libfuse's default is to set neither, and pyfuse3 does not let anybody. So for INIT only, the descriptor that libfuse
reads is one end of a pair of sockets; we stand at the other end, pass the request on, set the flags in the answer that
the kernel offered, hand it to the kernel, and put the kernel in its place again. Nothing that comes later is looked at.
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
HANDLE_KILLPRIV_V2 = 1 << 28
WANTED = DONT_MASK | HANDLE_KILLPRIV_V2


def offered(request: bytes) -> int:
    """Which of the flags that we want the kernel offers; none if this is no INIT."""
    if len(request) < REQUEST.size:
        return 0
    fields = REQUEST.unpack_from(request)
    return int(fields[-1] & WANTED) if fields[1] == INIT else 0


def asking(answer: bytes, wanted: int) -> bytes:
    """An answer to INIT, with the flags. A refusal, or what is too short to be an answer, stays as it is."""
    if len(answer) < ANSWER.size or ANSWER.unpack_from(answer)[1]:
        return answer
    (flags,) = struct.unpack_from("=I", answer, FLAGS_AT)
    return answer[:FLAGS_AT] + struct.pack("=I", flags | wanted) + answer[FLAGS_AT + 4 :]


class Handshake:
    """Owner of the kernel's descriptor while libfuse has a socket in its place."""

    def __init__(self) -> None:
        self._kernel = -1
        self._ours: socket.socket | None = None
        self._offered = 0

    async def begin(self, fd: int) -> None:
        """Take the place of the kernel behind ``fd`` and pass its first request on: ``fd`` is readable then."""
        await trio.lowlevel.wait_readable(fd)
        request = os.read(fd, REQUEST_BYTES)
        self._offered = offered(request)
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
        os.write(fd, asking(answer, self._offered))
