"""Each call that takes a path, with each path that cannot be meant: the errno must be the one that Linux answers."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import calls
from tests.mounted.both import ALICE, ROOT, Both, Cases, User, by, tried
from tests.mounted.things import directory, make

LONG = "n" * 256
NOT_FOLLOWED = {"follow_symlinks": False}
PATHS = {
    "missing": "missing",
    "missing parent": "missing/x",
    "file as directory": "file/x",
    "file with a slash": "file/",
    "file and dot": "file/.",
    "file and up": "file/..",
    "name of 255": "n" * 255,
    "name of 256": LONG,
    "parent of 256": f"{LONG}/x",
    "name of 256 in a file": f"file/{LONG}",
    "name of 256 in nothing": f"missing/{LONG}",
    "path of 4095": None,
    "path of 4096": None,
    "loop": "loop",
    "through a loop": "loop/x",
    "dangling": "dangling",
    "dangling with a slash": "dangling/",
    "through a dangling": "dangling/x",
    "link to a file": "to-file",
    "link to a file with a slash": "to-file/",
    "link to a directory": "to-directory",
    "link to a directory with a slash": "to-directory/",
    "through a link": "to-directory/x",
    "dot": ".",
    "up": "full/..",
    "full": "full",
    "full with a slash": "full/",
    "full and dot": "full/.",
    "empty directory": "empty",
    "file": "file",
    "fifo": "fifo",
    "fifo as directory": "fifo/x",
    "socket": "socket",
    "closed": "closed/x",
    "closed and missing": "closed/missing",
    "locked": "locked/file",
    "locked and missing": "locked/missing",
    "locked directory": "locked/directory",
    "unreadable": "unreadable/file",
    "nothing": "",
    "slashes": "full///inside//",
}


def scene(root: Path) -> None:
    """Everything that the paths name."""
    make("file", root / "file", mode=0o666)
    make("fifo", root / "fifo", mode=0o666)
    make("socket", root / "socket")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nowhere")
    (root / "to-file").symlink_to("file")
    (root / "to-directory").symlink_to("full")
    directory(root / "empty")
    for name, mode in (("full", 0o777), ("closed", 0o600), ("locked", 0o555), ("unreadable", 0o333)):
        place = directory(root / name)
        for inside in ("inside", "file", "x") if name == "closed" else ("inside", "file"):
            make("file", place / inside, mode=0o666)
        directory(place / "directory")
        place.chmod(mode)


def path_of(root: Path, label: str) -> str:
    """The whole path; the two longest are padded with harmless components."""
    if label == "nothing":
        return ""
    match PATHS[label]:
        case None:
            length = int(label.rpartition(" ")[2])
            start = f"{root}/full/"
            path = start + "./" * ((length - len(start) - 1) // 2)
            return path + "i" * (length - len(path))
        case ending:
            return f"{root}/{ending}"


def opened(flags: int) -> Callable[[str], object]:
    """open(2) with these flags, as an action."""

    def action(path: str) -> object:
        os.close(os.open(path, flags | os.O_NONBLOCK, 0o644))
        return "opened"

    return action


CALLS: dict[str, Callable[[str], object]] = {
    "stat": lambda path: stat.S_IFMT(os.stat(path).st_mode),
    "lstat": lambda path: stat.S_IFMT(os.lstat(path).st_mode),
    "access": lambda path: os.access(path, os.R_OK | os.W_OK),
    "open r": opened(os.O_RDONLY),
    "open w": opened(os.O_WRONLY),
    "open nofollow": opened(os.O_RDONLY | os.O_NOFOLLOW),
    "open directory": opened(os.O_RDONLY | os.O_DIRECTORY),
    "open path": opened(os.O_PATH),
    "truncate": lambda path: os.truncate(path, 3),
    "chmod": lambda path: os.chmod(path, 0o666),
    "chown": lambda path: os.chown(path, -1, -1),
    "chown to another": lambda path: os.chown(path, 12345, -1),
    "lchown": lambda path: os.lchown(path, -1, -1),
    "utime": lambda path: os.utime(path),
    "utime exactly": lambda path: os.utime(path, ns=(5, 5)),
    "readlink": os.readlink,
    "listdir": lambda path: len(os.listdir(path)),
    "chdir": lambda path: entered(path),
    "getxattr": lambda path: os.getxattr(path, "user.none"),
    "setxattr": lambda path: os.setxattr(path, "user.some", b"value"),
    "removexattr": lambda path: os.removexattr(path, "user.some"),
    "listxattr": lambda path: len(os.listxattr(path, follow_symlinks=False)) * 0,
    "statvfs": lambda path: os.statvfs(path).f_namemax,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "mknod": lambda path: os.mknod(path, stat.S_IFREG | 0o644),
    "create": opened(os.O_CREAT | os.O_WRONLY),
    "create new": opened(os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "symlink": lambda path: os.symlink("target", path),
    "link from": lambda path: os.link(path, path.rstrip("/").rpartition("/")[0] + "/linked", **NOT_FOLLOWED),
    "rename from": lambda path: os.rename(path, path.rstrip("/").rpartition("/")[0] + "/renamed"),
}


def entered(path: str) -> None:
    """chdir, and back."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path)
    finally:
        os.fchdir(here)
        os.close(here)


TO_CALLS: dict[str, Callable[[str, str], object]] = {
    "link file": lambda path, root: os.link(f"{root}/file", path),
    "link directory": lambda path, root: os.link(f"{root}/full", path),
    "rename file": lambda path, root: os.rename(f"{root}/file", path),
    "rename directory": lambda path, root: os.rename(f"{root}/empty", path),
    "rename full": lambda path, root: os.rename(f"{root}/full", path),
    "noreplace": lambda path, root: calls.renameat2(f"{root}/file", path, calls.RENAME_NOREPLACE),
    "exchange": lambda path, root: calls.renameat2(f"{root}/file", path, calls.RENAME_EXCHANGE),
    "rename missing": lambda path, root: os.rename(f"{root}/none", path),
}
USERS = {"root": ROOT, "alice": ALICE}


@pytest.mark.needs_root
@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("call", CALLS)
def test_one_path(both: Both, call: str, name: str) -> None:
    both(lambda root: each_path(root, USERS[name], lambda path, _: CALLS[call](path)))


@pytest.mark.needs_root
@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("call", TO_CALLS)
def test_as_target(both: Both, call: str, name: str) -> None:
    both(lambda root: each_path(root, USERS[name], TO_CALLS[call]))


def each_path(root: Path, user: User, call: Callable[[str, str], object]) -> Cases:
    """The call's answer to each path, in one scene that each may change, and what is left in the end."""
    scene(root)
    for label in PATHS:
        yield label, by(user, call, path_of(root, label), str(root))
    yield "left", sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_no_character_is_special(both: Both) -> None:
    """Any byte but NUL and the slash, alone and in pairs."""

    def operation(root: Path) -> Cases:
        here = os.fsencode(root)
        for byte in (b for b in range(1, 256) if b != ord("/")):
            name = here + b"/" + bytes((byte, byte)) + b"."
            yield f"byte {byte}", [tried(os.mkdir, name), tried(os.rmdir, name)]
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
        yield "all", sorted(os.listdir(here))

    both(operation)
