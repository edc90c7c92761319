"""``megafs sync``: wait until all that exists now is on every host that the policy wants."""

from typing import Annotated

import typer

from megafs.cli import places, terminal
from megafs.cli.options import Name, StateDir
from megafs.config import VaultPaths
from megafs.control.messages import Request, Synced
from megafs.errors import MegaFSError


def run(
    name: Name,
    local: Annotated[bool, typer.Option("--local", help="Only until it is safe on this device's own disk.")] = False,
    state_dir: StateDir = None,
) -> None:
    """Wait until everything is on its hosts.

    Everything that exists now, on every host that the policy wants; with a progress bar on a terminal.
    """
    synced = wait(places.vault(state_dir, name), local=local)
    if local:
        terminal.answer("everything is on this device's disk")
    else:
        terminal.answer(f"everything is on its hosts, up to commit {synced.newest_commit}")


def wait(paths: VaultPaths, *, local: bool = False) -> Synced:
    """Ask the daemon to ship, showing how far it is. Raises Incomplete if a host stays away."""
    from megafs.control import client

    with terminal.progress_bar("saving" if local else "shipping") as show:
        told = client.ask(paths.root, Request(call="sync", local=local), show)
    if not isinstance(told, Synced):
        raise MegaFSError("the daemon answered something else than that it is done")
    return told
