"""The few functions through which pack files reach the disk; the one place to inject faults, and to say "durable".

Every method blocks and belongs in a thread, but ``read_now``, which answers only what needs no wait. A pack file is
written at growing offsets by one writer, never rewritten; ``punch`` makes holes of dead ranges.
Order on disk: pack bytes, then the index that names them (files.commit).
"""

import ctypes
import errno
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megafs.errors import DiskError, MegaFSError, NoSpace
from megafs.model import PackNumber

OPEN_FILES = 256
AHEAD_BYTES = 1 << 20
LARGE_BYTES = 128 << 10
FALLOC_FL_PUNCH_HOLE_KEEP_SIZE = 0x03  # linux/falloc.h
SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
START_BYTES = 1 << 20  # from here on a write is on its way to the disk at once, so that a sync later finds little to do
BUFFERS_PER_WRITE = 512  # IOV_MAX is 1024
ABSENT = bytes(24)  # a salt of zeros: a hole of the sparse file, not damage
PACK_NAME = re.compile(r"[0-9a-f]{16}\.pack")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def told(error: OSError) -> MegaFSError:
    """The same as an error of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the disk of the state directory is full")
    return DiskError(f"the disk of the state directory failed: {error.strerror}")


@dataclass(slots=True, eq=False)
class Opened:
    """A descriptor and how many calls use it now; closed by the last of them once it was given up."""

    descriptor: int
    users: int = 0
    given_up: bool = False


@contextmanager
def as_ours() -> Iterator[None]:
    """Errors of the disk as errors of ours."""
    try:
        yield
    except OSError as error:
        raise told(error) from error


class Disk:
    """Pack files under one directory, with a bounded number of open descriptors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: OrderedDict[PackNumber, Opened] = OrderedDict()
        self._read_stops: dict[PackNumber, int] = {}  # where the last read that waited ended; a hint, so unguarded
        self._lock = threading.Lock()  # guards _open and what is in it; held for no longer than an open(2)

    def path(self, number: PackNumber) -> Path:
        """Where the pack lies. Numbers are no secret, ids (and so names on hosts) are."""
        return self.root / f"{number:016x}.pack"

    def create(self, number: PackNumber) -> None:
        """A new, empty file; durable once sync_directory returned. What an uncommitted pack of the same number left
        behind is gone."""
        self.unlink(number)
        self.ensure(number)

    def ensure(self, number: PackNumber) -> None:
        """The file is there; what is in it stays."""
        with as_ours():
            os.close(os.open(self.path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def sync_directory(self) -> None:
        """Make created, renamed and unlinked names durable."""
        with as_ours():
            directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    @contextmanager
    def _using(self, number: PackNumber) -> Iterator[int]:
        """A descriptor that nobody closes meanwhile: its number could be given to another file, even to the index, and
        a write would end there. Raises FileNotFoundError."""
        with self._lock:
            opened = self._open.get(number)
            if opened is None:
                opened = self._open[number] = Opened(os.open(self.path(number), os.O_RDWR | os.O_CLOEXEC))
                while len(self._open) > OPEN_FILES:
                    self._give_up(self._open.popitem(last=False)[1])
            else:
                self._open.move_to_end(number)
            opened.users += 1
        try:
            yield opened.descriptor
        finally:
            with self._lock:
                opened.users -= 1
                if opened.given_up and not opened.users:
                    os.close(opened.descriptor)

    def _give_up(self, opened: Opened) -> None:
        opened.given_up = True
        if not opened.users:
            os.close(opened.descriptor)

    def write(self, number: PackNumber, offset: int, buffers: Sequence[bytes]) -> None:
        """All of ``buffers``, one behind the other, at ``offset``."""
        began = offset
        with as_ours(), self._using(number) as descriptor:
            for first in range(0, len(buffers), BUFFERS_PER_WRITE):
                part = buffers[first : first + BUFFERS_PER_WRITE]
                wanted = sum(map(len, part))
                done = os.pwritev(descriptor, part, offset)
                if done < wanted:  # a signal or a nearly full disk: the rest in one piece
                    rest = memoryview(b"".join(part))[done:]
                    while rest:
                        written = os.pwrite(descriptor, rest, offset + wanted - len(rest))
                        rest = rest[written:]
                offset += wanted
            if offset - began >= START_BYTES:  # a hint: what it says does not matter, the sync tells
                _libc.sync_file_range(descriptor, began, offset - began, SYNC_FILE_RANGE_WRITE)

    def sync(self, number: PackNumber) -> None:
        """Everything written to the pack so far is on the disk when this returns."""
        with as_ours(), self._using(number) as descriptor:
            os.fdatasync(descriptor)

    def read(self, number: PackNumber, offset: int, size: int) -> bytes:
        """What is there; shorter at the end of the file, empty if the file is absent."""
        try:
            with self._using(number) as descriptor:
                data = os.pread(descriptor, size, offset)
                # Files of a tree lie side by side in the order in which they were written, and are read in much the
                # same: a second miss a little further on fetches what follows, so that `read_now` finds it. Large
                # reads one behind the other are left to the kernel, which then reads ahead further: 1.4 GB/s for 1.2.
                stop = offset + size
                gap = offset - self._read_stops.get(number, stop + 1)
                if 0 <= gap <= 2 * AHEAD_BYTES and (gap or size < LARGE_BYTES):
                    os.posix_fadvise(descriptor, stop, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
                self._read_stops[number] = stop
                return data
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise told(error) from error

    def has(self, number: PackNumber, offset: int) -> bool:
        """Whether the sealed chunk at this offset of a sparse file was written; whether it is right is not asked."""
        salt = self.read(number, offset, len(ABSENT))
        return len(salt) == len(ABSENT) and salt != ABSENT

    def read_now(self, number: PackNumber, offset: int, size: int) -> bytes | None:
        """The same without waiting for the disk; None where it would have to be waited for."""
        buffer = bytearray(size)
        try:
            with self._using(number) as descriptor:
                done = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            return None  # EAGAIN, no such file, not supported here: the slow way tells
        return bytes(buffer) if done == size else None

    def truncate(self, number: PackNumber, size: int) -> None:
        """Cut the open pack behind the last chunk that the index names."""
        with as_ours(), self._using(number) as descriptor:
            os.ftruncate(descriptor, size)

    def punch(self, number: PackNumber, offset: int, size: int) -> None:
        """Give the blocks of a dead range back; nothing if the file is absent. Only after the commit that made it dead
        is durable."""
        try:
            with self._using(number) as descriptor:
                if _libc.fallocate(descriptor, FALLOC_FL_PUNCH_HOLE_KEEP_SIZE, offset, size) != 0:
                    code = ctypes.get_errno()
                    if code != errno.EOPNOTSUPP:
                        raise told(OSError(code, os.strerror(code)))
        except FileNotFoundError:
            return
        except OSError as error:
            raise told(error) from error

    def blocks(self, number: PackNumber) -> int:
        """Bytes on disk; 0 if absent."""
        try:
            return os.stat(self.path(number)).st_blocks * 512
        except FileNotFoundError:
            return 0

    def unlink(self, number: PackNumber) -> None:
        """Remove the file; no error if absent. Only after the commit that gave it up is durable."""
        with self._lock:
            opened = self._open.pop(number, None)
            if opened is not None:
                self._give_up(opened)
        self._read_stops.pop(number, None)
        with as_ours():
            self.path(number).unlink(missing_ok=True)

    def numbers(self) -> list[PackNumber]:
        """Every pack file that is there."""
        with as_ours():
            names = os.listdir(self.root)
        return [PackNumber(int(name[:16], 16)) for name in names if PACK_NAME.fullmatch(name)]

    def free_bytes(self) -> int:
        """What an unprivileged process may still use of the file system."""
        with as_ours():
            found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        with self._lock:
            for opened in self._open.values():
                self._give_up(opened)
            self._open.clear()
