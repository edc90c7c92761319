"""truncate, ftruncate, fallocate's and posix_fallocate's answers: sizes, what is read after, who may, what refuses."""

import itertools
import os
import signal
from pathlib import Path

import pytest

from tests.mounted import calls
from tests.mounted.both import ALICE, USERS, Both, Cases, by, look, tried
from tests.mounted.things import TYPES, directory, make

SIZES = (0, 1, 4095, 4096, 4097, 65_536, 262_143, 262_144, 262_145, 1_000_000)


@pytest.mark.parametrize("through", ["path", "descriptor"])
def test_each_size_to_each_size(both: Both, through: str) -> None:
    """What was cut off reads as zeros when the file grows again."""

    def operation(root: Path) -> Cases:
        path = root / "file"
        for start, middle, end in itertools.product(SIZES, SIZES, (5000, 300_000)):
            path.write_bytes(b"\xaa" * start)
            fd = os.open(path, os.O_RDWR)
            cut = (
                (lambda size, fd=fd: os.ftruncate(fd, size))
                if through == "descriptor"
                else (lambda size: os.truncate(path, size))
            )
            cut(middle)
            first = (os.fstat(fd), zeros(fd))
            cut(end)
            yield f"{start} {middle} {end}", [first, os.fstat(fd), zeros(fd)]
            os.close(fd)

    both(operation)


def zeros(fd: int) -> tuple[int, int]:
    """How many bytes of an open file are zero, and how many are not."""
    data = os.pread(fd, 1 << 21, 0)
    return data.count(0), len(data) - data.count(0)


@pytest.mark.needs_root
def test_each_type(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in TYPES:
            path = make(kind, root / kind)
            yield kind, [tried(os.truncate, path, 3), look(path), tried(os.truncate, path, -1)]
        yield "missing", tried(os.truncate, root / "missing", 0)
        yield "slash", tried(os.truncate, f"{root}/file/", 0)

    both(operation)


@pytest.mark.needs_root
def test_who_may(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for mode, (name, user) in itertools.product((0o000, 0o200, 0o020, 0o002, 0o444, 0o666), USERS.items()):
            path = make("file", root / f"{mode:o}{name}", mode=mode, owner=ALICE)
            yield path.name, [by(user, os.truncate, path, 3), look(path)]

    both(operation)


def test_through_descriptors(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path, place = make("file", root / "file"), directory(root / "place")
        for label, target, flags in (
            ("r", path, os.O_RDONLY),
            ("path", path, os.O_PATH),
            ("directory", place, os.O_RDONLY),
        ):
            fd = os.open(target, flags)
            yield label, [tried(os.ftruncate, fd, 2), os.fstat(fd)]
            os.close(fd)
        fd = os.open(path, os.O_WRONLY)
        yield "negative", tried(os.ftruncate, fd, -1)
        yield (
            "offset stays",
            [os.lseek(fd, 100, os.SEEK_SET), os.ftruncate(fd, 4), os.write(fd, b"x"), path.read_bytes()],
        )
        os.close(fd)

    both(operation)


def test_while_others_write(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        for size in (10, 5000, 300_000):
            os.pwrite(fd, b"a" * size, 0)
            os.truncate(path, size // 2)
            os.pwrite(fd, b"b" * 10, size)
            data = path.read_bytes()
            yield (
                f"{size}",
                [len(data), data[: size // 2] == b"a" * (size // 2), data[size // 2 : size].count(0), data[-10:]],
            )
        os.close(fd)

    both(operation)


def test_size_limit_of_the_process(both: Both) -> None:
    """RLIMIT_FSIZE: EFBIG, and a short write up to the limit."""
    import resource

    def operation(root: Path) -> Cases:
        path = root / "file"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            yield "truncate", [tried(os.ftruncate, fd, 10_001), tried(os.ftruncate, fd, 10_000)]
            yield (
                "write over it",
                [tried(os.pwrite, fd, b"x" * 100, 9_950), tried(os.pwrite, fd, b"x", 10_000), os.fstat(fd)],
            )
            os.close(fd)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)

    both(operation)


def test_large_sizes(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        for size in (2**31 - 1, 2**31, 2**32 + 5, 2**40, 2**43):
            yield (
                f"{size}",
                [tried(os.ftruncate, fd, size), os.fstat(fd), os.pread(fd, 3, size - 3), os.lseek(fd, 0, os.SEEK_END)],
            )
            yield f"write at {size}", [tried(os.pwrite, fd, b"end", size), os.fstat(fd), os.pread(fd, 9, size - 2)]
        os.close(fd)
        os.truncate(path, 0)
        yield "back", look(path)

    both(operation)


def test_the_largest_file(both: Both) -> None:
    """Up to the last byte that Linux can name. (ext4 ends at 16 TiB, so this is compared with what was written.)"""
    path, data = both.mount / "file", bytes(range(250)) * 400
    last = 2**63 - 2  # the offset behind it is the last one
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        assert os.pwrite(fd, data, last - len(data)) == len(data)
        os.fsync(fd)
        assert os.fstat(fd).st_size == last
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        found = b"".join(os.pread(fd, 1000, last - len(data) + at) for at in range(0, len(data), 1000))
        assert found == data
        assert tried(os.pwrite, fd, b"xyz", last) == "EINVAL"
        os.ftruncate(fd, last + 1)
        assert os.pread(fd, 2, last - 1) == data[-1:] + b"\0"
        os.ftruncate(fd, 3)
        assert os.pread(fd, 100, 0) == bytes(3)
    finally:
        os.close(fd)


def test_fallocate(both: Both) -> None:
    for mode in (0, calls.FALLOC_KEEP_SIZE, calls.FALLOC_KEEP_SIZE | calls.FALLOC_PUNCH_HOLE, calls.FALLOC_ZERO):

        def operation(root: Path, mode: int = mode) -> Cases:
            path = make("file", root / "file")
            with path.open("r+b") as file:
                yield "fallocate", tried(calls.fallocate, file.fileno(), mode, 0, 4096) or "allocated"

        both.documented(operation, mount="ENOTSUP", plain="allocated", why="the FUSE library has no request for it")


def test_posix_fallocate(both: Both) -> None:
    """The C library falls back to touching every block, so the answer is the same and slower."""

    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        with path.open("r+b") as file:
            for offset, length in ((0, 5000), (100, 10), (4096, 4096), (8000, 300_000)):
                yield (
                    f"{offset} {length}",
                    [tried(os.posix_fallocate, file.fileno(), offset, length), os.fstat(file.fileno())],
                )
            yield "content stays", os.pread(file.fileno(), 20, 0)
            for offset, length in ((0, 0), (-1, 5), (5, -1)):
                yield f"{offset} {length}", tried(os.posix_fallocate, file.fileno(), offset, length)
        with path.open("rb") as file:
            yield "read only", tried(os.posix_fallocate, file.fileno(), 0, 9)
        fd = os.open(root, os.O_RDONLY)
        yield "directory", tried(os.posix_fallocate, fd, 0, 9) in {"EBADF", "ENODEV"}
        os.close(fd)

    both(operation)
