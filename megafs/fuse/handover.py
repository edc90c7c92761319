"""The kernel hands over what programs have written: syncfs(2) on our own mount, from a thread.

Not pyfuse3.syncfs: that keeps the interpreter's lock while it waits for the loop to take the pages, for ever.
"""

import ctypes
import os
from pathlib import Path


def hand_over(mountpoint: Path) -> None:
    """Thread. Return when everything that was written before has been asked of the loop. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)
