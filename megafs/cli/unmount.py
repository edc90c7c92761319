"""``megafs unmount``: the ordered end of a mount. Nothing is lost: what is not shipped stays on this device."""

import os
import select
from pathlib import Path
from typing import Annotated

import typer

from megafs.cli import mounts, status, sync, terminal
from megafs.cli.options import Directory
from megafs.config import UNMOUNT_S, VaultPaths
from megafs.control import client
from megafs.errors import Busy, MegaFSError, NotMounted


def run(
    directory: Directory,
    wait: Annotated[bool, typer.Option("--wait", help="First wait until everything is on its hosts.")] = False,
    state_dir: Annotated[
        Path | None,
        typer.Option("--state-dir", metavar="DIR", help="Accepted as everywhere; the mount itself knows its vault."),
    ] = None,
) -> None:
    """Take a mount away, losing nothing.

    What is not on the hosts yet is kept on this device and ships after the next mount.
    """
    if mounts.clear_stale(directory):
        terminal.note(f"the mount on {directory} was dead; it is cleared")
        return
    mount = mounts.mount_at(directory)
    if mount is None:
        raise NotMounted(f"no vault is mounted on {directory}")
    paths = VaultPaths(root=mount.vault)
    if wait:
        sync.wait(paths)
    left = unshipped(paths)
    daemon = opened_daemon(paths)
    try:
        mounts.take_away(mount.mountpoint)
        if daemon is not None:
            wait_for_end(daemon, paths.root.name)
    finally:
        if daemon is not None:
            os.close(daemon)
    terminal.note(f"{paths.root.name} is unmounted{left}")


def unshipped(paths: VaultPaths) -> str:
    """What to say about bytes that no host has yet. A daemon that does not answer must not keep a mount from ending."""
    try:
        told = status.asked(paths)
    except MegaFSError:
        return ""
    if told is None or not told.unshipped_bytes:
        return ""
    return f"; {terminal.size_text(told.unshipped_bytes)} are not on the hosts yet and ship after the next mount"


def opened_daemon(paths: VaultPaths) -> int | None:
    """A descriptor of the daemon's process, so that its end can be waited for; None if it does not answer."""
    try:
        return os.pidfd_open(client.daemon_pid(paths.root))
    except (NotMounted, ProcessLookupError, PermissionError):
        return None


def wait_for_end(daemon: int, name: str) -> None:
    """Wait for the daemon's ordered close: the last commit, then its end."""
    ended, _, _ = select.select([daemon], [], [], UNMOUNT_S)
    if not ended:
        raise Busy(f"{name} is unmounted, but its daemon has not ended after {UNMOUNT_S:.0f} s; its log says why")
