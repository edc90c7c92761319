"""What the disk is told beforehand: what is about to be appended to a file, and what is going to be read of one."""

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

FALLOC_FL_KEEP_SIZE = 0x01  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def set_aside(descriptor: int, size: int) -> None:
    """Have the disk keep ``size`` bytes behind the end of the file, so that a full disk shows before and not in the
    middle; its length stays (fallocate(2)). Where the file system cannot do that, nothing happens. Raises OSError."""
    end = os.fstat(descriptor).st_size
    if _libc.fallocate(descriptor, FALLOC_FL_KEEP_SIZE, end, size) != 0:
        code = ctypes.get_errno()
        if code != errno.EOPNOTSUPP:
            raise OSError(code, os.strerror(code))


def read_soon(path: Path, size: int) -> None:
    """The first ``size`` bytes: the kernel reads them in long pieces, before they are asked for page by page. Not for a
    database that this process has open: closing a second descriptor of it drops SQLite's locks."""
    with suppress(OSError):  # not there yet
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
