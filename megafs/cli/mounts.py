"""The kernel's mount table as far as MegaFS cares: which mounts are ours, which are stale, how one is taken away."""

import errno
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from megafs.config import VaultPaths
from megafs.errors import Busy, MegaFSError, NotMounted

FILE_SYSTEM = "fuse.megafs"
MOUNT_TABLE = Path("/proc/self/mountinfo")
COMMAND_S = 120.0  # the kernel writes dirty pages back before it lets a mount go

BUSY_TRIES = 5
BUSY_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of the mount table that is ours. ``vault`` is the vault's state directory."""

    mountpoint: Path
    vault: Path
    owner: int  # user id


def parsed(table: str) -> list[Mount]:
    """The MegaFS mounts of a mountinfo text, oldest first. Pure."""
    found = []
    for line in table.split("\n"):  # not splitlines: a name may hold U+2028
        left, separator, right = line.partition(" - ")
        fields, of_kind = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(of_kind) < 3 or of_kind[0] != FILE_SYSTEM:
            continue
        user = re.search(r"(?:^|,)user_id=([0-9]{1,10})", of_kind[2])
        owner = int(user.group(1)) if user else 0
        found.append(Mount(mountpoint=Path(_plain(fields[4])), vault=Path(_plain(of_kind[1])), owner=owner))
    return found


def mounts() -> list[Mount]:
    """The MegaFS mounts of this machine, oldest first."""
    return parsed(MOUNT_TABLE.read_text("utf-8", "surrogateescape"))


def mount_at(directory: Path) -> Mount | None:
    """The newest MegaFS mount on ``directory`` itself."""
    here = Path(os.path.realpath(directory))
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == here), None)


def refuse_mounted(paths: VaultPaths) -> None:
    """For what cannot be done beside a mount. Raises Busy."""
    there = next((mount for mount in mounts() if mount.vault == paths.root), None)
    if there is not None:
        raise Busy(f"{paths.root.name} is mounted: megafs unmount {there.mountpoint}, then this again, then mount it")


def is_stale(mount: Mount) -> bool:
    """Whether its daemon is gone: "Transport endpoint is not connected"."""
    try:
        os.statvfs(mount.mountpoint)  # not stat: the kernel answers that from its cache for an hour
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def clear_stale(directory: Path) -> bool:
    """Take every dead mount away from ``directory``; whether there was one."""
    cleared = False
    while (mount := mount_at(directory)) is not None and is_stale(mount):
        take_away(mount.mountpoint, lazy=True)
        cleared = True
    return cleared


def take_away(mountpoint: Path, *, lazy: bool = False) -> None:
    """Ask the kernel to unmount. Raises Busy if files are open, unless ``lazy``, which is only for dead mounts: of a
    living one it would drop what the kernel has not handed over yet."""
    said = users = ""
    for _ in range(BUSY_TRIES):
        refusal = _refusal(["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mountpoint)])
        if refusal is None:
            return
        said, users = refusal, ", ".join(users_of(mountpoint))
        if "busy" not in said or users:
            break
        time.sleep(BUSY_PAUSE_S)  # a statfs of df or of the desktop is over by then
    if "busy" in said:
        raise Busy(f"{mountpoint} is in use{f' by {users}' if users else ''}; close that, then try again")
    raise MegaFSError(said or "fusermount3 failed")


def _refusal(command: list[str]) -> str | None:
    """What fusermount3 says against it; None if it did it."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_S, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError as error:
        raise NotMounted("fusermount3 is not installed; see megafs doctor") from error
    except subprocess.TimeoutExpired as error:
        raise Busy(f"the kernel did not let go of {command[-1]} within {COMMAND_S:.0f} s") from error
    return done.stderr.decode(errors="replace").strip().removeprefix("fusermount3: ") if done.returncode else None


def users_of(mountpoint: Path) -> list[str]:
    """Processes that stand in or have open something below ``mountpoint``, as far as this user may see them."""
    inside = str(mountpoint).rstrip("/") + "/"
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and any(f"{target}/".startswith(inside) for target in _opened(process)):
            try:
                name = (process / "comm").read_text().strip()
            except OSError:  # it just ended
                continue
            found.append(f"{name} ({process.name})")
    return found


def _opened(process: Path) -> list[str]:
    """What the links of a process point to; nothing if it is another user's or gone."""
    try:
        links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
    except OSError:
        return []
    targets = []
    for link in links:
        try:
            targets.append(os.readlink(link))
        except OSError:  # closed meanwhile
            continue
    return targets


def _plain(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), field)
