"""``megafs mount``: unlock a vault and show it as a directory; returns when the mount answers."""

import fcntl
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megafs.cli import mounts, passphrase, places, terminal
from megafs.cli.options import (
    Bandwidth,
    Directory,
    Name,
    PassphraseCommand,
    PassphraseFile,
    Remember,
    StateDir,
    bandwidth_bytes_s,
)
from megafs.config import MOUNT_FLAGS, MountOptions, VaultPaths, durability_hosts
from megafs.errors import Busy, NotMounted, Usage

if TYPE_CHECKING:
    from megafs.crypto.opened import Opened

FUSE_SETTINGS = Path("/etc/fuse.conf")
FORMER_S = 60.0  # for the daemon of a mount that has just gone to make its last commit
POLL_S = 0.05
Durability = Annotated[
    str,
    typer.Option(
        "--durability",
        metavar="local|remote=N",
        help="What fsync waits for: this device's disk, or N hosts.",
        show_default=False,
    ),
]


def run(
    name: Name,
    directory: Directory,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay; log to stderr too.")] = False,
    allow_other: Annotated[bool, typer.Option("--allow-other", help="Let other users in, as modes allow.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse every change.")] = False,
    cache_size: Annotated[
        str,
        typer.Option("--cache-size", metavar="SIZE", help="Local cache at most, for instance 20G.", show_default=False),
    ] = "",
    bandwidth: Bandwidth = "",
    durability: Durability = "",
    flags: Annotated[
        str,
        typer.Option(
            "--flags", metavar="A,B", help=f"Passed to the kernel: {', '.join(MOUNT_FLAGS)}.", show_default=False
        ),
    ] = "",
    passphrase_file: PassphraseFile = None,
    passphrase_command: PassphraseCommand = None,
    remember: Remember = False,
    state_dir: StateDir = None,
) -> None:
    """Show a vault as a directory.

    Returns when the mount answers; a daemon goes on in the background.
    """
    source = passphrase.Source(file=passphrase_file, command=passphrase_command)
    paths = places.vault(state_dir, name)
    up, down = bandwidth_bytes_s(bandwidth)
    options = MountOptions(
        allow_other=allow_other,
        read_only=read_only,
        cache_bytes=terminal.size_bytes(cache_size) if cache_size else 0,
        upload_bytes_s=up,
        download_bytes_s=down,
        durability=checked_durability(durability),
        flags=known_flags(flags),
    )
    mountpoint = usable_mountpoint(directory, paths)
    if allow_other and os.geteuid() != 0 and not others_allowed(FUSE_SETTINGS):
        raise NotMounted(f"--allow-other needs a line user_allow_other in {FUSE_SETTINGS}")
    unlock = partial(unlocked, source, paths, remember)
    if foreground:
        from megafs.cli import apart

        stay(paths, mountpoint, apart.opened_by(unlock), options)
        return

    from megafs.cli import background

    with background.launched(paths) as process:
        background.start(process, paths, mountpoint, unlock(), options)
    os.statvfs(mountpoint)  # ready means that it answers
    terminal.note(f"{name} is mounted on {mountpoint}")


def unlocked(source: passphrase.Source, paths: VaultPaths, remember: bool) -> "Opened":
    """The opened slot file."""
    opened = source.unlock(paths)
    if remember:
        passphrase.remember(paths, opened)
    return opened


def checked_durability(text: str) -> str:
    """The text itself. Raises Usage."""
    if text:
        durability_hosts(text)
    return text


def known_flags(text: str) -> tuple[str, ...]:
    """The flags of a comma-separated list. Raises Usage for one that the kernel must not get from us."""
    flags = tuple(flag for flag in text.split(",") if flag)
    for flag in flags:
        if flag not in MOUNT_FLAGS:
            raise Usage(f"{flag} is none of the flags {', '.join(MOUNT_FLAGS)}")
    return flags


def usable_mountpoint(directory: Path, paths: VaultPaths) -> Path:
    """``directory`` made ready to be mounted on: it exists, no dead mount covers it, no MegaFS is on it."""
    if mounts.clear_stale(directory):
        terminal.note(f"cleared a dead mount from {directory}")
    there = mounts.mount_at(directory)
    if there is not None:
        other = "" if there.vault == paths.root else f", the vault {there.vault.name}"
        raise Busy(f"{directory} is mounted already{other}")
    wait_for_former(paths, FORMER_S)
    if not directory.is_dir():
        raise Usage(f"the mount point is not a directory: {directory}")
    return Path(os.path.realpath(directory))


def wait_for_former(paths: VaultPaths, limit_s: float) -> None:
    """Until no process has the vault: after umount(8) a daemon makes its last commit and only then ends."""
    deadline = time.monotonic() + limit_s
    while True:
        mine = next((mount for mount in mounts.mounts() if mount.vault == paths.root), None)
        if mine is not None and not mounts.is_stale(mine):
            raise Busy(f"{paths.root.name} is mounted already, on {mine.mountpoint}")
        if mine is not None:
            mounts.clear_stale(mine.mountpoint)
            terminal.note(f"cleared a dead mount from {mine.mountpoint}")
        if not is_locked(paths):
            return
        if time.monotonic() > deadline:
            raise Busy(f"{paths.root.name} is in use by another process, which is starting or ending")
        time.sleep(POLL_S)


def is_locked(paths: VaultPaths) -> bool:
    """Whether a process has the vault now."""
    try:
        descriptor = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # never mounted
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def others_allowed(settings: Path) -> bool:
    """Whether fuse.conf lets ordinary users use allow_other."""
    try:
        lines = settings.read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def stay(paths: VaultPaths, mountpoint: Path, opened: "Opened", options: MountOptions) -> None:
    """Be the daemon until it is unmounted; tells systemd if that started us."""
    from megafs import daemon
    from megafs.cli import logs
    from megafs.cli.notify import notify, under_systemd

    def ready() -> None:
        notify(os.environ, READY=1, MAINPID=os.getpid(), STATUS=f"mounted on {mountpoint}")

    logs.start(paths.log, to_stderr=True, journal=under_systemd(os.environ))
    try:
        daemon.run(paths, opened=opened, mountpoint=mountpoint, options=options, ready=ready)
    finally:
        notify(os.environ, STOPPING=1)
        sys.stderr.flush()
