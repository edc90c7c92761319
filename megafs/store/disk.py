"""The few functions through which pack files reach the disk; the one place to inject faults, and to say "durable".

Every method blocks and belongs in a thread, but ``read_now``, which answers only what needs no wait. A pack file is
written at growing offsets by one writer, never rewritten; ``punch`` makes holes of dead ranges.
Order on disk: pack bytes, then the index that names them (files.commit).
"""

import ctypes
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from megafs.errors import MegaFSError, NoSpace
from megafs.model import PackNumber

OPEN_FILES = 256
FALLOC_FL_PUNCH_HOLE_KEEP_SIZE = 0x03  # linux/falloc.h
BUFFERS_PER_WRITE = 512  # IOV_MAX is 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class DiskError(MegaFSError):
    """The disk of the state directory failed; the message says how."""


def told(error: OSError) -> MegaFSError:
    """The same as an error of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the disk of the state directory is full")
    return DiskError(f"the disk of the state directory failed: {error.strerror}")


class Disk:
    """Pack files under one directory, with a bounded number of open descriptors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: OrderedDict[PackNumber, int] = OrderedDict()
        self._lock = threading.Lock()  # guards _open; held for no longer than an open(2)

    def path(self, number: PackNumber) -> Path:
        """Where the pack lies. Numbers are no secret, ids (and so names on hosts) are."""
        return self.root / f"{number:016x}.pack"

    def create(self, number: PackNumber) -> None:
        """A new, empty file; durable once sync_directory returned."""
        try:
            os.close(os.open(self.path(number), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise told(error) from error

    def sync_directory(self) -> None:
        """Make created, renamed and unlinked names durable."""
        try:
            directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise told(error) from error

    def _descriptor(self, number: PackNumber) -> int:
        """Raises FileNotFoundError. The descriptor stays valid while fewer than OPEN_FILES others are used."""
        with self._lock:
            descriptor = self._open.get(number)
            if descriptor is None:
                descriptor = os.open(self.path(number), os.O_RDWR | os.O_CLOEXEC)
                self._open[number] = descriptor
                while len(self._open) > OPEN_FILES:
                    os.close(self._open.popitem(last=False)[1])
            else:
                self._open.move_to_end(number)
            return descriptor

    def write(self, number: PackNumber, offset: int, buffers: Sequence[bytes]) -> None:
        """All of ``buffers``, one behind the other, at ``offset``."""
        try:
            descriptor = self._descriptor(number)
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
        except OSError as error:
            raise told(error) from error

    def sync(self, number: PackNumber) -> None:
        """Everything written to the pack so far is on the disk when this returns."""
        try:
            os.fdatasync(self._descriptor(number))
        except OSError as error:
            raise told(error) from error

    def read(self, number: PackNumber, offset: int, size: int) -> bytes:
        """What is there; shorter at the end of the file, empty if the file is absent."""
        try:
            return os.pread(self._descriptor(number), size, offset)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise told(error) from error

    def read_now(self, number: PackNumber, offset: int, size: int) -> bytes | None:
        """The same without waiting for the disk; None where it would have to be waited for."""
        buffer = bytearray(size)
        try:
            done = os.preadv(self._descriptor(number), [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            return None  # EAGAIN, no such file, not supported here: the slow way tells
        return bytes(buffer) if done == size else None

    def truncate(self, number: PackNumber, size: int) -> None:
        """Cut the open pack behind the last chunk that the index names."""
        try:
            os.ftruncate(self._descriptor(number), size)
        except OSError as error:
            raise told(error) from error

    def punch(self, number: PackNumber, offset: int, size: int) -> None:
        """Give the blocks of a dead range back."""
        descriptor = self._descriptor(number)
        if _libc.fallocate(descriptor, FALLOC_FL_PUNCH_HOLE_KEEP_SIZE, offset, size) != 0:
            code = ctypes.get_errno()
            if code != errno.EOPNOTSUPP:
                raise told(OSError(code, os.strerror(code)))

    def blocks(self, number: PackNumber) -> int:
        """Bytes on disk; 0 if absent."""
        try:
            return os.stat(self.path(number)).st_blocks * 512
        except FileNotFoundError:
            return 0

    def unlink(self, number: PackNumber) -> None:
        """Remove the file; no error if absent."""
        with self._lock:
            descriptor = self._open.pop(number, None)
        if descriptor is not None:
            os.close(descriptor)
        self.path(number).unlink(missing_ok=True)

    def numbers(self) -> list[PackNumber]:
        """Every pack file that is there."""
        return [PackNumber(int(path.stem, 16)) for path in self.root.glob("*.pack")]

    def free_bytes(self) -> int:
        """What an unprivileged process may still use of the file system."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()
