"""``attach --repair``: this device again, after its index was damaged, as a new device of the same vault.

The former state directory, the recovery key (or a ticket) and the passphrase in; a whole state directory under the same
name out. The key slot alone would not do: only the index, boot objects and tickets know the ids of the hosts, and so
the names of the objects there. Local packs that the hosts' history names are used again (each chunk is checked when it
is read, so a damaged one costs a fetch). What was newer here and can be read becomes files in lost+found
(daemon.salvage); the rest is kept beside, hidden, and reported; nothing is deleted that is only here.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from megafs import process
from megafs.config import Settings, VaultPaths, settings_from
from megafs.crypto.phrase import Phrase
from megafs.crypto.slot import secret_from
from megafs.daemon.attach import Key, bring
from megafs.daemon.device import Device, locked, new_state
from megafs.daemon.epochs import open_index
from megafs.daemon.salvage import Salvaged, salvage
from megafs.daemon.secrets import keep
from megafs.errors import MegaFSError
from megafs.index.database import SICK, Database
from megafs.index.ledger import Ledger
from megafs.index.packs import SHIPPED, Packs
from megafs.model import GivenSecrets, PackNumber
from megafs.slotfile import sync_directory, unlock
from megafs.store.disk import Disk

log = logging.getLogger(__name__)

Confirm = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What became of the former state directory."""

    aside: Path  # where it lies now
    packs: int  # used again
    newer_packs: int  # that no host's history names: written here and not shipped, or dead
    newer_bytes: int
    salvaged: Salvaged


def repair_vault(
    paths: VaultPaths,
    hosts: Sequence[str],
    key: Key,
    passphrase: str,
    confirm: Confirm,
    secrets: GivenSecrets,
    expected: Phrase | None,
) -> Repaired:
    """``passphrase`` is the former one and stays. Raises what attach raises; then everything is as it was."""
    process.harden()
    device = Device.of(unlock(paths, secret_from(passphrase)))
    aside = paths.root.with_name(f".{paths.root.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    with locked(paths):
        unshipped, is_well = waiting(paths, device)
        question = f"{told(paths.root.name, unshipped, is_well)} The former state stays in {aside}. "
        settings = settings_of(paths)
        with new_state(paths, settings) as building:
            keyring = trio.run(
                bring,
                building,
                hosts,
                key,
                passphrase,
                settings,
                lambda asked: confirm(question + asked),
                secrets,
                expected,
            )
            for path in (paths.secrets, paths.sealed_secrets, paths.root / "remembered"):
                if path.exists():
                    shutil.copy2(path, building.root / path.name)
            keep(building, paths.root, keyring, secrets)
            used, salvaged = take_over(paths, device, building, passphrase)
            os.rename(paths.root, aside)
        sync_directory(paths.root.parent)
    former_disk = Disk(VaultPaths(root=aside).packs)
    for number in used:
        former_disk.unlink(number)  # it is in the new directory, too
    left = former_disk.numbers()
    return Repaired(
        aside=aside,
        packs=len(used),
        newer_packs=len(left),
        newer_bytes=sum(former_disk.blocks(number) for number in left),
        salvaged=salvaged,
    )


def waiting(paths: VaultPaths, device: Device) -> tuple[int, bool]:
    """How many local commits the former index had not shipped, -1 if it does not say; and whether it is undamaged."""
    try:
        database = open_index(paths, device)
        try:
            ledger = Ledger(database.connection)
            return ledger.count_waiting(ledger.newest_outbox()), database.is_well()
        finally:
            database.close()
    except (MegaFSError, *SICK) as error:
        log.info("the former index does not open: %s", error)
        return -1, False


def told(name: str, unshipped: int, is_well: bool) -> str:
    """The same in sentences."""
    well = f"The index of {name} is not damaged: megafs mount goes on with it. " if is_well else ""
    if unshipped < 0:
        return "The index of this device cannot be read as a whole: what is newer in it is looked for row by row."
    if not unshipped:
        return f"{well}This device had shipped everything."
    return f"{well}This device has {unshipped} commits that no host has: what can be read of them goes to lost+found."


def settings_of(paths: VaultPaths) -> Settings:
    """The former ones, where they can be read."""
    try:
        return settings_from(paths.settings.read_text())
    except (OSError, MegaFSError) as error:
        log.warning("the settings are those of a new vault: %s", error)
        return Settings()


def take_over(
    paths: VaultPaths, former: Device, building: VaultPaths, passphrase: str
) -> tuple[list[PackNumber], Salvaged]:
    """Put the pack files that the rebuilt index names into its directory, too, and tell it; and what was newer here."""
    device = Device.of(unlock(building, secret_from(passphrase)))
    database = Database(building.index, device.keyring.index_key(device.id))
    database.adopt(device.number)
    packs, disk, there = Packs(database), Disk(paths.packs), Disk(building.packs)
    used = []
    try:
        for number in disk.numbers():
            pack = packs.get(number)
            if pack is not None and pack.stored_bytes and packs.copies(number):
                os.link(disk.path(number), there.path(number))
                packs.set_local(number, disk.blocks(number), SHIPPED)
                used.append(number)
        folder = time.strftime("from-a-damaged-index-%Y%m%d-%H%M%S")
        salvaged = salvage(paths, former, building, database, folder)
        database.commit(0)
        database.sync_wal()
    finally:
        database.close()
    sync_directory(building.packs)
    return used, salvaged
