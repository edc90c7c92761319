"""A read-only mount answers EROFS wherever a plain file system mounted read-only does, and reads as before."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted import calls
from tests.mounted.both import ALICE, ROOT, Both, Cases, by, look, tally
from tests.mounted.things import directory, make

pytestmark = pytest.mark.needs_root

CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda root: os.open(root / "new", os.O_CREAT | os.O_WRONLY),
    "create what is there": lambda root: os.close(os.open(root / "file", os.O_CREAT | os.O_RDONLY)),
    "create new what is there": lambda root: os.open(root / "file", os.O_CREAT | os.O_EXCL | os.O_RDONLY),
    "open to write": lambda root: os.open(root / "file", os.O_WRONLY),
    "open both": lambda root: os.open(root / "file", os.O_RDWR),
    "open truncating": lambda root: os.open(root / "file", os.O_RDONLY | os.O_TRUNC),
    "open to read": lambda root: os.close(os.open(root / "file", os.O_RDONLY)),
    "truncate": lambda root: os.truncate(root / "file", 0),
    "mkdir": lambda root: os.mkdir(root / "new"),
    "mkdir over": lambda root: os.mkdir(root / "place"),
    "mknod": lambda root: os.mknod(root / "new", stat.S_IFREG | 0o600),
    "mkfifo": lambda root: os.mkfifo(root / "new"),
    "symlink": lambda root: os.symlink("x", root / "new"),
    "symlink over": lambda root: os.symlink("x", root / "file"),
    "link": lambda root: os.link(root / "file", root / "new"),
    "link over": lambda root: os.link(root / "file", root / "place"),
    "unlink": lambda root: os.unlink(root / "file"),
    "unlink nothing": lambda root: os.unlink(root / "missing"),
    "rmdir": lambda root: os.rmdir(root / "place"),
    "rmdir nothing": lambda root: os.rmdir(root / "missing"),
    "rename": lambda root: os.rename(root / "file", root / "new"),
    "rename over": lambda root: os.rename(root / "file", root / "other"),
    "rename onto itself": lambda root: os.rename(root / "file", root / "file"),
    "rename nothing": lambda root: os.rename(root / "missing", root / "new"),
    "exchange": lambda root: calls.renameat2(root / "file", root / "other", calls.RENAME_EXCHANGE),
    "chmod": lambda root: os.chmod(root / "file", 0o600),
    "chown": lambda root: os.lchown(root / "file", 1, 1),
    "utime": lambda root: os.utime(root / "file"),
    "utime of a link": lambda root: os.utime(root / "link", ns=(1, 1), follow_symlinks=False),
    "setxattr": lambda root: os.setxattr(root / "file", "user.y", b"1"),
    "removexattr": lambda root: os.removexattr(root / "file", "user.x"),
    "set an ACL": lambda root: os.setxattr(root / "file", "system.posix_acl_access", b"\2\0\0\0"),
    "access to write": lambda root: os.access(root / "file", os.W_OK),
    "access to a directory": lambda root: os.access(root / "place", os.W_OK),
    "access to a fifo": lambda root: os.access(root / "fifo", os.W_OK),
    "access to read": lambda root: os.access(root / "file", os.R_OK),
    "open a fifo": lambda root: os.close(os.open(root / "fifo", os.O_RDWR)),
    "read": lambda root: (root / "file").read_bytes(),
    "getxattr": lambda root: os.getxattr(root / "file", "user.x"),
    "list": lambda root: sorted(os.listdir(root)),
    "fsync": lambda root: synced(root / "file"),
    "fsync of a directory": lambda root: synced(root / "place"),
    "flag": lambda root: os.statvfs(root).f_flag & os.ST_RDONLY,
}


def synced(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fill(root: Path) -> None:
    """What the changes try to change."""
    for kind in ("file", "fifo", "dangling"):
        make(kind, root / kind, mode=0o666)
    make("file", root / "other")
    make("symlink", root / "link")
    directory(root / "place")
    os.setxattr(root / "file", "user.x", b"1")


@pytest.fixture
def read_only(request: pytest.FixtureRequest, mount_root: Path, plain_root: Path, stand_in: bool) -> Iterator[Both]:
    """The two roots, filled, then mounted read-only; for the stand-in both by way of the plain file system."""
    vault = None if stand_in else request.getfixturevalue("vault")
    places = [root / "read-only" for root in (mount_root, plain_root)]
    for place in places:
        place.mkdir()
        place.chmod(0o755)
        fill(place)
    bound = places if stand_in else places[1:]
    for place in bound:
        subprocess.run(["mount", "--bind", "-o", "ro", str(place), str(place)], check=True)
    options = () if vault is None else vault.options
    try:
        if vault is not None:
            vault.unmount()
            vault.options = (*options, "--read-only")
            vault.mount()
        yield Both(mount=places[0], plain=places[1], tally=tally)
    finally:
        for place in bound:
            subprocess.run(["umount", str(place)], check=True)
        if vault is not None:
            vault.unmount()
            vault.options = options
            vault.mount()
        for place in places:
            shutil.rmtree(place)


def test_every_call(read_only: Both) -> None:
    def operation(root: Path) -> Cases:
        for name, user in {"root": ROOT, "alice": ALICE}.items():
            for label, change in CHANGES.items():
                yield f"{name} {label}", by(user, change, root)
        yield "unchanged", [look(root / name) for name in sorted(os.listdir(root))]

    read_only.compare(operation)
