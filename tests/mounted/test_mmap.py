"""Mappings: shared and private, seen by read and write and by other processes, past the end, kept after unlink."""

import faulthandler
import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.mounted.both import Both, Cases, tried

PAGE = mmap.PAGESIZE


def test_shared_with_read_and_write(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"a" * (3 * PAGE + 100))
        fd = os.open(path, os.O_RDWR)
        with mmap.mmap(fd, 0) as view:
            view[0:5] = b"first"
            view[PAGE - 2 : PAGE + 2] = b"edge"
            yield "read sees the mapping", [os.pread(fd, 5, 0), os.pread(fd, 4, PAGE - 2)]
            os.pwrite(fd, b"written", 2 * PAGE)
            yield "the mapping sees write", view[2 * PAGE : 2 * PAGE + 7]
            other = os.open(path, os.O_RDONLY)
            yield "another descriptor", [os.pread(other, 5, 0), tried(view.flush)]
            os.close(other)
            view[-3:] = b"end"
        yield "after unmapping", [path.read_bytes()[-5:], os.fstat(fd)]
        os.close(fd)
        yield "after closing", [path.read_bytes().count(b"a"), path.read_bytes()[:5]]

    both(operation)


def test_private(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"a" * 100)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
            view[0:3] = b"xyz"
            yield "own copy", [view[:4], path.read_bytes()[:4]]
        yield "unchanged", path.read_bytes()

    both(operation)


def test_rights(both: Both) -> None:
    def mapped(path: Path, flags: int, protection: int, kind: int) -> str:
        fd = os.open(path, flags)
        try:
            mmap.mmap(fd, 10, flags=kind, prot=protection).close()
        except PermissionError:  # mmap raises EACCES through another class than the os calls
            return "EACCES"
        finally:
            os.close(fd)
        return "mapped"

    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"a" * 100)
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            for protection in (
                mmap.PROT_READ,
                mmap.PROT_WRITE,
                mmap.PROT_READ | mmap.PROT_WRITE,
                mmap.PROT_READ | mmap.PROT_EXEC,
            ):
                for kind in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
                    yield f"{flags} {protection} {kind}", mapped(path, flags, protection, kind)

    both(operation)


def signal_of(action: Callable[[], object]) -> str:
    """How a child process that does this ends."""
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()  # a child that is meant to die need not explain itself
        action()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "fine"


def test_past_the_end(both: Both) -> None:
    """The rest of the last page is zeros and stays out of the file; a page beyond is SIGBUS."""

    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"a" * 100)
        fd = os.open(path, os.O_RDWR)
        os.ftruncate(fd, 3 * PAGE)
        view = mmap.mmap(fd, 3 * PAGE)
        os.ftruncate(fd, 100)
        yield "rest of the page", view[100:PAGE].count(0) == PAGE - 100
        yield "beyond", signal_of(lambda: view[PAGE + 5])
        view[100:110] = b"invisible!"
        view.flush(0, PAGE)
        yield "not in the file", [os.fstat(fd), os.pread(fd, 999, 90)]
        os.ftruncate(fd, 2 * PAGE)
        yield "zeros after growing", [os.pread(fd, 20, 95), view[PAGE : PAGE + 3], signal_of(lambda: view[2 * PAGE])]
        view.close()
        os.close(fd)

    both(operation)


def test_truncated_and_written_again(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"a" * 4 * PAGE)
        fd = os.open(path, os.O_RDWR)
        view = mmap.mmap(fd, 4 * PAGE)
        for turn, size in enumerate((PAGE + 10, 10, 3 * PAGE, 4 * PAGE)):
            os.truncate(path, size)
            view[5] = turn + 65
            os.pwrite(fd, b"tail", size - 4)
            os.ftruncate(fd, 4 * PAGE)
            view[4 * PAGE - 1] = turn + 65
            data = os.pread(fd, 4 * PAGE, 0)
            yield f"turn {turn}", [data.count(0), data[:12], data[size - 5 : size + 5], data == view[:]]
        view.close()
        os.close(fd)

    both(operation)


def test_holes(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        with path.open("w+b") as file:
            file.truncate(1 << 20)
            with mmap.mmap(file.fileno(), 0) as view:
                yield "zeros", view.find(b"\1")
                for offset in range(0, 1 << 20, 100_000):
                    view[offset] = 1
                view.flush()
            yield "written", [path.read_bytes().count(1), os.fstat(file.fileno())]

    both(operation)


def test_kept_by_the_mapping_alone(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"a" * PAGE)
        fd = os.open(path, os.O_RDWR)
        view = mmap.mmap(fd, PAGE)
        os.close(fd)
        path.unlink()
        view[0:4] = b"last"
        yield "usable", [view[:6], tried(view.flush)]
        path.write_bytes(b"new")
        yield "another file", [path.read_bytes(), view[:4]]
        view.close()

    both(operation)


def test_between_processes(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"-" * PAGE)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:

            def child() -> None:
                with path.open("r+b") as own, mmap.mmap(own.fileno(), 0) as theirs:
                    theirs[0:5] = b"child"
                    os.pwrite(own.fileno(), b"wrote", 10)

            yield "child", signal_of(child)
            yield "seen", [view[0:5], view[10:15], path.read_bytes()[:15]]

    both(operation)
