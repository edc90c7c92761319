"""Extended attributes: create and replace, sizes, names, namespaces, types of files, users.

ext4 holds about 4 KiB of attributes a file, so larger values are checked on the mount alone.
"""

import ctypes
import os
import struct
from pathlib import Path

import pytest

from tests.mounted.both import ALICE, BOB, ROOT, USERS, Both, Cases, by, tried
from tests.mounted.calls import checked, libc
from tests.mounted.things import TYPES, directory, make

NOT_FOLLOWED = {"follow_symlinks": False}
CAPABILITY = struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)  # version 2, CAP_NET_BIND_SERVICE permitted
NAMESPACES = (
    "user.a",
    "trusted.a",
    "security.a",
    "system.a",
    "other.a",
    "a",
    "user",
    "user.",
    "trusted.",
    ".a",
    "",
    "USER.a",
)


def sized(path: Path, name: str | None, size: int) -> int:
    """getxattr or listxattr with a buffer of exactly ``size`` bytes: what it returns."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    if name is None:
        return checked(libc.listxattr(os.fsencode(path), buffer, size))
    return checked(libc.getxattr(os.fsencode(path), name.encode(), buffer, size))


def test_create_and_replace(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in ("file", "directory"):
            path = make(kind, root / kind)
            for label, value, flags in (
                ("replace what is not there", b"0", os.XATTR_REPLACE),
                ("create", b"1", os.XATTR_CREATE),
                ("create again", b"2", os.XATTR_CREATE),
                ("replace", b"3" * 100, os.XATTR_REPLACE),
                ("either", b"", 0),
                ("both", b"5", os.XATTR_CREATE | os.XATTR_REPLACE),
                ("unknown flag", b"6", 8),
            ):
                answer = tried(os.setxattr, path, "user.x", value, flags)
                yield f"{kind} {label}", [answer, tried(os.getxattr, path, "user.x"), os.listxattr(path)]
            yield (
                f"{kind} remove",
                [tried(os.removexattr, path, "user.x"), tried(os.removexattr, path, "user.x"), os.listxattr(path)],
            )

    both(operation)


def test_sizes(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        for size in (0, 1, 2, 255, 256, 1000, 3000):
            yield (
                f"{size}",
                [
                    tried(os.setxattr, path, "user.x", b"v" * size),
                    os.getxattr(path, "user.x"),
                    sized(path, "user.x", 0),
                ],
            )
            for room in (1, max(size - 1, 1), size, size + 1):
                yield f"{size} into {room}", tried(sized, path, "user.x", room)
        for size in (65_537, 100_000):
            yield f"{size}", [tried(os.setxattr, path, "user.y", b"v" * size), os.listxattr(path)]
        for room in (0, 1, 6, 7, 8, 100):
            yield f"list into {room}", tried(sized, path, None, room)

    both(operation)


def test_large_values_on_the_mount(both: Both) -> None:
    path = make("file", both.mount / "file")
    sizes = (4_000,) if both.stand_in else (4_096, 20_000, 65_535, 65_536)
    for size in sizes:
        value = os.urandom(size)
        os.setxattr(path, f"user.{size}", value)
        assert os.getxattr(path, f"user.{size}") == value
        assert tried(sized, path, f"user.{size}", size - 1) == "ERANGE"
    assert sorted(os.listxattr(path)) == sorted(f"user.{size}" for size in sizes)


def test_names(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        for name in (
            b"user.\xff\xfe",
            b"user." + b"n" * 250,
            b"user." + b"n" * 251,
            b"user.a.b.c",
            b"user. ",
            "user.ü".encode(),
            b"user.\n",
        ):
            yield (
                repr(name),
                [
                    tried(os.setxattr, path, name, name),
                    tried(os.getxattr, path, name),
                    sorted(os.listxattr(path)),
                    tried(os.removexattr, path, name),
                ],
            )

    both(operation)


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", TYPES)
def test_namespaces_on_each_type(both: Both, kind: str) -> None:
    def operation(root: Path) -> Cases:
        for name in ("root", "alice", "bob"):
            path = make(kind, root / f"{kind}-{name}", mode=0o666 if kind != "directory" else 0o777, owner=ALICE)
            for attribute in NAMESPACES:
                yield (
                    f"{name} {attribute}",
                    [
                        by(USERS[name], os.setxattr, path, attribute, b"v", **NOT_FOLLOWED),
                        by(USERS[name], os.getxattr, path, attribute, **NOT_FOLLOWED),
                        by(USERS[name], os.removexattr, path, attribute, **NOT_FOLLOWED),
                        by(ROOT, os.setxattr, path, attribute, b"v", **NOT_FOLLOWED),
                        by(USERS[name], os.setxattr, path, attribute, b"w", os.XATTR_REPLACE, **NOT_FOLLOWED),
                        by(USERS[name], os.getxattr, path, attribute, **NOT_FOLLOWED),
                    ],
                )
            yield f"{name} list", [by(USERS[name], lambda path=path: sorted(os.listxattr(path, **NOT_FOLLOWED)))]

    both(operation)


@pytest.mark.needs_root
def test_rights(both: Both) -> None:
    """user.* follows read and write permission; in a sticky directory only its owner may set it."""

    def operation(root: Path) -> Cases:
        for kind, mode in (
            ("file", 0o644),
            ("file", 0o600),
            ("file", 0o666),
            ("file", 0o222),
            ("directory", 0o755),
            ("directory", 0o1777),
        ):
            path = make(kind, root / f"{kind}{mode:o}", mode=mode, owner=ALICE)
            os.setxattr(path, "user.there", b"1")
            for name, user in USERS.items():
                yield (
                    f"{kind} {mode:o} {name}",
                    [
                        by(user, os.getxattr, path, "user.there"),
                        by(user, os.setxattr, path, "user.new", b"2"),
                        by(user, os.listxattr, path),
                        by(user, os.removexattr, path, "user.new"),
                    ],
                )

    both(operation)


@pytest.mark.needs_root
def test_capabilities(both: Both) -> None:
    """security.capability: well-formed only; a write or chown by anybody takes it away."""

    def operation(root: Path) -> Cases:
        path = make("file", root / "file", mode=0o666)
        yield "nonsense", tried(os.setxattr, path, "security.capability", b"nonsense")
        actions = {
            "write": lambda: path.write_bytes(b"x"),
            "append": lambda: path.open("ab", buffering=0).write(b"y"),
            "truncate": lambda: os.truncate(path, 0),
            "chown": lambda: os.chown(path, 1, 1),
            "chmod": lambda: os.chmod(path, 0o777),
            "utime": lambda: os.utime(path),
        }
        for label, action in actions.items():
            for user in (ROOT, BOB):
                os.chown(path, 0, 0)
                path.chmod(0o666)
                before = tried(os.setxattr, path, "security.capability", CAPABILITY)
                by(user, action)
                yield (
                    f"{label} by {user.uid}",
                    [before, tried(os.getxattr, path, "security.capability"), os.listxattr(path)],
                )

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the file object that appends closes itself
        both(operation)


def test_many_attributes(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        for number in range(60):
            os.setxattr(path, f"user.{number:03d}", b"%d" % number)
        yield "list", sorted(os.listxattr(path))
        for number in range(0, 60, 2):
            os.removexattr(path, f"user.{number:03d}")
        yield "half", [sorted(os.listxattr(path)), [os.getxattr(path, name) for name in sorted(os.listxattr(path))]]

    both(operation)


def test_they_follow_the_file(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        os.setxattr(path, "user.x", b"y")
        path.rename(root / "moved")
        os.link(root / "moved", root / "linked")
        yield "moved and linked", [os.getxattr(root / "moved", "user.x"), os.getxattr(root / "linked", "user.x")]
        make("file", root / "other").rename(root / "linked")
        yield "replaced", [tried(os.listxattr, root / "linked"), os.getxattr(root / "moved", "user.x")]
        with (root / "moved").open("rb") as file:
            os.setxattr(file.fileno(), "user.z", b"by descriptor")
            (root / "moved").unlink()
            yield "unlinked", [sorted(os.listxattr(file.fileno())), os.getxattr(file.fileno(), "user.z")]
            yield "and removed", [tried(os.removexattr, file.fileno(), "user.z"), os.listxattr(file.fileno())]
        (root / "link").symlink_to("place")
        directory(root / "place")
        os.setxattr(root / "link", "user.through", b"1")
        yield "through a link", [os.listxattr(root / "place"), tried(os.listxattr, root / "link", **NOT_FOLLOWED)]

    both(operation)
