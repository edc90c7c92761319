"""Which of atime, mtime and ctime each call moves: of the file and of the directories around it.

atime follows relatime on requests that reach the daemon only: a read that the kernel answers from its cache moves it on
ext4 and not on the mount. So atime is compared where a request is certain (first readlink and readdir) and when set.
"""

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import calls
from tests.mounted.both import ALICE, Both, Cases, by, tried
from tests.mounted.things import directory, later, make, tick, times

WRITTEN = ("mtime", "ctime")


def write_at(path: Path, data: bytes, offset: int = 0, flags: int = 0) -> object:
    fd = os.open(path, os.O_RDWR | flags)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def map_and_write(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(fd, 0) as view:
            view[0:1] = b"X"
            view.flush()
    finally:
        os.close(fd)


def rename_and_back(path: Path) -> None:
    path.rename(path.with_name("moved")).rename(path)


FILE_ACTIONS: dict[str, Callable[[Path], object]] = {
    "write": lambda path: write_at(path, b"x"),
    "append": lambda path: write_at(path, b"x", 0, os.O_APPEND),
    "write beyond the end": lambda path: write_at(path, b"x", 100_000),
    "write of nothing": lambda path: write_at(path, b""),
    "synchronous write": lambda path: write_at(path, b"x", 3, os.O_SYNC),
    "truncate down": lambda path: os.truncate(path, 3),
    "truncate up": lambda path: os.truncate(path, 5000),
    "write through a mapping": map_and_write,
    "open with O_TRUNC": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "open with O_TRUNC when empty": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "open with O_CREAT": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)),
    "stat": lambda path: path.stat().st_size,
    "access": lambda path: os.access(path, os.R_OK),
    "setxattr": lambda path: os.setxattr(path, "user.a", b"1"),
    "getxattr": lambda path: os.getxattr(path, "user.a"),
    "listxattr": lambda path: os.listxattr(path),
    "removexattr": lambda path: os.removexattr(path, "user.a"),
    "link": lambda path: os.link(path, path.with_name("second")),
    "unlink of one link": lambda path: path.with_name("second").unlink(),
    "rename": rename_and_back,
}


def test_of_the_file(both: Both) -> None:
    def operation(root: Path) -> Cases:
        place = directory(root / "place")
        path = make("file", place / "file")
        for label, action in FILE_ACTIONS.items():
            before, around = times(path), times(place)
            tick()
            answer = tried(action, path)
            after = later(before, times(path))
            yield label, [answer, [name for name in after if name != "atime"], later(around, times(place))]

    both(operation)


def test_truncate_to_the_same_size(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        before = times(path)
        tick()
        os.truncate(path, path.stat().st_size)
        yield "truncate to the same", later(before, times(path))

    why = "under write-back the kernel keeps the times, and moves them here only if the size changes"
    both.documented(operation, mount=[], plain=["mtime", "ctime"], why=why)


def test_ftruncate_to_the_same_size(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        with path.open("r+b") as file:
            for size in (7, 7, 0, 0, 9):
                before = times(path)
                tick()
                os.ftruncate(file.fileno(), size)
                yield f"to {size}", later(before, times(path))

    both(operation)


def test_order_while_a_file_is_open(both: Both) -> None:
    """The kernel keeps mtime and ctime of a file being written; they must never go back, whoever stamps next."""

    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        with path.open("r+b", buffering=0) as file:
            steps: list[Callable[[], object]] = [
                lambda: file.write(b"one"),
                lambda: path.chmod(0o600),
                lambda: file.write(b"two"),
                lambda: os.setxattr(path, "user.x", b"y"),
                lambda: file.write(b"three"),
                lambda: os.fsync(file.fileno()),
                lambda: os.link(path, root / "other"),
                lambda: file.write(b"four"),
                lambda: os.ftruncate(file.fileno(), 2),
                lambda: path.rename(root / "third"),
                lambda: os.fchmod(file.fileno(), 0o644),
            ]
            for number, step in enumerate(steps):
                before = times(file.fileno())
                tick()
                step()
                yield f"step {number}", later(before, times(file.fileno()))
            open_times = times(file.fileno())
        yield "kept by close", later(open_times, times(root / "third"))

    both(operation)


CHANGES: dict[str, Callable[[Path], object]] = {
    "create a file": lambda place: make("file", place / "new"),
    "mkdir": lambda place: (place / "sub").mkdir(),
    "symlink": lambda place: (place / "soft").symlink_to("new"),
    "mkfifo": lambda place: os.mkfifo(place / "pipe"),
    "link": lambda place: os.link(place / "new", place / "hard"),
    "create what exists": lambda place: tried(os.mkdir, place / "sub"),
    "rename inside": lambda place: (place / "new").rename(place / "newer"),
    "rename over": lambda place: (place / "newer").rename(place / "hard2"),
    "exchange": lambda place: calls.renameat2(place / "hard2", place / "sub", calls.RENAME_EXCHANGE),
    "rename onto itself": lambda place: (place / "soft").rename(place / "soft"),
    "chmod of an entry": lambda place: (place / "hard").chmod(0o600),
    "write to an entry": lambda place: write_at(place / "hard", b"x"),
    "unlink": lambda place: (place / "hard").unlink(),
    "unlink of nothing": lambda place: tried(os.unlink, place / "hard"),
    "rmdir": lambda place: (place / "hard2").rmdir(),
    "rmdir of a full one": lambda place: tried(os.rmdir, place),
    "list": lambda place: sorted(os.listdir(place)),
}


def test_of_the_directory(both: Both) -> None:
    def operation(root: Path) -> Cases:
        place = directory(root / "place")
        for label, change in CHANGES.items():
            before, outside = times(place), times(root)
            tick()
            answer = change(place)
            after = [name for name in later(before, times(place)) if name != "atime"]
            yield label, [answer, after, [name for name in later(outside, times(root)) if name != "atime"]]

    both(operation)


def test_rename_between_directories(both: Both) -> None:
    def operation(root: Path) -> Cases:
        here, there = directory(root / "here"), directory(root / "there")
        for kind in ("file", "directory", "symlink", "fifo"):
            moving = make(kind, here / kind)
            before = [times(path) for path in (here, there, moving)]
            tick()
            moving.rename(there / kind)
            yield kind, [later(old, times(path)) for old, path in zip(before, (here, there, there / kind), strict=True)]

    both(operation)


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", ["file", "fifo", "socket", "character", "block"])
def test_rename_and_unlink_of_a_file_with_another_link(both: Both, kind: str) -> None:
    def operation(root: Path) -> Cases:
        for label, action in {
            "unlink": lambda place: (place / "a").unlink(),
            "replaced": lambda place: (place / "other").rename(place / "a"),
            "rename": lambda place: (place / "a").rename(place / "c"),
            "rename onto its own link": lambda place: (place / "a").rename(place / "b"),
        }.items():
            place = directory(root / label)
            make(kind, place / "a")
            make(kind, place / "other")
            os.link(place / "a", place / "b")
            before = times(place / "b")
            tick()
            action(place)
            yield label, [later(before, times(place / "b")), os.lstat(place / "b"), sorted(os.listdir(place))]

    both(operation)


def test_new_files_have_one_time(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in ("file", "directory", "dangling", "fifo", "socket"):
            before = times(root)
            tick()
            born = times(make(kind, root / kind, content=b""))
            yield kind, [born["atime"] == born["mtime"] == born["ctime"], born["mtime"] > before["mtime"]]

    both(operation)


def test_access_time_of_a_first_read(both: Both) -> None:
    """relatime: a first read after a write moves atime, a second one shortly after does not."""

    def operation(root: Path) -> Cases:
        path, link, place = make("file", root / "file"), make("dangling", root / "link"), directory(root / "place")
        make("file", place / "inside")
        for label, target, access in (
            ("readlink", link, lambda: os.readlink(link)),
            ("readdir", place, lambda: os.listdir(place)),
        ):
            for turn in ("first", "second"):
                before = times(target)
                tick()
                access()
                yield f"{label} {turn}", later(before, times(target))
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = times(path)
        tick()
        with path.open("rb") as file:
            file.read()
        yield "read leaves the others", [name for name in later(before, times(path)) if name != "atime"]

    both(operation)


def test_no_access_time_on_request(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        tick()
        before = times(path)
        fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
        os.read(fd, 10)
        os.close(fd)
        yield "O_NOATIME", later(before, times(path))

    both(operation)


@pytest.mark.needs_root
def test_no_access_time_is_for_owners(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file", mode=0o644)
        yield "bob", by(ALICE, lambda: os.close(os.open(path, os.O_RDONLY | os.O_NOATIME)))

    both(operation)


def test_refused_calls_move_nothing(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path, place = make("file", root / "file"), directory(root / "full")
        make("file", place / "inside")
        for label, call in {
            "link onto": lambda: os.link(path, place),
            "mkdir onto": lambda: path.mkdir(),
            "rename directory onto file": lambda: place.rename(path),
            "rename file onto directory": lambda: path.rename(place),
            "rmdir full": lambda: place.rmdir(),
            "rmdir file": lambda: os.rmdir(path),
            "unlink directory": lambda: place.unlink(),
            "truncate negative": lambda: os.truncate(path, -1),
            "symlink onto": lambda: path.symlink_to("x"),
            "mknod onto": lambda: os.mkfifo(path),
        }.items():
            before = [times(item) for item in (path, place, root)]
            tick()
            answer = tried(call)
            yield (
                label,
                [answer, *(later(old, times(item)) for old, item in zip(before, (path, place, root), strict=True))],
            )

    both(operation)
