"""Reply objects: rows of the index as pyfuse3 wants them.

One EntryAttributes is filled again for every reply: pyfuse3 copies it into the kernel's buffer before any other task
runs.
"""

import pyfuse3

from megafs.config import CHUNK_BYTES
from megafs.model import Attributes

LEAST_NS, MOST_NS = -(1 << 63), (1 << 63) - 1


def kept_time(time_ns: int) -> int:
    """The nearest time that the index can hold: 1677 to 2262. Linux file systems clamp to their range as well."""
    return time_ns if LEAST_NS <= time_ns <= MOST_NS else max(LEAST_NS, min(time_ns, MOST_NS))


class Replies:
    """Owner of the two reply objects."""

    def __init__(self, timeout_s: float) -> None:
        self._entry = pyfuse3.EntryAttributes()
        self._entry.generation = 0  # inode numbers are never reused
        self._entry.entry_timeout = timeout_s
        self._entry.attr_timeout = timeout_s
        self._entry.st_blksize = CHUNK_BYTES
        self._absent = pyfuse3.EntryAttributes()  # st_ino 0: the kernel remembers that the name is free
        self._absent.entry_timeout = timeout_s

    def entry(self, row: Attributes) -> pyfuse3.EntryAttributes:
        """Valid until the next call."""
        entry = self._entry
        (
            entry.st_ino,
            entry.st_mode,
            entry.st_nlink,
            entry.st_uid,
            entry.st_gid,
            entry.st_rdev,
            entry.st_size,
            stored,
            entry.st_atime_ns,
            entry.st_mtime_ns,
            entry.st_ctime_ns,
        ) = row
        entry.st_blocks = (stored + 511) >> 9
        return entry

    def absent(self) -> pyfuse3.EntryAttributes:
        return self._absent
