"""System calls that Python does not wrap, through ctypes; each raises OSError like those of ``os``."""

import ctypes
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE, FALLOC_ZERO = 1, 2, 8, 16
HANDLE_BYTES = 128

libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
libc.posix_fallocate.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.argtypes = libc.closedir.argtypes = libc.telldir.argtypes = libc.rewinddir.argtypes = (ctypes.c_void_p,)
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

Name = Path | str | bytes


def checked(answer: int) -> int:
    """Raise what errno says if a libc call answered -1."""
    if answer == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def renameat2(source: Name, target: Name, flags: int) -> None:
    """rename with RENAME_* flags."""
    checked(libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) itself: without the C library's emulation."""
    checked(libc.fallocate(fd, mode, offset, length))


def syncfs(fd: int) -> None:
    """syncfs(2)."""
    checked(libc.syncfs(fd))


def utimensat(path: Name, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> None:
    """utimensat(2) with raw (seconds, nanoseconds), so that UTIME_NOW and UTIME_OMIT can be said."""
    times = struct.pack("=qqqq", *atime, *mtime)
    checked(libc.utimensat(AT_FDCWD, os.fsencode(path), times, flags))


def handle_of(path: Name) -> bytes:
    """name_to_handle_at(2): the whole struct file_handle."""
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", HANDLE_BYTES, 0), 8 + HANDLE_BYTES)
    mount_id = ctypes.c_int()
    checked(libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount_id), 0))
    (used,) = struct.unpack_from("=I", buffer)
    return buffer.raw[: 8 + used]


def open_handle(mount_fd: int, handle: bytes, flags: int) -> int:
    """open_by_handle_at(2)."""
    buffer = ctypes.create_string_buffer(handle, len(handle))
    return checked(libc.open_by_handle_at(mount_fd, buffer, flags))


class Dirent(ctypes.Structure):
    """struct dirent of glibc on 64-bit Linux."""

    _fields_: Sequence[tuple[str, type]] = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8),
        ("d_name", ctypes.c_char * 256),
    )


class Directory:
    """An open directory stream: opendir, readdir, telldir, seekdir, rewinddir."""

    def __init__(self, path: Name) -> None:
        self.stream = libc.opendir(os.fsencode(path))
        if not self.stream:
            raise OSError(ctypes.get_errno(), "opendir")

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *_: object) -> None:
        libc.closedir(self.stream)

    def entries(self) -> Iterator[tuple[str, int, int]]:
        """The rest of the stream: (name, d_type, d_ino), "." and ".." included."""
        while True:
            found = libc.readdir(self.stream)
            if not found:
                return
            entry = ctypes.cast(found, ctypes.POINTER(Dirent)).contents
            yield os.fsdecode(entry.d_name), entry.d_type, entry.d_ino

    def tell(self) -> int:
        """The position before the next entry."""
        return int(libc.telldir(self.stream))

    def seek(self, position: int) -> None:
        """Back to what ``tell`` said."""
        libc.seekdir(self.stream, position)

    def rewind(self) -> None:
        """Back to the beginning, seeing what is there now."""
        libc.rewinddir(self.stream)
