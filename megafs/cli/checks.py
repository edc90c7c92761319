"""Checks of ``megafs doctor``: each looks at one thing and returns a Finding; only ``dead_mounts`` changes anything."""

import errno
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from megafs import __version__
from megafs.cli import mounts
from megafs.cli.mount import FUSE_SETTINGS, others_allowed
from megafs.cli.terminal import size_text
from megafs.config import GIB, VaultPaths
from megafs.errors import MegaFSError

DEVICE = Path("/dev/fuse")
IMPORT_S = 60.0
FREE_BYTES = 1 * GIB  # less than this in the state directory soon means ENOSPC
CLOCK_START_S = 1_767_225_600  # 2026-01-01: a clock before this version existed is wrong
CLOCK_SLACK_S = 300
PACKAGES = ("pyfuse3", "trio", "cryptography", "apsw-sqlite3mc", "opendal", "zstandard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found. ``state``: ok, note (works, but know it), wrong, cured (by this run)."""

    subject: str
    state: str
    detail: str
    cure: str = ""


def device(path: Path = DEVICE) -> Finding:
    """The kernel's FUSE device can be opened by this user."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        cures = {
            errno.ENOENT: "load the module (modprobe fuse); a container has to be given /dev/fuse",
            errno.EACCES: f"as root: chmod 666 {path}",
            errno.EPERM: "the container or service must be allowed to use this device",
        }
        cure = cures.get(error.errno or 0, "load the module (modprobe fuse)")
        return Finding(subject="fuse device", state="wrong", detail=f"{path}: {error.strerror}", cure=cure)
    return Finding(subject="fuse device", state="ok", detail=f"{path} opens")


def fusermount() -> Finding:
    """fusermount3 is there, and an ordinary user may mount with it."""
    found = shutil.which("fusermount3")
    if found is None:
        cure = "install fuse3 (Debian, Ubuntu: apt-get install fuse3)"
        return Finding(subject="fusermount3", state="wrong", detail="not found on PATH", cure=cure)
    if os.geteuid() != 0 and not os.stat(found).st_mode & stat.S_ISUID:
        cure = f"as root: chmod u+s {found}"
        return Finding(subject="fusermount3", state="wrong", detail=f"{found} is not set-user-ID root", cure=cure)
    return Finding(subject="fusermount3", state="ok", detail=found)


def binding() -> Finding:
    """pyfuse3 and with it libfuse can be loaded. In a process of its own: this one must stay able to say so."""
    done = subprocess.run([sys.executable, "-P", "-c", "import pyfuse3"], capture_output=True, timeout=IMPORT_S)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        cure = "install fuse3, then install MegaFS again (contrib/prepare)"
        return Finding(subject="pyfuse3", state="wrong", detail=said, cure=cure)
    return Finding(subject="pyfuse3", state="ok", detail="loads")


def allow_other(settings: Path = FUSE_SETTINGS) -> Finding:
    """Whether --allow-other would work."""
    if os.geteuid() == 0 or others_allowed(settings):
        return Finding(subject="allow-other", state="ok", detail="may be used")
    cure = f"only if you want it, as root: echo user_allow_other >> {settings}"
    return Finding(subject="allow-other", state="note", detail="mount --allow-other is not allowed here", cure=cure)


def state_directory(state: Path) -> Finding:
    """The state directory is there and ours, or can be made."""
    if not state.exists():
        parent = next(folder for folder in state.parents if folder.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Finding(subject="state directory", state="ok", detail=f"{state} will be made by create")
        return Finding(
            subject="state directory", state="wrong", detail=f"{parent} cannot be written", cure="--state-dir"
        )
    if not os.access(state, os.W_OK | os.X_OK):
        cure = f"chown {os.geteuid()} {state}"
        return Finding(subject="state directory", state="wrong", detail=f"{state} cannot be written", cure=cure)
    return Finding(subject="state directory", state="ok", detail=str(state))


def vault_directory(paths: VaultPaths) -> Finding:
    """A vault's directory is its owner's alone."""
    subject = f"vault {paths.root.name}"
    for path in (paths.root, paths.slot, paths.index, paths.control, paths.log, paths.packs):
        try:
            about = path.lstat()
        except FileNotFoundError:
            continue
        except PermissionError:
            return Finding(
                subject=subject, state="wrong", detail=f"{path} is another user's", cure=f"chown it to {os.geteuid()}"
            )
        if about.st_uid != os.geteuid():
            cure = f"chown -R {os.geteuid()} {paths.root}"
            return Finding(subject=subject, state="wrong", detail=f"{path} belongs to user {about.st_uid}", cure=cure)
        if about.st_mode & 0o077:
            mode = f"{stat.S_IMODE(about.st_mode):o}"
            return Finding(subject=subject, state="wrong", detail=f"{path} has mode {mode}", cure=f"chmod go= {path}")
    return Finding(subject=subject, state="ok", detail="its directory is private")


def free_space(state: Path) -> Finding:
    """Room for the cache."""
    folder = next(folder for folder in (state, *state.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        cure = "make room, or put vaults elsewhere with --state-dir"
        return Finding(subject="disk", state="note", detail=f"only {size_text(free)} free at {folder}", cure=cure)
    return Finding(subject="disk", state="ok", detail=f"{size_text(free)} free at {folder}")


def dead_mounts() -> Finding:
    """Mounts whose daemon is gone; ours are cleared."""
    dead = [mount for mount in mounts.mounts() if mount.owner == os.geteuid() and mounts.is_stale(mount)]
    try:
        for mount in dead:
            mounts.clear_stale(mount.mountpoint)
    except MegaFSError as error:
        cure = f"as root: umount -l {dead[0].mountpoint}"
        return Finding(subject="mounts", state="wrong", detail=str(error), cure=cure)
    if dead:
        where = ", ".join(str(mount.mountpoint) for mount in dead)
        return Finding(subject="mounts", state="cured", detail=f"cleared a dead mount from {where}; mount again")
    return Finding(subject="mounts", state="ok", detail="none is dead")


def clock(vaults: Iterable[VaultPaths], now_s: float | None = None) -> Finding:
    """The clock is not behind what this version and the vaults have seen: retention counts on it."""
    now_s = time.time() if now_s is None else now_s
    seen = [paths.index.stat().st_mtime for paths in vaults if paths.index.exists()]
    if now_s < max([CLOCK_START_S, *(moment - CLOCK_SLACK_S for moment in seen)]):
        shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
        cure = "set it, for instance with timedatectl set-ntp true"
        return Finding(subject="clock", state="wrong", detail=f"{shown} is in the past", cure=cure)
    return Finding(subject="clock", state="ok", detail="plausible")


def versions() -> Finding:
    """What a report of a problem should name."""
    found = [f"MegaFS {__version__}", f"Linux {platform.release()}", f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            cure = "contrib/prepare"
            return Finding(subject="versions", state="wrong", detail=f"{package} is not installed", cure=cure)
    return Finding(subject="versions", state="ok", detail=", ".join(found))
