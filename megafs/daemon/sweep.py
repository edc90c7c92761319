"""What is left of keys in our own memory when a mount is locked is overwritten, whoever left it there.

Keys are wiped where they are known; but libraries copy them as well (key derivation, SQLite's statements) and free the
copies as they are. So the whole memory is looked through once more, by process_vm_readv(2) on ourselves: unlike a
pointer it survives memory that another thread gives back meanwhile.
"""

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from megafs.wiping import HALF_BYTES, wipe

PART_BYTES = 4 << 20

_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def sweep(secrets: Iterable[bytes], spelled: Iterable[bytes]) -> int:
    """Thread; a second for 200 MiB. Overwrite every copy of each half of ``secrets``, these themselves included, and of
    ``spelled`` in hex; returns how many there were. Halves, because what was freed may have lost its beginning. Raises
    OSError if the kernel does not let us."""
    patterns = [half.hex().encode() for secret in spelled for half in _halves(secret)]
    patterns += [half for secret in secrets for half in _halves(secret)]
    ours = {id(pattern) + bytes.__basicsize__ - 1 for pattern in patterns}
    buffer = bytearray(PART_BYTES)
    held = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    within = range(ctypes.addressof(held), ctypes.addressof(held) + len(buffer))
    zeros, found = ctypes.create_string_buffer(2 * HALF_BYTES), 0
    try:
        for start, end in _parts():
            size = _copy("process_vm_readv", held, start, end - start)
            if buffer.count(0, 0, size) == size:
                continue
            for pattern in patterns:
                at = buffer.find(pattern, 0, size)
                while at >= 0:
                    if start + at not in ours and start + at not in within:
                        _copy("process_vm_writev", zeros, start + at, len(pattern))
                        found += 1
                    at = buffer.find(pattern, at + 1, size)
    finally:
        ctypes.memset(held, 0, len(buffer))
        wipe(*patterns)
    return found


def _halves(secret: bytes) -> Iterator[bytes]:
    for half in (secret[:HALF_BYTES], secret[HALF_BYTES:]):
        if any(half):  # else it was wiped, and zeros are everywhere
            yield half


def _parts() -> Iterator[tuple[int, int]]:
    """What can be written, in parts that overlap by more than a pattern."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, *_ = line.split()
        start, end = (int(address, 16) for address in addresses.split("-"))
        if rights.startswith("rw"):
            yield from ((at, min(at + PART_BYTES, end)) for at in range(start, end, PART_BYTES - 2 * HALF_BYTES))


def _copy(call: str, here: ctypes.Array[ctypes.c_char], there: int, size: int) -> int:
    """How many bytes it took; 0 where there is no memory any more."""
    mine = _Vector(ctypes.addressof(here), size)
    theirs = _Vector(there, size)
    done = getattr(_libc, call)(os.getpid(), ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    if done < 0 and ctypes.get_errno() != errno.EFAULT:  # unmapped meanwhile, or a device
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return max(0, int(done))
