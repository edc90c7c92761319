"""chown, lchown, fchown: who may give what to whom, and which mode bits that clears."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.both import ALICE, BOB, CAROL, USERS, Both, Cases, User, by, look, tried
from tests.mounted.things import TYPES, directory, later, make, tick, times

pytestmark = pytest.mark.needs_root
SET_ID_MODES = (0o4755, 0o2755, 0o6755, 0o2745, 0o6745, 0o6644, 0o7777, 0o1755)
GIFTS = (
    (-1, -1),
    (ALICE.uid, -1),
    (BOB.uid, -1),
    (-1, ALICE.gid),
    (-1, BOB.gid),
    (ALICE.uid, ALICE.gid),
    (0, 0),
    (BOB.uid, BOB.gid),
)


def test_root_sets_any_owner(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in TYPES:
            path = make(kind, root / kind)
            for uid, gid in ((1, 2), (-1, 3), (4, -1), (-1, -1), (2**31, 2**31 - 1), (2**32 - 2, 2**32 - 2), (0, 0)):
                yield f"{kind} {uid} {gid}", [tried(os.lchown, path, uid, gid), look(path)]

    both(operation)


@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_set_id_bits_after_chown(both: Both, kind: str) -> None:
    def operation(root: Path) -> Cases:
        for mode in SET_ID_MODES:
            for uid, gid in GIFTS:
                path = make(kind, root / f"root{mode:o}.{uid}.{gid}", mode=mode, owner=ALICE)
                yield f"root {mode:04o} {uid} {gid}", [tried(os.chown, path, uid, gid), look(path)]

    both(operation)


@pytest.mark.parametrize("name", ["alice", "bob", "carol"])
def test_ordinary_users(both: Both, name: str) -> None:
    giver = USERS[name]

    def operation(root: Path) -> Cases:
        directory(root / "d")
        for owner in (ALICE, CAROL):
            for kind in ("file", "directory"):
                for mode in (0o6755, 0o2745):
                    for uid, gid in (*GIFTS, (owner.uid, CAROL.gid), (CAROL.uid, -1)):
                        path = make(kind, root / "d" / f"{owner.uid}{kind}{mode:o}.{uid}.{gid}", mode=mode, owner=owner)
                        yield f"{path.name}", [by(giver, os.chown, path, uid, gid), look(path)]

    both(operation)


def test_several_groups(both: Both) -> None:
    """A member may pass a file on to any of its groups, and only to those."""
    member = User(uid=60009, gid=60009, groups=(60001, 60005))

    def operation(root: Path) -> Cases:
        for gid in (60009, 60001, 60005, 60002, 0):
            path = make("file", root / str(gid), mode=0o6777, owner=member)
            yield f"to {gid}", [by(member, os.chown, path, -1, gid), look(path)]
            yield f"chmod after {gid}", [by(member, os.chmod, path, 0o2755), look(path)]

    both(operation)


def test_links_are_followed_or_not(both: Both) -> None:
    def operation(root: Path) -> Cases:
        link = make("symlink", root / "link")
        yield "lchown", [tried(os.lchown, link, 5, 6), look(link), tried(os.stat, link)]
        yield "chown", [tried(os.chown, link, 7, 8), look(link), tried(os.stat, link)]
        dangling = make("dangling", root / "dangling")
        yield "dangling", [tried(os.chown, dangling, 1, 1), tried(os.lchown, dangling, 1, 1), look(dangling)]

    both(operation)


def test_through_descriptors(both: Both) -> None:
    def fchown(path: Path, flags: int, uid: int, gid: int) -> object:
        fd = os.open(path, flags)
        try:
            return [tried(os.fchown, fd, uid, gid), os.fstat(fd)]
        finally:
            os.close(fd)

    def operation(root: Path) -> Cases:
        for mode in SET_ID_MODES:
            path = make("file", root / f"{mode:o}", mode=mode, owner=ALICE)
            yield f"root {mode:o}", fchown(path, os.O_RDONLY, 1, 2)
            os.chown(path, ALICE.uid, ALICE.gid)
            path.chmod(mode)
            yield f"alice {mode:o}", by(ALICE, fchown, path, os.O_RDONLY, -1, ALICE.gid)
            yield f"bob {mode:o}", by(BOB, fchown, path, os.O_RDONLY, BOB.uid, -1)

    both(operation)


def test_open_descriptor_of_an_unlinked_file(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file", mode=0o6755)
        fd = os.open(path, os.O_RDWR)
        path.unlink()
        yield "fchown", [tried(os.fchown, fd, 3, 4), os.fstat(fd)]
        yield "fchmod", [tried(os.fchmod, fd, 0o600), os.fstat(fd)]
        os.close(fd)

    both(operation)


def test_change_time(both: Both) -> None:
    actions: dict[str, Callable[[Path], object]] = {
        "same": lambda path: os.lchown(path, 0, 0),
        "other": lambda path: os.lchown(path, 1, 1),
        "nothing": lambda path: os.lchown(path, -1, -1),
        "refused": lambda path: by(ALICE, os.lchown, path, ALICE.uid, -1),
    }

    def operation(root: Path) -> Cases:
        for kind in ("file", "directory", "symlink", "fifo"):
            path = make(kind, root / kind)
            for label, action in actions.items():
                before = times(path)
                tick()
                yield f"{kind} {label}", [action(path), later(before, times(path))]

    both(operation)


def test_inherited_group(both: Both) -> None:
    """A set-group-id directory gives its group to what is made in it, and the bit to directories."""

    def made(place: Path) -> object:
        for kind in ("file", "directory", "fifo", "socket", "dangling"):
            make(kind, place / kind)
        os.close(os.open(place / "set", os.O_CREAT | os.O_WRONLY, 0o2775))
        (place / "plain").mkdir(0o2755)
        (place / "plain" / "deeper").mkdir()
        return [(name, look(place / name)) for name in (*sorted(os.listdir(place)), "plain/deeper")]

    def operation(root: Path) -> Cases:
        for mode in (0o777, 0o2777, 0o3777):
            for name, user in USERS.items():
                for group in (0, ALICE.gid, BOB.gid):
                    place = directory(root / f"{mode:o}{name}{group}")
                    os.chown(place, 0, group)
                    place.chmod(mode)
                    yield place.name, by(user, made, place)

    both(operation)
