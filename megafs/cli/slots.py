"""``megafs passphrase``: what opens a vault on this device: its key slots. Beside a mount or without one.

Every change needs a passphrase, a key file or the recovery key; never the desktop keyring, because who finds the
machine unlocked must not be able to change what opens it.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megafs.cli import mounts, passphrase, places, recovery, terminal
from megafs.cli.hosts import table
from megafs.cli.options import Json, Name, PassphraseCommand, PassphraseFile, RecoveryKeyFiles, StateDir
from megafs.config import VaultPaths
from megafs.errors import Usage

if TYPE_CHECKING:
    from megafs.crypto.opened import Opened
    from megafs.crypto.passphrase import Cost
    from megafs.crypto.recovery import RecoveryKey
    from megafs.crypto.slot import Secret, Slot

ACTIONS = ("change", "add", "remove", "list")

ActionArgument = Annotated[str, typer.Argument(metavar=f"[{'|'.join(ACTIONS)}]", help="What to do.")]
LabelArgument = Annotated[str, typer.Argument(metavar="[SLOT]", help="Which slot: its name.")]
NewFile = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", metavar="F", help="Read the new one from this file.", show_default=False),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", metavar="F", help="With add: write a new random key to F instead of asking.", show_default=False
    ),
]
Keyring = Annotated[bool, typer.Option("--keyring", help="With add: a random key in the desktop keyring.")]
Only = Annotated[bool, typer.Option("--only", help="With change: every other slot goes; not while it is mounted.")]
Memory = Annotated[
    str,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="What a guess of the new passphrase costs: 64M to 4G. [default: what is free, 256M at most]",
        show_default=False,
    ),
]


def run(
    name: Name,
    action: ActionArgument = "change",
    label: LabelArgument = "",
    passphrase_file: PassphraseFile = None,
    passphrase_command: PassphraseCommand = None,
    recovery_key_file: RecoveryKeyFiles = None,
    new_passphrase_file: NewFile = None,
    key_file: KeyFile = None,
    keyring: Keyring = False,
    only: Only = False,
    memory: Memory = "",
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Change the passphrase of a vault on this device, or have several.

    change: a new one in the place of the one given (with --recovery-key-file: of the one that is lost); the old one
    stops working at once. add: another one beside it, with a name of its own. remove, list: as they say. What was
    given away together with a copy of the slot file opens later ones, too, until change --only makes all new.
    """
    source = passphrase.Source(file=passphrase_file, command=passphrase_command)
    paths = places.vault(state_dir, name)
    if action not in ACTIONS:
        raise Usage(f"passphrase takes one of {', '.join(ACTIONS)}, not {action!r}")
    if action == "list":
        _list(paths, json)
        return
    if action != "change" and not label and not keyring:
        raise Usage(f"passphrase {action} needs the name of a slot")
    if only:
        mounts.refuse_mounted(paths)
    given = recovery.key(recovery_key_file) if recovery_key_file else None
    opened = _opened(paths, source, given)
    if action == "remove":
        _remove(paths, opened, label)
        return
    cost = _cost(memory)
    if action == "add" and keyring:
        passphrase.remember(paths, opened)
        terminal.note("the desktop keyring opens it from now on")
        return
    label = label or (opened.label if given is None else "passphrase")
    if action == "add":
        _check_new(paths, label)
    fresh = _key_in(key_file) if key_file is not None else passphrase.Source(file=new_passphrase_file).new(name)
    _put(paths, opened, label, fresh, cost, only=only)
    if action == "change":
        _forget_kept(paths, opened)
    terminal.note(f"the slot {label} is {'changed' if action == 'change' else 'made'}")


def _opened(paths: VaultPaths, source: passphrase.Source, given: "RecoveryKey | None") -> "Opened":
    from megafs import slotfile

    if given is None:
        return source.unlock(paths, ask_keyring=False)
    return slotfile.unlock(paths, given)


def _check_new(paths: VaultPaths, label: str) -> None:
    if label in {slot.label for slot in _slots(paths)}:
        raise Usage(f"there is a slot {label} already")


def _slots(paths: VaultPaths) -> "tuple[Slot, ...]":
    from megafs import slotfile
    from megafs.crypto.slot import slots_of

    return slots_of(slotfile.read(paths))


def _cost(memory: str) -> "Cost | None":
    from megafs.crypto.passphrase import Cost

    return Cost(memory_kib=terminal.size_bytes(memory) >> 10) if memory else None


def _put(paths: VaultPaths, opened: "Opened", label: str, fresh: "Secret", cost: "Cost | None", *, only: bool) -> None:
    from megafs import slotfile

    if not only:
        slotfile.put_slot(paths, opened, label, fresh, cost)
        return
    from megafs.daemon.device import locked

    with locked(paths):  # a daemon that has the former body key could not write the file any more
        slotfile.only_slot(paths, opened, label, fresh, cost)
    terminal.note("nothing that opened it before does now; megafs recovery-key makes a slot for the recovery key again")


def _remove(paths: VaultPaths, opened: "Opened", label: str) -> None:
    from megafs import slotfile

    if label == opened.label:
        raise Usage(f"{label} is what was just given: open it with another one to remove this")
    slotfile.remove_slot(paths, opened, label)
    terminal.note(f"the slot {label} is gone")


def _list(paths: VaultPaths, json: bool) -> None:
    kinds = {1: "passphrase", 2: "random key", 3: "recovery key"}
    rows = [(slot.label, kinds[slot.kind], slot.cost.memory_kib << 10 if slot.cost else 0) for slot in _slots(paths)]
    rows = rows or [("passphrase", "passphrase", 0)]  # format 1
    if json:
        terminal.answer_json([{"slot": label, "kind": kind, "memory_bytes": cost} for label, kind, cost in rows])
        return
    cells = [(label, kind, f"{terminal.size_text(cost)} a guess" if cost else "") for label, kind, cost in rows]
    for text in table([("slot", "opened by", ""), *cells]):
        terminal.answer(text)


def _key_in(file: Path) -> "Secret":
    """A new random key, written to a file that was not there."""
    from megafs.crypto.slot import SlotKey

    key = SlotKey.generate()
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Usage(f"there is a file {file} already") from error
    with open(descriptor, "w") as opened:
        opened.write(key.text() + "\n")
        opened.flush()
        os.fsync(descriptor)
    return key


def _forget_kept(paths: VaultPaths, opened: "Opened") -> None:
    """An earlier version gave the passphrase itself to the desktop keyring: a key takes its place."""
    kept = passphrase.kept(paths)
    if kept is not None and not kept.startswith("megafs-key-1:"):
        passphrase.remember(paths, opened)
