"""Bytes: reading and writing at offsets of every alignment, vectors, holes, st_blocks, copying within the kernel."""

import os
import random
from pathlib import Path

import pytest

from tests.mounted.both import Both, Cases, look, tried

CHUNK = 256 << 10
EDGES = (0, 1, 511, 4095, 4096, 4097, 65_535, 65_536, CHUNK - 1, CHUNK, CHUNK + 1)


def pattern(length: int, seed: int) -> bytes:
    """Bytes that show where they came from."""
    return random.Random(seed).randbytes(length)


def test_each_alignment(both: Both) -> None:
    def operation(root: Path) -> Cases:
        fd = os.open(root / "file", os.O_RDWR | os.O_CREAT, 0o644)
        for number, offset in enumerate(EDGES):
            for length in (1, 100, 4096, 5000, CHUNK + 7):
                yield f"{offset} {length}", [os.pwrite(fd, pattern(length, number), offset), os.fstat(fd)]
                yield f"{offset} {length} read", os.pread(fd, length + 10, max(offset - 5, 0))
        os.fsync(fd)
        yield "all", os.pread(fd, 1 << 21, 0)
        os.close(fd)

    both(operation)


def test_overwriting_at_random(both: Both) -> None:
    def operation(root: Path) -> Cases:
        lots = random.Random(3)
        path = root / "file"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        for number in range(300):
            offset, length = lots.randrange(2_000_000), lots.choice((1, 17, 4096, 10_000, 70_000))
            os.pwrite(fd, pattern(length, number), offset)
            if number % 50 == 49:
                os.ftruncate(fd, lots.randrange(2_000_000))
                os.fsync(fd)
                yield f"after {number}", os.pread(fd, 3_000_000, 0)
        os.close(fd)
        yield "closed", path.read_bytes()

    both(operation)


def test_vectors(both: Both) -> None:
    def operation(root: Path) -> Cases:
        fd = os.open(root / "file", os.O_RDWR | os.O_CREAT, 0o644)
        yield "writev", os.writev(fd, [b"one", b"", b"two" * 2000, b"three"])
        yield "pwritev", os.pwritev(fd, [b"X", b"Y"], 3)
        into = [bytearray(4), bytearray(3000), bytearray(9999)]
        yield "preadv", [os.preadv(fd, into, 1), into]
        yield (
            "position",
            [os.lseek(fd, 0, os.SEEK_CUR), os.lseek(fd, -3, os.SEEK_END), os.read(fd, 99), os.read(fd, 99)],
        )
        yield (
            "seeking wrongly",
            [tried(os.lseek, fd, -1, os.SEEK_SET), tried(os.pread, fd, 5, 1 << 40), tried(os.lseek, fd, 1 << 42, 0)],
        )
        yield "writing nothing far away", [os.pwrite(fd, b"", 1 << 30), os.fstat(fd)]
        os.close(fd)

    both(operation)


def test_sparse_files_read_as_zeros(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        with path.open("w+b", buffering=0) as file:
            for offset in (10 << 20, 1 << 20, 100 << 20, 5):
                file.seek(offset)
                file.write(b"data")
                yield f"at {offset}", os.fstat(file.fileno())
            for offset in (0, 1 << 20, (10 << 20) - 8, 99 << 20):
                yield f"from {offset}", os.pread(file.fileno(), 100_000, offset)

    both(operation)


@pytest.mark.parametrize("written", [0, 1, 4096, 100_000, 1 << 20])
def test_blocks(both: Both, written: int) -> None:
    """st_blocks of a closed file tells what is stored: what was written, nothing for holes. tar and cp trust it."""

    def operation(root: Path) -> Cases:
        path = root / "file"
        with path.open("wb") as file:
            file.seek(64 << 20)
            file.write(b"\x5a" * written)
        for label in ("closed", "synced"):
            blocks = path.stat().st_blocks * 512
            yield label, written <= blocks <= written + 8192
            with path.open("rb") as file:
                os.fsync(file.fileno())
        os.truncate(path, 0)
        yield "emptied", path.stat().st_blocks
        os.truncate(path, 1 << 30)
        yield "all hole", [path.stat().st_blocks, look(path)]

    both(operation)


def test_copying_in_the_kernel(both: Both) -> None:
    def operation(root: Path) -> Cases:
        source, target = root / "source", root / "target"
        source.write_bytes(pattern(300_000, 1))
        with source.open("rb") as reader, target.open("w+b") as writer:
            copied = 0
            while step := os.copy_file_range(reader.fileno(), writer.fileno(), 300_000 - copied):
                copied += step
            yield "copy_file_range", [copied, target.read_bytes() == source.read_bytes()]
            yield (
                "to an offset",
                [
                    os.copy_file_range(reader.fileno(), writer.fileno(), 1000, 5, 500_000),
                    os.fstat(writer.fileno()),
                    os.pread(writer.fileno(), 1000, 500_000) == os.pread(reader.fileno(), 1000, 5),
                ],
            )
            yield "sendfile", [os.sendfile(writer.fileno(), reader.fileno(), 10, 1000), os.fstat(writer.fileno())]
            yield "from the end", os.copy_file_range(reader.fileno(), writer.fileno(), 10, 300_000)
        with source.open("r+b") as file:
            yield "overlapping", tried(os.copy_file_range, file.fileno(), file.fileno(), 1000, 0, 500)
        with source.open("rb") as reader, target.open("ab") as writer:
            yield "append-only", tried(os.copy_file_range, reader.fileno(), writer.fileno(), 10)

    both(operation)


def test_where_data_is(both: Both) -> None:
    """SEEK_DATA and SEEK_HOLE at the edges, where every file system must agree."""

    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"x" * 10_000)
        fd = os.open(path, os.O_RDONLY)
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            for offset in (0, 5000, 9999, 10_000, 20_000):
                yield f"{whence} {offset}", tried(os.lseek, fd, offset, whence)
        os.close(fd)

    both(operation)


def test_holes_are_told(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        with path.open("wb") as file:
            file.seek(1 << 20)
            file.write(b"x")
        fd = os.open(path, os.O_RDONLY)
        yield "first data", os.lseek(fd, 0, os.SEEK_DATA)
        os.close(fd)

    both.documented(
        operation,
        mount=0,
        plain=1 << 20,
        why="the FUSE library has no request for it; the kernel then says all is data",
    )


def test_ordinary_programs_with_buffers(both: Both) -> None:
    """What the C and Python libraries make of it: appending text, seeking, truncating in the middle."""

    def operation(root: Path) -> Cases:
        path = root / "file"
        with path.open("w") as file:
            file.writelines(f"line {number}\n" for number in range(2000))
        with path.open("r+") as file:
            file.seek(100)
            file.write("REPLACED")
            file.seek(0, os.SEEK_END)
            file.write("end\n")
            file.flush()
            file.truncate()
        with path.open("a+") as file:
            file.write("appended\n")
            file.seek(0)
            yield "text", file.read()
        yield "stat", look(path)

    both(operation)
