"""``megafs pin``: have files and trees of a mounted vault on this device, and keep them here."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from megafs.cli import mounts, terminal
from megafs.cli.hosts import answer_to, changed
from megafs.cli.options import Json
from megafs.config import VaultPaths
from megafs.control.messages import Pinned, Request
from megafs.errors import NotMounted

Inside = Annotated[Path, typer.Argument(metavar="PATH", help="A file or directory in a mount.", show_default=False)]
Maybe = Annotated[
    Path | None, typer.Argument(metavar="PATH", help="A file or directory in a mount.", show_default=False)
]


def run(
    path: Maybe = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show what is pinned, of all vaults or of that of PATH.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring a file or directory here and keep it.

    What comes into a pinned directory later is pinned with it. Pins survive unmounting; the cache never evicts what is
    pinned, and a pin that does not fit into it is refused.
    """
    if show or path is None:
        _list(None if path is None else inside(path)[0], json)
        return
    paths, ino = inside(path)
    changed(paths, Request(call="pin", ino=ino), json)


def inside(path: Path) -> tuple[VaultPaths, int]:
    """The vault in whose mount the path lies, and the inode there. Raises NotMounted."""
    real = Path(os.path.realpath(path))
    found = os.stat(real)
    for mount in reversed(mounts.mounts()):
        is_below = mount.mountpoint == real or mount.mountpoint in real.parents
        if is_below and os.stat(mount.mountpoint).st_dev == found.st_dev:
            return VaultPaths(root=mount.vault), found.st_ino
    raise NotMounted(f"{path} is not in a mounted vault")


def _list(only: VaultPaths | None, json: bool) -> None:
    rows = []
    for mount in mounts.mounts():
        if mount.vault != only.root if only is not None else mount.owner != os.geteuid() or mounts.is_stale(mount):
            continue
        told = answer_to(VaultPaths(root=mount.vault), Request(call="pins"), Pinned)
        rows += [(mount.mountpoint / os.fsdecode(pin.path), pin) for pin in told.pins]
    if json:
        terminal.answer_json([{**asdict(pin), "path": terminal.shown(os.fsencode(path))} for path, pin in rows])
        return
    if not rows:
        terminal.note("nothing is pinned")
    for path, pin in rows:
        here = terminal.size_text(pin.here_bytes)
        terminal.answer(f"{terminal.shown(os.fsencode(path))}  {here} of {terminal.size_text(pin.bytes)} here")
