"""chmod and fchmod: every mode, every type of file, every kind of caller."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.both import ALICE, BOB, USERS, Both, Cases, User, by, look, tried
from tests.mounted.things import NODES, TYPES, directory, later, make, tick, times

MODES = [
    0,
    *(1 << bit for bit in range(12)),
    0o644,
    0o755,
    0o1777,
    0o2755,
    0o4755,
    0o6755,
    0o7777,
    0o0777,
    0o3711,
    0o5070,
]
pytestmark = pytest.mark.needs_root


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "socket", "character"])
def test_each_mode_is_kept(both: Both, kind: str) -> None:
    def operation(root: Path) -> Cases:
        path = make(kind, root / "thing")
        for mode in MODES:
            yield f"chmod {mode:04o}", [tried(os.chmod, path, mode), look(path)]

    both(operation)


@pytest.mark.parametrize("name", ["alice", "bob", "carol"])
def test_who_may(both: Both, name: str) -> None:
    def operation(root: Path) -> Cases:
        directory(root / "d")
        for kind in TYPES:
            for number, mode in enumerate((0o644, 0o2755, 0o4755, 0o6777)):
                path = make(kind, root / "d" / f"{kind}{number}", mode=0o640, owner=ALICE)
                yield f"{kind} {mode:04o}", [by(USERS[name], os.chmod, path, mode), look(path)]

    both(operation)


def test_set_group_id_outside_the_group_is_dropped(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in ("file", "directory"):
            for group in (ALICE.gid, 60002, 0):
                for mode in (0o2755, 0o2644, 0o6755, 0o7777):
                    path = make(kind, root / f"{kind}{group}{mode:o}", mode=0o600, owner=ALICE)
                    os.chown(path, ALICE.uid, group)
                    yield f"{kind} group {group} {mode:04o}", [by(ALICE, os.chmod, path, mode), look(path)]

    both(operation)


def test_sticky_on_a_file_by_its_owner(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in NODES[:3]:
            path = make(kind, root / kind, owner=ALICE)
            yield kind, [by(ALICE, os.chmod, path, 0o1755), look(path)]

    both(operation)


def test_through_descriptors(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file", mode=0o644, owner=ALICE)

        def change(mode: int, flags: int) -> object:
            fd = os.open(path, flags)
            try:
                return [tried(os.fchmod, fd, mode), os.fstat(fd)]
            finally:
                os.close(fd)

        for mode in MODES:
            yield f"fchmod {mode:04o}", [change(mode, os.O_RDONLY), look(path)]
        path.chmod(0o644)
        yield "alice", by(ALICE, change, 0o600, os.O_RDONLY)
        path.chmod(0o666)
        yield "bob", by(USERS["bob"], change, 0o600, os.O_RDWR)
        yield "O_PATH", tried(change, 0o600, os.O_PATH)

    both(operation)


def test_through_symlinks(both: Both) -> None:
    def operation(root: Path) -> Cases:
        make("symlink", root / "link")
        yield "follows", [tried(os.chmod, root / "link", 0o600), look(root / "link"), look(root / "link.target")]
        make("dangling", root / "dangling")
        yield "dangling", tried(os.chmod, root / "dangling", 0o600)

    both(operation)


def through(flags: int, action: Callable[[int], object]) -> Callable[[Path], object]:
    """``action`` on a descriptor."""

    def call(path: Path) -> str:
        fd = os.open(path, flags)
        try:
            action(fd)
        finally:
            os.close(fd)
        return "done"

    return call


def through_memory(fd: int) -> None:
    with mmap.mmap(fd, 3) as memory:
        memory[:1] = b"m"


CHANGES_OF_OTHERS: dict[str, Callable[[Path], object]] = {
    "write": through(os.O_RDWR, lambda fd: os.write(fd, b"x")),
    "two writes": through(os.O_RDWR, lambda fd: [os.write(fd, b"x"), os.write(fd, b"y")]),
    "append": through(os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"x")),
    "mmap": through(os.O_RDWR, through_memory),
    "truncate": lambda path: os.truncate(path, 2),
    "truncate to the same size": lambda path: os.truncate(path, path.stat().st_size),
    "ftruncate": through(os.O_RDWR, lambda fd: os.ftruncate(fd, 5)),
    "open with O_TRUNC": through(os.O_RDWR | os.O_TRUNC, lambda fd: None),
    "creat": through(os.O_WRONLY | os.O_CREAT | os.O_TRUNC, lambda fd: None),
    "chown to Bob's group": lambda path: os.chown(path, -1, BOB.gid),
    "chown of nothing": lambda path: os.chown(path, -1, -1),
    "chmod": lambda path: path.chmod(0o2666),
    "utime": lambda path: os.utime(path),
    "setxattr": lambda path: os.setxattr(path, "user.x", b"y"),
}


@pytest.mark.parametrize("change", CHANGES_OF_OTHERS)
def test_set_id_bits_after_changes_by_others(both: Both, change: str) -> None:
    """Who is not root takes set-id bits away by changing a file; set-group-id of a file that its group may not execute
    only if it is not in that group."""

    def operation(root: Path) -> Cases:
        for mode in (0o2666, 0o6666, 0o2676, 0o4666, 0o7777, 0o2777, 0o6766):
            for uid, gid in ((0, 0), (BOB.uid, ALICE.gid), (ALICE.uid, BOB.gid), (BOB.uid, 0), (ALICE.uid, ALICE.gid)):
                for name, user in USERS.items():
                    path = make("file", root / f"{mode:o}-{uid}-{gid}-{name}", mode=mode, owner=User(uid=uid, gid=gid))
                    yield path.name, [by(user, CHANGES_OF_OTHERS[change], path), look(path)]

    both(operation)


def test_change_time(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in ("file", "directory", "fifo"):
            path = make(kind, root / kind, mode=0o600)
            for mode in (0o644, 0o644):
                before = times(path)
                tick()
                path.chmod(mode)
                yield f"{kind} {mode:04o}", later(before, times(path))
            before = times(path)
            tick()
            yield f"{kind} refused", [by(ALICE, os.chmod, path, 0), later(before, times(path))]

    both(operation)


def test_effect_on_access(both: Both) -> None:
    """What each permission bit allows each class of caller, asked by access(2) and by trying."""

    def reach(path: Path) -> object:
        asked = [tried(os.access, path, right) for right in (os.R_OK, os.W_OK, os.X_OK)]
        return [
            *asked,
            *(
                tried(lambda flags=flags: os.close(os.open(path, flags)))
                for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
            ),
        ]

    def enter(path: Path) -> object:
        return [
            tried(lambda: sorted(os.listdir(path))),
            tried(os.stat, path / "inside"),
            tried((path / "new").mkdir),
            tried((path / "new").rmdir),
        ]

    def operation(root: Path) -> Cases:
        file = make("file", root / "file", owner=ALICE)
        place = directory(root / "place", owner=ALICE)
        make("file", place / "inside")
        for mode in (0o000, *(1 << bit for bit in range(9)), 0o007, 0o070, 0o700, 0o750, 0o705, 0o311, 0o644, 0o077):
            file.chmod(mode)
            place.chmod(mode)
            for name, user in USERS.items():
                yield f"file {mode:03o} {name}", by(user, reach, file)
                yield f"directory {mode:03o} {name}", by(user, enter, place)

    both(operation)
