"""``megafs devices``: the devices of a vault: which there are, and letting another one in."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from megafs.cli import passphrase, places, rotate, terminal
from megafs.cli.hosts import answer_to, table
from megafs.cli.options import Json, Name, PassphraseCommand, PassphraseFile, RecoveryKeyFiles, StateDir
from megafs.config import VaultPaths
from megafs.control.messages import DeviceReport, Devices, Request, Unshipped, UnshippedPath
from megafs.errors import Incomplete, MegaFSError, NotMounted, Usage

if TYPE_CHECKING:
    from megafs.crypto.opened import Opened

ACTIONS = ("list", "enrol", "revoke", "unshipped")
COLUMNS = ("device", "name", "enrolled", "commits", "last seen", "")
MINUTES = 10

ActionArgument = Annotated[str, typer.Argument(metavar=f"[{'|'.join(ACTIONS)}]", help="What to do.")]
NumberArgument = Annotated[int, typer.Argument(metavar="[NUMBER]", min=0, help="Which device, for revoke.")]
Minutes = Annotated[
    int, typer.Option("--minutes", min=1, max=1440, help="With enrol: for how long the ticket is good.")
]


def run(
    name: Name,
    action: ActionArgument = "list",
    number: NumberArgument = 0,
    minutes: Minutes = MINUTES,
    qr: Annotated[bool, typer.Option("--qr", help="With enrol: show the words as a QR code, too.")] = False,
    recovery_key_file: RecoveryKeyFiles = None,
    deep: rotate.Deep = False,
    passphrase_file: PassphraseFile = None,
    passphrase_command: PassphraseCommand = None,
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Show the devices of a vault, or let another one in.

    list: number, name, when enrolled, newest commit in the vault, when it was seen last. enrol: prints 12 words, with
    which `megafs attach NAME --ticket-file F` makes another machine a device: it needs neither the recovery key nor
    this passphrase. They are good once and for --minutes; whoever reads them in that time gets in. Ctrl-C ends them.
    revoke: a new epoch (see megafs rotate) without device NUMBER. unshipped: what was changed on this mounted device
    and is not in the vault, because another device took it over; it stays readable here, to be copied.
    """
    source = passphrase.Source(file=passphrase_file, command=passphrase_command)
    paths = places.vault(state_dir, name)
    if action not in ACTIONS:
        raise Usage(f"devices takes one of {', '.join(ACTIONS)}, not {action!r}")
    if (action == "revoke") != bool(number):
        raise Usage("devices revoke needs the number of a device, and nothing else does")
    if action == "revoke":
        rotate.begin(paths, source, recovery_key_file, revoke=number, deep=deep)
        return
    if action == "unshipped":
        unshipped(paths, json)
        return
    if action == "enrol":
        enrol(paths, source, minutes, qr=qr)
        return
    told = asked(paths)
    if told is None:
        told = listed(paths, source.unlock(paths))
    if json:
        terminal.answer_json(asdict(told)["devices"])
        return
    for text in table([COLUMNS, *(cells(device) for device in told.devices)]):
        terminal.answer(text)


def asked(paths: VaultPaths) -> Devices | None:
    """What the daemon says; None if the vault is not mounted."""
    from megafs.control import client

    try:
        told = client.ask(paths.root, Request(call="devices"))
    except NotMounted:
        return None
    if not isinstance(told, Devices):
        raise MegaFSError("the daemon answered something else than it was asked")
    return told


def listed(paths: VaultPaths, opened: "Opened") -> Devices:
    """The same of a vault that is not mounted."""
    from megafs.daemon.devices import devices_of

    return devices_of(paths, opened=opened)


def enrol(paths: VaultPaths, source: passphrase.Source, minutes: int, *, qr: bool) -> None:
    """Print a ticket and wait until it is used. Asks for the passphrase also beside a mount: who finds the machine
    unlocked must not be able to make a device of his own that stays."""
    opened = source.unlock(paths, ask_keyring=False)
    told = asked(paths) or listed(paths, opened)

    from megafs.daemon import devices

    def tell(words: Sequence[str]) -> None:
        terminal.answer(" ".join(words))
        if qr:
            show_code(" ".join(words))
        urls = " ".join(f"--host {host.url}" for host in told.hosts)
        terminal.note(
            f"on the new machine, within {minutes} minutes: megafs attach {paths.root.name} --ticket-file F {urls} "
            "(F: a file with these words, or - to type them)"
        )

    if not devices.enrol(paths, opened=opened, hosts=told.hosts, tell=tell, lives_s=minutes * 60):
        raise Incomplete("nobody used the ticket; it is gone")
    terminal.note("the ticket was used and is gone; the new device is the one that writes now")


def show_code(words: str) -> None:
    """A QR code for a camera at the new machine, on stderr. Capitals fit into a smaller one, and are read as well."""
    import segno

    segno.make_qr(words.upper()).terminal(out=sys.stderr, compact=True)
    sys.stderr.flush()


def unshipped(paths: VaultPaths, json: bool) -> None:
    """List the paths; on stderr what they are."""
    found: list[UnshippedPath] = []
    number = 0
    while (page := answer_to(paths, Request(call="unshipped", page=number), Unshipped)).paths:
        found += page.paths
        number += 1
    if json:
        terminal.answer_json([{"path": terminal.shown(each.path), "what": each.what} for each in found])
    else:
        for each in found:
            terminal.answer(f"{each.what:8}{terminal.shown(each.path)}")
    if not page.is_whole:
        terminal.note("older commits that the vault lacks are in a checkpoint of this device: compare the trees, too")
    if found:
        terminal.note("the vault lacks these; copy them from this mount to the device that writes now")
    else:
        terminal.note("everything of this device is in the vault")


def cells(device: DeviceReport) -> tuple[str, ...]:
    """One device as the cells of COLUMNS."""
    marks = [
        word
        for word, holds in (
            ("this one", device.is_this),
            ("writes", device.is_writing),
            ("revoked", device.is_revoked),
        )
        if holds
    ]
    commits = f"1 to {device.last_seq}" if device.last_seq else "none"
    return (
        str(device.number),
        device.label or "-",
        day(device.enrolled_s),
        commits,
        day(device.seen_s),
        ", ".join(marks),
    )


def day(at_s: int) -> str:
    """A time as it is read here; - if it is not known."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s)) if at_s else "-"
