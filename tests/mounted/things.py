"""Files of every type, made the same way on both sides."""

import os
import socket
import stat
import time
from pathlib import Path

from tests.mounted.both import User

TYPES = ("file", "directory", "symlink", "dangling", "fifo", "socket", "character", "block")
NODES = TYPES[:-2]  # those that an ordinary user may make
COARSE_CLOCK = 5  # CLOCK_REALTIME_COARSE, which Python does not name
NUL_DEVICE = os.makedev(1, 3)
LOOP_DEVICE = os.makedev(7, 99)


def make(
    kind: str, path: Path, *, mode: int | None = None, owner: User | None = None, content: bytes = b"content"
) -> Path:
    """Make one thing; ``mode`` and ``owner`` as given, whatever the umask."""
    match kind:
        case "file":
            path.write_bytes(content)
        case "directory":
            path.mkdir()
        case "symlink":
            target = path.with_name(f"{path.name}.target")
            target.write_bytes(content)
            path.symlink_to(target.name)
        case "dangling":
            path.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(path)
        case "socket":
            bind(path)
        case "character":
            os.mknod(path, stat.S_IFCHR | 0o644, NUL_DEVICE)
        case "block":
            os.mknod(path, stat.S_IFBLK | 0o644, LOOP_DEVICE)
        case _:
            raise ValueError(kind)
    if owner is not None:
        os.lchown(path, owner.uid, owner.gid)
    if mode is not None and not path.is_symlink():
        path.chmod(mode)
    return path


def bind(path: Path) -> None:
    """Leave a socket in the file system; by way of its directory, since sun_path holds 108 bytes only."""
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def directory(path: Path, *, mode: int = 0o777, owner: User | None = None) -> Path:
    """A directory with exactly this mode and owner."""
    return make("directory", path, mode=mode, owner=owner)


def tick() -> None:
    """Wait until the kernel's coarse clock, which stamps files, has passed this moment: 4 ms at 250 Hz.

    Only then must a later change show a later time, whichever of the two clocks stamped the earlier one.
    """
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    while time.clock_gettime_ns(COARSE_CLOCK) <= now:
        time.sleep(0.0005)


def times(path: Path | int) -> dict[str, int]:
    """The three times in ns, not following symlinks."""
    found = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    return {"atime": found.st_atime_ns, "mtime": found.st_mtime_ns, "ctime": found.st_ctime_ns}


def later(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Which of the times moved forward; one that moved back is said with a minus sign."""
    moved = [name for name in before if after[name] > before[name]]
    return moved + [f"-{name}" for name in before if after[name] < before[name]]
