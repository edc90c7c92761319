"""Finding things: "..", names made and removed behind the kernel's caches, and file handles as NFS servers use them."""

import os
from pathlib import Path

import pytest

from tests.mounted import calls
from tests.mounted.both import ALICE, Both, Cases, by, look, tried
from tests.mounted.things import NODES, directory, make


def test_up(both: Both) -> None:
    def operation(root: Path) -> Cases:
        deep = root / "a" / "b" / "c"
        deep.mkdir(parents=True)
        for path in (".", "..", "../..", "../../..", "../c", "../../b/c/../../b"):
            same = os.stat(deep / path).st_ino
            yield path, [same == os.stat(os.path.normpath(deep / path)).st_ino, sorted(os.listdir(deep / path))[:3]]
        fd = os.open(deep, os.O_RDONLY)
        (root / "a" / "b").rename(root / "moved")
        up = os.open("..", os.O_RDONLY, dir_fd=fd)
        yield "after the move", [sorted(os.listdir(up)), os.fstat(up).st_ino == os.stat(root / "moved").st_ino]
        os.close(up)
        deep = root / "moved" / "c"
        deep.rename(root / "a" / "c")
        up = os.open("..", os.O_RDONLY, dir_fd=fd)
        yield (
            "after its own move",
            [
                os.fstat(up).st_ino == os.stat(root / "a").st_ino,
                os.stat("../..", dir_fd=fd).st_ino == root.stat().st_ino,
            ],
        )
        os.close(up)
        os.close(fd)

    both(operation)


def test_names_that_were_not_there(both: Both) -> None:
    """A name that the kernel remembers as missing must appear by every way of making it."""

    def operation(root: Path) -> Cases:
        source = make("file", root / "source")
        for kind in NODES:
            path = root / kind
            yield f"{kind} before", [look(path), look(path)]
            make(kind, path)
            yield f"{kind} after", look(path)
        for label, call in {
            "link": lambda path: os.link(source, path),
            "rename": lambda path: os.rename(make("file", root / "other"), path),
            "exchange": lambda path: calls.renameat2(source, make("file", path), calls.RENAME_EXCHANGE),
            "noreplace": lambda path: calls.renameat2(make("file", root / "other"), path, calls.RENAME_NOREPLACE),
        }.items():
            path = root / f"by {label}"
            yield f"{label} before", look(path)
            call(path)
            yield f"{label} after", [look(path), look(root / "other"), look(source)]

    both(operation)


def test_names_that_are_gone(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for turn in range(30):
            path = root / "thing"
            make(("file", "directory", "fifo")[turn % 3], path)
            found = look(path)
            (path.rmdir if turn % 3 == 1 else path.unlink)()
            yield f"turn {turn}", [found, look(path), tried(os.open, path, os.O_RDONLY)]

    both(operation)


@pytest.mark.needs_root
def test_handles(both: Both) -> None:
    """A handle finds its file again, wherever it has gone, as long as it has a link."""

    def opened(mount_fd: int, handle: bytes, flags: int = os.O_RDONLY) -> object:
        fd = calls.open_handle(mount_fd, handle, flags)
        try:
            return [
                os.fstat(fd),
                tried(os.listdir, fd) if os.path.isdir(f"/proc/self/fd/{fd}") else tried(os.read, fd, 99),
            ]
        finally:
            os.close(fd)

    def operation(root: Path) -> Cases:
        mount_fd = os.open(root, os.O_RDONLY)
        place = directory(root / "place")
        path = make("file", place / "file", content=b"found by handle")
        file, folder = calls.handle_of(path), calls.handle_of(place)
        yield "same", calls.handle_of(path) == file
        yield "file", tried(opened, mount_fd, file)
        yield "directory", tried(opened, mount_fd, folder)
        path.rename(root / "moved")
        yield "moved", tried(opened, mount_fd, file)
        os.link(root / "moved", root / "linked")
        (root / "moved").unlink()
        yield "one link left", tried(opened, mount_fd, file, os.O_RDWR)
        link = calls.handle_of(make("dangling", root / "soft"))
        yield "symlink", tried(opened, mount_fd, link, os.O_PATH) and "some answer"
        for kind in NODES:
            yield kind, tried(calls.handle_of, make(kind, root / f"a {kind}")) != calls.handle_of(root)
        yield "alice", by(ALICE, opened, mount_fd, file)
        (root / "linked").unlink()
        yield "gone", tried(opened, mount_fd, file)
        place.rmdir()
        yield "directory gone", tried(opened, mount_fd, folder)
        make("file", root / "newer")
        yield "not the newer one", tried(opened, mount_fd, file)
        os.close(mount_fd)

    both(operation)


@pytest.mark.needs_root
def test_handles_after_the_caches_were_dropped(both: Both) -> None:
    """Then the kernel asks for the inode by its number alone."""

    def operation(root: Path) -> Cases:
        mount_fd = os.open(root, os.O_RDONLY)
        deep = root / "a" / "b"
        deep.mkdir(parents=True)
        handles = {
            "file": calls.handle_of(make("file", deep / "file")),
            "directory": calls.handle_of(deep),
            "missing": calls.handle_of(make("file", deep / "missing")),
        }
        (deep / "missing").unlink()
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        for label, handle in handles.items():
            fd = tried(calls.open_handle, mount_fd, handle, os.O_RDONLY)
            if isinstance(fd, int):
                yield label, [os.fstat(fd), tried(os.stat, "..", dir_fd=fd) if label == "directory" else os.read(fd, 9)]
                os.close(fd)
            else:
                yield label, fd
        os.close(mount_fd)

    both(operation)


def test_numbers_are_stable(both: Both) -> None:
    def operation(root: Path) -> Cases:
        paths = [make(kind, root / kind) for kind in NODES]
        before = [os.lstat(path).st_ino for path in paths]
        moved = [path.rename(root / f"new-{path.name}") for path in paths]
        yield "renamed", before == [os.lstat(path).st_ino for path in moved]
        yield "all different", len(set(before)) == len(paths)
        yield "one device", len({os.lstat(path).st_dev for path in (*moved, root)}) == 1

    both(operation)
