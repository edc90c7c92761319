"""Where the control socket is and who is at its other end; shared by both ends."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET_NAME = "control"
CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@contextmanager
def reachable(directory: Path) -> Iterator[str]:
    """A name for ``directory/control`` that always fits into the 108 bytes of a socket address, however deep the
    state directory is."""
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_NAME}"
    finally:
        os.close(folder)


def peer(raw: bytes) -> tuple[int, int]:
    """Process id and user id from the bytes of SO_PEERCRED."""
    pid, uid, _ = CREDENTIALS.unpack(raw)
    return pid, uid


PEER_OPTION = (socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
