"""A host that is a folder: a second disk, a stick, a network mount. ``file:///path``.

An object is the file ``ROOT/yz/name``, where ``yz`` are the last two characters of its name (names are HMACs, so the at
most 1,024 folders fill evenly). A put is a temporary file in the same folder, fsync, rename, fsync of the folder, so a
name holds a whole object or nothing, also after a power cut. Every request opens the root, looks for the marker that
``prepare`` left there and works relative to that one descriptor: a disk that is not mounted is unreachable, never
empty, and never written to by mistake. What lies in the folder is the host's: links and special files are not followed.
"""

import errno
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from megafs.errors import HostFull, HostRefused, HostUnreachable, ObjectMissing
from megafs.hosts import pace
from megafs.hosts.protocol import NAME, OBJECT_BYTES, Bytes, checked_name, checked_range
from megafs.model import Usage

Result = TypeVar("Result")
Entries = list[tuple[str, int]]

MARKER = ".megafs-host"
MARKER_TEXT = b"This folder holds sealed objects of a MegaFS vault. Do not change anything in it.\n"
PARTIAL = ".partial-"
PARTIAL_AGE_S = 86_400  # an older one is from a crash, nobody else will remove it
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
OBJECT_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo must not hold us up
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class DirectoryHost:
    """Objects in the folder ``root``; at most ``threads`` requests at a time."""

    def __init__(self, root: Path, *, label: str, threads: int = 8, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._label = label
        self._clock = clock
        self._limiter = trio.CapacityLimiter(threads)

    async def prepare(self) -> None:
        await self._run(self._prepare)

    async def put(self, name: str, data: Bytes) -> None:
        checked_name(name)
        whole = bytes(data)  # the thread may outlive a cancelled caller, who may then change its buffer
        await self._run(lambda: self._put(name, whole))

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        checked_name(name)
        checked_range(start, stop)
        return await self._run(lambda: self._get(name, start, stop))

    async def head(self, name: str) -> int:
        checked_name(name)
        return await self._run(lambda: self._head(name))

    async def delete(self, name: str) -> None:
        checked_name(name)
        await self._run(lambda: self._delete(name))

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        for folder in await self._run(self._folders):
            for entry in await self._run(partial(self._entries, folder)):
                yield entry

    async def usage(self) -> Usage:
        return await self._run(self._usage)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _run(self, work: Callable[[], Result]) -> Result:
        with self._told_as_host_errors():
            return await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)

    @contextmanager
    def _told_as_host_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"{self._label}: {os.strerror(error.errno) if error.errno else error}"
            if error.errno in FULL:
                raise HostFull(reason) from error
            if error.errno in REFUSED:
                raise HostRefused(reason) from error
            raise HostUnreachable(reason) from error

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of the root, which is ours: it has the marker."""
        try:
            root = os.open(self._root, FOLDER_FLAGS)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise HostUnreachable(f"{self._label}: the folder {self._root} is not there") from error
        try:
            try:
                os.stat(MARKER, dir_fd=root, follow_symlinks=False)
            except FileNotFoundError as error:
                raise HostUnreachable(
                    f"{self._label}: {self._root} lacks the file {MARKER}; is the disk mounted?"
                ) from error
            yield root
        finally:
            os.close(root)

    @contextmanager
    def _object(self, name: str) -> Iterator[tuple[int, int]]:
        """Descriptor and size of an object; anything that is not a plain file is no object."""
        with self._opened() as root:
            try:
                descriptor = os.open(f"{name[-2:]}/{name}", OBJECT_FLAGS, dir_fd=root)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}:
                    raise ObjectMissing(f"{self._label}: no object {name}") from error
                raise
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_size > OBJECT_BYTES:
                    raise ObjectMissing(f"{self._label}: what lies under {name} is no object")
                yield descriptor, status.st_size
            finally:
                os.close(descriptor)

    def _prepare(self) -> None:
        if not self._root.parent.is_dir():
            raise HostUnreachable(
                f"{self._label}: the folder {self._root.parent} is not there, and only the last one of a path is made"
            )
        if not self._root.exists():
            self._root.mkdir(mode=0o700)
        root = os.open(self._root, FOLDER_FLAGS)
        try:
            _write_whole(root, MARKER, MARKER_TEXT)
        finally:
            os.close(root)

    def _put(self, name: str, data: bytes) -> None:
        with self._opened() as root:
            try:
                os.mkdir(name[-2:], mode=0o700, dir_fd=root)
                os.fsync(root)
            except FileExistsError:
                pass
            folder = os.open(name[-2:], FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=root)
            try:
                _write_whole(folder, name, data)
            finally:
                os.close(folder)

    def _get(self, name: str, start: int, stop: int | None) -> bytes:
        with self._object(name) as (descriptor, size):
            end, now = size if stop is None else min(stop, size), pace.current()
            parts = []
            while start < end:
                part = os.pread(descriptor, min(end - start, now.piece_bytes), start)
                if not part:
                    break
                parts.append(part)
                start += len(part)
                now.received_in_thread(len(part))
            return b"".join(parts)

    def _head(self, name: str) -> int:
        with self._object(name) as (_, size):
            return size

    def _delete(self, name: str) -> None:
        with self._opened() as root:
            try:
                folder = os.open(name[-2:], FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=root)
            except FileNotFoundError:
                return
            try:
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
            except FileNotFoundError:
                pass
            finally:
                os.close(folder)

    def _folders(self) -> Sequence[str]:
        with self._opened() as root, os.scandir(root) as entries:
            return [
                entry.name
                for entry in entries
                if len(entry.name) <= 2 and NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]

    def _entries(self, folder: str) -> Entries:
        found: Entries = []
        with self._opened() as root:
            try:
                descriptor = os.open(folder, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=root)
            except FileNotFoundError:
                return []
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        with suppress(FileNotFoundError):  # deleted meanwhile
                            found += self._counted(entry, descriptor, folder)
            finally:
                os.close(descriptor)
        return found

    def _counted(self, entry: os.DirEntry[str], descriptor: int, folder: str) -> Entries:
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return []
        if entry.name.startswith(PARTIAL) and self._clock() - status.st_mtime > PARTIAL_AGE_S:
            os.unlink(entry.name, dir_fd=descriptor)
        if NAME.fullmatch(entry.name) and entry.name[-2:] == folder:
            return [(entry.name, status.st_size)]
        return []

    def _usage(self) -> Usage:
        with self._opened() as root:
            status = os.fstatvfs(root)
        return Usage(free_bytes=status.f_bavail * status.f_frsize, used_bytes=None)


def _write_whole(folder: int, name: str, data: bytes) -> None:
    """The one spelling of durable in this module: partial file, fsync, rename, fsync of the folder."""
    unfinished = PARTIAL + secrets.token_hex(8)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        try:
            for piece in pace.current().cut(data):
                pace.current().sending_in_thread(len(piece))
                while piece:
                    piece = piece[os.write(descriptor, piece) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished, dir_fd=folder)
        raise
    os.fsync(folder)
