"""``attach --repair``: what was newer in the damaged index goes over to the rebuilt one, to become files in lost+found.

The former state directory and the new one in; rows of ``only_here`` and pack files kept beside out (daemon.rescue makes
files of them once the vault is mounted). What of it is neither here nor on a host is told instead.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megafs.config import VaultPaths
from megafs.crypto.keys import FIRST_EPOCH
from megafs.crypto.seal import digest
from megafs.daemon.device import Device
from megafs.errors import MegaFSError
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.ledger import Ledger
from megafs.index.salvage import Content, NewerFile, newer_in
from megafs.model import ChunkPlace, PackNumber
from megafs.store.disk import Disk
from megafs.sync import aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvaged:
    """What was newer on this device."""

    is_readable: bool  # the index could be opened
    unread: tuple[str, ...] = ()  # tables of it with pages that cannot be read
    folder: str = ""  # below lost+found
    kept: tuple[bytes, ...] = ()  # paths of what will be there
    lost: tuple[bytes, ...] = ()  # of what could not be read, or not wholly


def keep_packs(packs: Path, beside: Path, numbers: Iterable[PackNumber]) -> None:
    """These pack files stay, in a folder of their own, also when the vault's newer history gives their numbers to
    others. Blocks."""
    kept, disk = Disk(beside), Disk(packs)
    kept.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in numbers:
        if disk.path(number).exists():
            kept.unlink(number)
            os.link(disk.path(number), kept.path(number))
    kept.sync_directory()


def salvage(paths: VaultPaths, device: Device, building: VaultPaths, database: Database, folder: str) -> Salvaged:
    """``database`` is the rebuilt index, open; the caller commits. Blocks for as long as reading the former one takes.
    Nothing in ``paths`` is changed."""
    epochs = range(device.keyring.epoch, FIRST_EPOCH - 1, -1)
    bases = {number: last for number, _, last in Ledger(database.connection).stretches()}
    keys = [device.keyring.index_key(device.id, epoch) for epoch in epochs]  # whichever it has
    found = newer_in(paths.index, keys, database, bases.get(device.number, 0))
    if found is None:
        return Salvaged(is_readable=False)
    kept, lost, needed = [], set(found.lost), set[PackNumber]()
    disk, extents = Disk(paths.packs), Extents(database)
    for file in found.files:
        content = _obtainable(file, disk, extents)
        if not file.is_whole or len(content) < len(file.content):
            lost.add(file.path)
        if content or not file.row.stored:
            needed |= {each[3].pack for each in content}
            aside.note(database, aside.cut(folder.encode(), file.path, file.row, file.target, file.tags, content))
            kept.append(file.path)
    disk.close()
    if kept:
        keep_packs(paths.packs, building.aside / folder, needed)
    return Salvaged(
        is_readable=True, unread=tuple(sorted(found.unread)), folder=folder, kept=tuple(kept), lost=tuple(sorted(lost))
    )


def _obtainable(file: NewerFile, disk: Disk, extents: Extents) -> Content:
    """What of it lies in chunks that a host or a local pack has: what nobody has would be waited for without end."""

    def is_there(place: ChunkPlace) -> bool:
        if extents.place(place.chunk) is not None:
            return True
        try:
            return digest(disk.read(place.pack, place.offset, place.sealed_bytes)) == place.digest
        except MegaFSError:
            return False

    return [each for each in file.content if is_there(each[3])]
