"""Open files, as the kernel names them."""

import os

from megafs.model import Ino

WRITING = os.O_WRONLY | os.O_RDWR


class Handle:
    """One open file: which late errors it has reported."""

    __slots__ = ("flags", "ino", "seen")

    def __init__(self, ino: Ino, flags: int, seen: int) -> None:
        self.ino, self.flags, self.seen = ino, flags, seen
