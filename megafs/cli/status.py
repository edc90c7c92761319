"""``megafs status``: what is mounted where, and what is not on the hosts yet."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from megafs.cli import hosts as hosts_command
from megafs.cli import mounts, places, terminal
from megafs.cli.options import Json, StateDir, policy_text
from megafs.config import VaultPaths
from megafs.control.messages import Request, Status
from megafs.errors import DamagedIndex, Incomplete, Locked, MegaFSError, NotMounted, Usage
from megafs.model import Policy

ALARMED = 10  # exit status
KNOWN_ALWAYS = {"vault", "mountpoint", "locked", "unknown", "read_only"}


def run(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The vault; all of them without.", autocompletion=places.vault_names),
    ] = None,
    phrase: Annotated[
        bool, typer.Option("--phrase", help="Only the checkpoint phrase of NAME, to compare with another device's.")
    ] = False,
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Show what is mounted and how it is.

    Where vaults are mounted, their files and bytes, what is not shipped yet, and of each host its state, bytes, newest
    commit and last error. Ends with status 10 if there are alarms that nobody has acknowledged.
    """
    if phrase:
        terminal.answer(phrase_of(name, state_dir))
        return
    chosen = places.vaults(state_dir) if name is None else [places.vault(state_dir, name)]
    found = [(paths, asked(paths)) for paths in chosen]
    if json:
        reports = [report(paths, status) for paths, status in found]
        terminal.answer_json(reports if name is None else reports[0])
    elif not found:
        terminal.note(f"there is no vault in {places.state_directory(state_dir)}")
    else:
        for paths, status in found:
            for text in lines(paths, status):
                terminal.answer(text)
    if any(status is not None and status.alarms for _, status in found):
        raise typer.Exit(ALARMED)


def phrase_of(name: str | None, state_dir: Path | None) -> str:
    """Of a mounted vault."""
    if name is None:
        raise Usage("--phrase needs the NAME of a vault")
    status = asked(places.vault(state_dir, name))
    if status is None:
        raise NotMounted(f"{name} is not mounted: only then its state can be asked")
    if status.locked:
        raise Locked(f"{name} is locked; megafs unlock {name} opens it")
    if status.unknown:
        raise DamagedIndex(status.read_only)
    if not status.phrase:
        raise Incomplete(f"no host has confirmed anything of {name} yet")
    return status.phrase


def asked(paths: VaultPaths) -> Status | None:
    """What the daemon says; None if the vault is not mounted."""
    from megafs.control import client

    try:
        told = client.ask(paths.root, Request(call="status"))
    except NotMounted:
        return None
    if not isinstance(told, Status):
        raise MegaFSError("the daemon answered something else than its status")
    return told


def report(paths: VaultPaths, status: Status | None) -> dict[str, object]:
    """One vault for machines."""
    about: dict[str, object] = {"vault": paths.root.name, "directory": str(paths.root), "mounted": status is not None}
    if status is None:
        return about
    told = asdict(status)
    if status.locked or status.unknown:  # no figure is known, and none is nought
        told = {key: value if key in KNOWN_ALWAYS else None for key, value in told.items()}
    return about | told


def lines(paths: VaultPaths, status: Status | None) -> list[str]:
    """One vault for people."""
    if status is None:
        dead = next((mount for mount in mounts.mounts() if mount.vault == paths.root), None)
        left = f"; a dead mount is on {dead.mountpoint}, megafs mount or megafs doctor clears it" if dead else ""
        return [f"{paths.root.name}: not mounted{left}"]
    if status.locked:
        return [f"{status.vault}: mounted on {status.mountpoint}, locked; megafs unlock {status.vault} opens it"]
    if status.unknown:
        figures = ("files", "policy", "not shipped", "cache", "hosts")
        unknown = [f"  {figure:11} unknown" for figure in figures]
        return [f"{status.vault}: mounted on {status.mountpoint}", *unknown, f"  read-only   {status.read_only}"]
    size = terminal.size_text
    waiting = f"{size(status.unshipped_bytes)} in {status.unshipped_commits} commits"
    text = [
        f"{status.vault}: mounted on {status.mountpoint}",
        *(f"  ALARM {alarm.n:<5} {alarm.sentence}" for alarm in status.alarms),
        f"  files       {status.files} with {size(status.bytes)}",
        f"  policy      {policy_text(Policy(copies=status.copies, k=status.k, m=status.m))}",
        f"  not shipped {waiting if status.unshipped_commits or status.unshipped_bytes else 'nothing'}",
        f"  cache       {size(status.cache_bytes)} of {size(status.cache_limit_bytes)}",
    ]
    if status.thin_bytes:
        text.insert(-1, f"  few copies  {size(status.thin_bytes)} are on fewer hosts than the policy wants")
    if status.epoch > 1:
        left = f"; {size(status.reseal_left_bytes)} of earlier ones still to be sealed anew"
        text.append(f"  epoch       {status.epoch}{left if status.reseal_left_bytes else ''}")
    if status.pinned_bytes:
        text.append(f"  pinned      {size(status.pinned_here_bytes)} of {size(status.pinned_bytes)} here")
    if status.offline:
        text.append("  offline     too few hosts answer: what is not here cannot be read")
    if status.chunks_healed:
        text.append(f"  healed      {status.chunks_healed} damaged chunks of the cache, from the hosts")
    if status.shipping_from:
        text.append(f"  shipping    rests until {status.shipping_from}")
    if status.background_from:
        text.append(f"  background  rests until {status.background_from}")
    if status.fsync_fails:
        text.append(f"  fsync fails {status.fsync_fails}")
    if status.read_only:
        text.append(f"  read-only   {status.read_only}")
    if status.alarms:
        text.append(f"  once read   megafs alarms {status.vault} --acknowledge N")
    return text + ["  " + line for line in hosts_command.lines(status.hosts)]
