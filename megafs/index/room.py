"""Room on the disk for what is about to be appended to a file: a full disk then shows before, not in the middle."""

import ctypes
import errno
import os

FALLOC_FL_KEEP_SIZE = 0x01  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def set_aside(descriptor: int, size: int) -> None:
    """Have the disk keep ``size`` bytes behind the end of the file; its length stays (fallocate(2)). Where the file
    system cannot do that, nothing happens. Raises OSError."""
    end = os.fstat(descriptor).st_size
    if _libc.fallocate(descriptor, FALLOC_FL_KEEP_SIZE, end, size) != 0:
        code = ctypes.get_errno()
        if code != errno.EOPNOTSUPP:
            raise OSError(code, os.strerror(code))
