"""How secrets end: their bytes are overwritten, as far as CPython allows. Pure, and imports nothing heavy."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

KEY_BYTES = 32
HALF_BYTES = KEY_BYTES // 2


def wipe(*secrets: bytes) -> None:
    """Overwrite the bytes of objects that nobody will use again. A copy that something else made (a conversion, a
    slice, a library) is not reached."""
    for secret in secrets:
        if len(secret) >= HALF_BYTES:  # shorter ones may be shared constants
            ctypes.memset(id(secret) + bytes.__basicsize__ - 1, 0, len(secret))


@contextmanager
def read_once(file: FileIO, most: int) -> Iterator[memoryview]:
    """All that comes from ``file``, which has no buffer, up to ``most`` bytes; overwritten afterwards."""
    with memoryview(bytearray(most)) as view:
        try:
            size = 0
            while part := file.readinto(view[size:]):
                size += part
            yield view[:size]
        finally:
            view[:] = bytes(most)


def own(secret: bytes) -> bytes:
    """A copy that only its maker has, to be wiped without harm to others."""
    return bytes(bytearray(secret))
