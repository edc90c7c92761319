"""POSIX ACLs: set and read back, the mode that shows them, access they give, defaults that are inherited."""

import itertools
import os
import struct
from pathlib import Path

import pytest

from tests.mounted.both import ALICE, BOB, CAROL, ROOT, USERS, Both, Cases, User, by, look, open_and_close, tried
from tests.mounted.things import directory, later, make, tick, times

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, USER, GROUP, NAMED_GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF
DAVE = User(uid=60004, gid=60004, groups=(60077,))
ALL = {**USERS, "dave": DAVE}


def acl(*entries: tuple[int, int, int] | tuple[int, int]) -> bytes:
    """The kernel's format: (tag, permissions, id) in order."""
    packed = [struct.pack("<HHI", tag, rights, ids[0] if ids else NOBODY) for tag, rights, *ids in entries]
    return struct.pack("<I", 2) + b"".join(packed)


def minimal(owner: int = 7, group: int = 5, other: int = 5) -> bytes:
    """What says no more than a mode."""
    return acl((OWNER, owner), (GROUP, group), (OTHER, other))


def extended(*, owner: int = 7, bob: int = 6, group: int = 5, named: int = 3, mask: int = 7, other: int = 0) -> bytes:
    """With Bob and group 60077 by name."""
    return acl(
        (OWNER, owner), (USER, bob, BOB.uid), (GROUP, group), (NAMED_GROUP, named, 60077), (MASK, mask), (OTHER, other)
    )


MALFORMED = {
    "empty": b"",
    "short": b"\x02\x00",
    "only a header": struct.pack("<I", 2),
    "wrong version": struct.pack("<I", 1) + minimal()[4:],
    "half an entry": minimal()[:-3],
    "no owner": acl((GROUP, 5), (OTHER, 5)),
    "no mask": acl((OWNER, 7), (USER, 6, BOB.uid), (GROUP, 5), (OTHER, 0)),
    "two owners": acl((OWNER, 7), (OWNER, 6), (GROUP, 5), (OTHER, 0)),
    "wrong order": acl((GROUP, 5), (OWNER, 7), (OTHER, 0)),
    "unknown tag": acl((OWNER, 7), (3, 7), (GROUP, 5), (OTHER, 0)),
    "too many rights": acl((OWNER, 15), (GROUP, 5), (OTHER, 0)),
    "same user twice": acl((OWNER, 7), (USER, 6, 5), (USER, 6, 5), (GROUP, 5), (MASK, 7), (OTHER, 0)),
    "users out of order": acl((OWNER, 7), (USER, 6, 9), (USER, 6, 5), (GROUP, 5), (MASK, 7), (OTHER, 0)),
}


def shown(path: Path) -> list[object]:
    """Mode and both ACLs."""
    return [look(path), tried(os.getxattr, path, ACCESS), tried(os.getxattr, path, DEFAULT), sorted(os.listxattr(path))]


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("name", [ACCESS, DEFAULT])
def test_set_and_read_back(both: Both, kind: str, name: str) -> None:
    def operation(root: Path) -> Cases:
        path = make(kind, root / kind)
        for label, value in {
            "minimal": minimal(),
            "extended": extended(),
            "masked": extended(mask=1),
            "nothing": minimal(0, 0, 0),
            **MALFORMED,
        }.items():
            yield label, [tried(os.setxattr, path, name, value), *shown(path)]
        yield "remove", [tried(os.removexattr, path, name), *shown(path)]
        yield "remove again", [tried(os.removexattr, path, name), *shown(path)]
        os.chmod(path, 0o750)
        yield (
            "flags",
            [
                tried(os.setxattr, path, name, extended(), os.XATTR_REPLACE),
                tried(os.setxattr, path, name, extended(mask=4), os.XATTR_CREATE),
                *shown(path),
            ],
        )

    both(operation)


def test_mode_and_mask_are_one(both: Both) -> None:
    """With an ACL the group bits of the mode are its mask."""

    def operation(root: Path) -> Cases:
        path = make("file", root / "file", mode=0o640)
        os.setxattr(path, ACCESS, extended())
        for mode in (0o000, 0o070, 0o700, 0o777, 0o654, 0o2755, 0o1741):
            yield f"chmod {mode:o}", [tried(os.chmod, path, mode), *shown(path)]
        for mask in range(8):
            yield f"mask {mask}", [tried(os.setxattr, path, ACCESS, extended(mask=mask)), *shown(path)]
        os.setxattr(path, ACCESS, minimal(6, 4, 1))
        yield "minimal again", shown(path)

    both(operation)


@pytest.mark.needs_root
def test_access_it_gives(both: Both) -> None:
    def reach(path: Path) -> list[object]:
        opened = [tried(open_and_close, path, flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)]
        return [*opened, *(tried(os.access, path, right) for right in (os.R_OK, os.W_OK, os.X_OK))]

    def operation(root: Path) -> Cases:
        path = make("file", root / "file", owner=ALICE)
        values = [
            extended(bob=bob, group=group, named=named, mask=mask, other=other)
            for bob, group, named, mask, other in (
                (6, 0, 0, 7, 0),
                (0, 7, 7, 7, 7),
                (7, 4, 2, 7, 1),
                (7, 7, 7, 1, 0),
                (4, 0, 6, 6, 0),
                (0, 0, 0, 0, 7),
                (2, 4, 4, 7, 4),
            )
        ]
        for number, value in enumerate(values):
            os.setxattr(path, ACCESS, value)
            for name, user in ALL.items():
                yield f"{number} {name}", by(user, reach, path)
        two_groups = User(uid=60008, gid=60001, groups=(60077,))
        os.setxattr(path, ACCESS, extended(group=4, named=2))
        yield "rights of two groups do not add up", by(two_groups, reach, path)

    both(operation)


@pytest.mark.needs_root
def test_who_may_set_it(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind, (name, user) in itertools.product(("file", "directory"), ALL.items()):
            path = make(kind, root / f"{kind}{name}", mode=0o777, owner=ALICE)
            for acl_name in (ACCESS, DEFAULT):
                yield (
                    f"{path.name} {acl_name}",
                    [
                        by(user, os.setxattr, path, acl_name, extended()),
                        by(user, os.getxattr, path, acl_name),
                        by(user, os.removexattr, path, acl_name),
                        *shown(path),
                    ],
                )

    both(operation)


@pytest.mark.needs_root
def test_on_links_and_nodes(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in ("fifo", "socket", "character"):
            path = make(kind, root / kind)
            yield (
                kind,
                [
                    tried(os.setxattr, path, ACCESS, extended()),
                    tried(os.setxattr, path, DEFAULT, extended()),
                    *shown(path),
                ],
            )
        link = make("symlink", root / "link")
        yield "through a link", [tried(os.setxattr, link, ACCESS, extended()), *shown(root / "link.target")]
        yield (
            "on a link",
            [
                tried(os.setxattr, link, ACCESS, extended(), follow_symlinks=False),
                tried(os.getxattr, link, ACCESS, follow_symlinks=False),
            ],
        )

    both(operation)


def made_in(place: Path, mode: int) -> list[object]:
    """One of each in a directory, and what it got."""
    os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, mode))
    (place / "sub").mkdir(mode)
    os.mkfifo(place / "fifo", mode)
    (place / "link").symlink_to("x")
    (place / "sub" / "deep").mkdir(mode)
    return [shown(place / name) for name in ("file", "sub", "fifo", "sub/deep")] + [look(place / "link")]


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o640, 0o644, 0o666, 0o755, 0o777, 0o1777])
def test_inheritance(both: Both, mode: int) -> None:
    """What a default ACL gives to what is made; under umask 0, where the kernel applies no mask of its own."""

    def operation(root: Path) -> Cases:
        os.umask(0)
        for number, value in enumerate(
            (minimal(), minimal(7, 0, 0), extended(), extended(mask=4), extended(other=7), minimal(6, 6, 6))
        ):
            place = directory(root / str(number))
            os.setxattr(place, DEFAULT, value)
            yield f"{number}", made_in(place, mode)

    both(operation)


def test_without_a_default_the_umask_applies(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for umask in (0o000, 0o022, 0o077, 0o777):
            place = directory(root / f"{umask:o}")
            os.setxattr(place, ACCESS, extended())
            os.umask(umask)
            yield f"{umask:o}", made_in(place, 0o777)
        os.umask(0o022)

    both(operation)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o777])
def test_umask_under_a_default(both: Both, umask: int) -> None:
    """The default list stands in the umask's place."""

    def operation(root: Path) -> Cases:
        os.umask(umask)
        for number, value in enumerate((minimal(7, 7, 7), minimal(7, 0, 0), extended(), extended(mask=4))):
            for mode in (0o600, 0o644, 0o666, 0o777):
                place = directory(root / f"{number}-{mode:o}")
                os.setxattr(place, DEFAULT, value)
                yield place.name, made_in(place, mode)
        os.umask(0o022)

    both(operation)


def test_times(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = directory(root / "place")
        for label, call in {
            "set access": lambda: os.setxattr(path, ACCESS, extended()),
            "set default": lambda: os.setxattr(path, DEFAULT, extended()),
            "get": lambda: len(os.getxattr(path, ACCESS)),
            "remove default": lambda: os.removexattr(path, DEFAULT),
            "remove access": lambda: os.removexattr(path, ACCESS),
        }.items():
            before = times(path)
            tick()
            yield label, [tried(call), later(before, times(path))]

    both(operation)


@pytest.mark.needs_root
def test_owner_changes_keep_it(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file", mode=0o640, owner=ALICE)
        os.setxattr(path, ACCESS, extended())
        os.chown(path, CAROL.uid, CAROL.gid)
        yield "chown", shown(path)
        yield "read by the named", by(BOB, open_and_close, path, os.O_RDONLY)
        path.rename(root / "moved")
        yield "rename", shown(root / "moved")
        os.setxattr(root / "moved", ACCESS, extended(group=7))
        yield (
            "set-group-id",
            [by(CAROL, os.chmod, root / "moved", 0o2770), by(ROOT, os.lstat, root / "moved"), *shown(root / "moved")],
        )
        yield "lost by an ACL of an outsider", outsider(root)

    both(operation)


def outsider(root: Path) -> list[object]:
    """Setting an ACL on a set-group-id file of a foreign group drops the bit, as chmod would."""
    path = make("file", root / "foreign", mode=0o600, owner=ALICE)
    os.chown(path, ALICE.uid, BOB.gid)
    path.chmod(0o2770)
    return [by(ALICE, os.setxattr, path, ACCESS, extended()), *shown(path)]
