"""``megafs rotate``: new secrets for what is sealed from now on. Also what ``devices revoke`` does about it."""

from pathlib import Path
from typing import Annotated

import typer

from megafs.cli import mounts, passphrase, places, recovery, terminal
from megafs.cli.options import Name, PassphraseCommand, PassphraseFile, RecoveryKeyFiles, StateDir
from megafs.config import VaultPaths
from megafs.errors import Incomplete, Usage

Deep = Annotated[
    bool,
    typer.Option("--deep", help="Seal everything that is there anew, too, in the background while it is mounted."),
]


def run(
    name: Name,
    recovery_key_file: RecoveryKeyFiles = None,
    deep: Deep = False,
    passphrase_file: PassphraseFile = None,
    passphrase_command: PassphraseCommand = None,
    state_dir: StateDir = None,
) -> None:
    """Begin a new epoch: new secrets.

    The vault must not be mounted, and this device must be the one that writes. Names, the tree and attributes are
    sealed anew at once, contents as they are rewritten, or all with --deep. Other devices get the new secrets by a
    ticket (megafs devices NAME enrol). Who has old secrets and the old objects, which a host may have kept, can read
    them for ever. Killed at any moment it does no harm: run it again.
    """
    source = passphrase.Source(file=passphrase_file, command=passphrase_command)
    begin(places.vault(state_dir, name), source, recovery_key_file, revoke=0, deep=deep)


def begin(
    paths: VaultPaths, source: passphrase.Source, recovery_key_file: list[Path] | None, *, revoke: int, deep: bool
) -> None:
    """Rotate and tell what is left to do."""
    if not recovery_key_file:
        raise Usage("a new epoch needs the recovery key: --recovery-key-file F")
    mounts.refuse_mounted(paths)
    key = recovery.key(recovery_key_file)
    opened = source.unlock(paths)

    from megafs.daemon.device import Device
    from megafs.daemon.rotate import Asked, rotate_vault

    asked = Asked(revoke=revoke, deep=deep)
    done = rotate_vault(paths, Device.of(opened), key, asked, lambda device: device.store(paths), lambda step: None)
    if revoke:
        terminal.note(f"device {revoke} is revoked: it reads nothing that is written from now on, and writes nothing")
    terminal.note(
        f"epoch {done.epoch} has begun; each other device needs a ticket: megafs devices {paths.root.name} enrol"
    )
    for label in done.without_boot:
        terminal.note(
            f"{label} did not take the new boot object: there the words open the former epoch only, until "
            f"megafs recovery-key {paths.root.name} --recovery-key-file F of the mounted vault finds it"
        )
    if deep:
        terminal.note("what is there is sealed anew while it is mounted; megafs status says how much is left")
    if done.waiting:
        raise Incomplete(f"{done.waiting}; the next mount goes on with it")
