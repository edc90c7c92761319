"""mkdir, mkfifo, mknod, rmdir: modes under each umask, owners, what is in the way, and what may not be removed."""

import itertools
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.mounted import calls
from tests.mounted.both import ALICE, BOB, CAROL, USERS, Both, Cases, by, look, tried
from tests.mounted.things import LOOP_DEVICE, NUL_DEVICE, TYPES, directory, make

UMASKS = (0o000, 0o022, 0o077, 0o027, 0o777, 0o111)
CREATION_MODES = (0o000, 0o151, 0o644, 0o755, 0o777, 0o1777, 0o2777, 0o4777, 0o7777)


def made(kind: str, path: Path, mode: int) -> object:
    """Make one thing with exactly this mode argument."""
    match kind:
        case "mkdir":
            return tried(os.mkdir, path, mode)
        case "mkfifo":
            return tried(os.mkfifo, path, mode)
        case "creat":
            return tried(lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)))
        case "mknod file":
            return tried(os.mknod, path, stat.S_IFREG | mode)
        case "mknod socket":
            return tried(os.mknod, path, stat.S_IFSOCK | mode)
        case "mknod fifo":
            return tried(os.mknod, path, stat.S_IFIFO | mode)
        case "mknod character":
            return tried(os.mknod, path, stat.S_IFCHR | mode, NUL_DEVICE)
        case "mknod block":
            return tried(os.mknod, path, stat.S_IFBLK | mode, LOOP_DEVICE)
        case "mknod without a type":
            return tried(os.mknod, path, mode)
        case "mknod directory":
            return tried(os.mknod, path, stat.S_IFDIR | mode)
    raise ValueError(kind)


KINDS = (
    "mkdir",
    "mkfifo",
    "creat",
    "mknod file",
    "mknod socket",
    "mknod fifo",
    "mknod character",
    "mknod block",
    "mknod without a type",
    "mknod directory",
)


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_mode_and_umask(both: Both, kind: str) -> None:
    def operation(root: Path) -> Cases:
        for umask, mode in itertools.product(UMASKS, CREATION_MODES):
            os.umask(umask)
            path = root / f"{umask:o}.{mode:o}"
            yield path.name, [made(kind, path, mode), look(path)]
        os.umask(0o022)

    both(operation)


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_who_may_and_who_owns(both: Both, kind: str) -> None:
    def operation(root: Path) -> Cases:
        for parent_mode, parent_owner in itertools.product((0o777, 0o755, 0o2777, 0o1777, 0o333, 0o666), (ALICE, BOB)):
            place = directory(root / f"{parent_mode:o}-{parent_owner.uid}", mode=parent_mode, owner=parent_owner)
            for name, user in USERS.items():
                path = place / name
                yield f"{place.name} {name}", [by(user, made, kind, path, 0o3775), look(path)]

    both(operation)


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_the_way(both: Both, kind: str) -> None:
    def operation(root: Path) -> Cases:
        for there in TYPES:
            path = make(there, root / there)
            before = look(path)
            yield there, [made(kind, path, 0o644), before == look(path)]
            yield f"{there} with a slash", [made(kind, Path(f"{path}/"), 0o644), tried(os.mkdir, f"{path}/")]
            yield f"below {there}", made(kind, path / "new", 0o644)

    both(operation)


@pytest.mark.needs_root
def test_device_numbers(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for major, minor in ((0, 0), (1, 3), (8, 255), (255, 255), (7, 256), (4095, 0), (4095, 1048575), (300, 70000)):
            for label, kind in (("c", stat.S_IFCHR), ("b", stat.S_IFBLK)):
                path = root / f"{label}{major}.{minor}"
                answer = tried(os.mknod, path, kind | 0o600, os.makedev(major, minor))
                found = os.lstat(path)
                yield path.name, [answer, os.major(found.st_rdev), os.minor(found.st_rdev), found]

    both(operation)


def test_parents_count_directories(both: Both) -> None:
    """nlink of a directory is two and one for each directory in it, through every way in and out."""

    def operation(root: Path) -> Cases:
        place, other = directory(root / "place"), directory(root / "other")
        for number in range(5):
            (place / str(number)).mkdir()
            yield f"mkdir {number}", [look(place), look(place / str(number)), look(root)]
        for kind in ("file", "symlink", "fifo"):
            make(kind, place / kind)
            yield kind, look(place)
        (place / "0").rename(other / "0")
        yield "moved", [look(place), look(other)]
        (place / "1").rename(place / "2")
        yield "onto an empty one", look(place)
        (place / "2" / "deep").mkdir()
        yield "deeper", [look(place), look(place / "2"), look(place / "2" / "deep")]
        (other / "0").rmdir()
        yield "rmdir", look(other)
        fd = os.open(place / "3", os.O_RDONLY)
        (place / "3").rmdir()
        yield "removed while open", [os.fstat(fd).st_nlink, look(place)]
        os.close(fd)

    both(operation)


@pytest.mark.needs_root
def test_rmdir_of_each_type(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in TYPES:
            path = make(kind, root / kind)
            yield kind, [tried(os.rmdir, path), look(path)]
        full = directory(root / "full")
        for kind in TYPES:
            path = make(kind, full / kind)
            yield f"with {kind}", [tried(os.rmdir, full), look(full)]
            for left in os.listdir(full):
                (full / left).rmdir() if kind == "directory" else (full / left).unlink()
        yield "emptied", [tried(os.rmdir, full), look(full), look(root)]

    both(operation)


def test_rmdir_of_dots(both: Both) -> None:
    def operation(root: Path) -> Cases:
        directory(root / "d")
        directory(root / "d" / "e")
        (root / "link").symlink_to("d/e")
        for name in ("d/.", "d/..", "d/e/..", "d/e/.", "d/e/../e", "link", "link/", "missing", "d/e/", "."):
            yield name, [tried(os.rmdir, f"{root}/{name}"), sorted(os.listdir(root)), look(root / "d")]

    both(operation)


def test_rmdir_of_the_working_directory(both: Both) -> None:
    def operation(root: Path) -> Cases:
        here = os.open(".", os.O_RDONLY)
        place = directory(root / "place")
        os.chdir(place)
        try:
            place.rmdir()
            yield "listing", tried(os.listdir, ".")
            yield (
                "making",
                [tried(os.mkdir, "x"), tried(os.open, "y", os.O_CREAT | os.O_WRONLY), tried(os.symlink, "a", "b")],
            )
            yield "stat", os.stat(".").st_nlink
            yield "parent", tried(lambda: sorted(os.listdir("..")))
            yield "getcwd", tried(os.getcwd)
        finally:
            os.fchdir(here)
            os.close(here)

    both(operation)


@pytest.mark.needs_root
def test_mount_points_stay(both: Both) -> None:
    def operation(root: Path) -> Cases:
        place, other = directory(root / "place"), directory(root / "other")
        subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
        try:
            yield "rmdir", tried(os.rmdir, place)
            yield "rename", tried(os.rename, place, root / "new")
            yield "replace", tried(os.rename, other, place)
            yield "exchange", tried(calls.renameat2, other, place, calls.RENAME_EXCHANGE)
            yield "up", sorted(os.listdir(place / ".."))
        finally:
            subprocess.run(["umount", str(place)], check=True)
        yield "afterwards", [tried(os.rmdir, place), sorted(os.listdir(root))]

    both(operation)


@pytest.mark.needs_root
@pytest.mark.parametrize("name", ["alice", "bob", "carol"])
def test_sticky_removal(both: Both, name: str) -> None:
    """rmdir and unlink in sticky directories, for each owner of the directory and of the thing."""

    def operation(root: Path) -> Cases:
        for mode, parent in itertools.product((0o777, 0o1777, 0o1775, 0o755, 0o000), USERS):
            place = directory(root / f"{mode:o}-{parent}", mode=mode, owner=USERS[parent])
            for owner, kind in itertools.product(USERS, ("file", "directory", "fifo", "dangling", "socket")):
                path = make(kind, place / f"{owner}-{kind}", owner=USERS[owner])
                call = os.rmdir if kind == "directory" else os.unlink
                yield f"{place.name} {path.name}", [by(USERS[name], call, path), look(path)]

    both(operation)


@pytest.mark.needs_root
def test_fifos_and_devices_work(both: Both) -> None:
    """They are the kernel's, once opened."""

    def operation(root: Path) -> Cases:
        fifo = make("fifo", root / "fifo")
        yield "write without a reader", tried(os.open, fifo, os.O_WRONLY | os.O_NONBLOCK)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(fifo, os.O_WRONLY)
        os.write(writer, b"through")
        yield "through", [os.read(reader, 100), look(fifo)]
        os.close(reader)
        os.close(writer)
        yield "socket", tried(os.open, make("socket", root / "socket"), os.O_RDWR)
        yield "carol on a fifo", by(CAROL, os.open, fifo, os.O_RDWR)

    both(operation)
