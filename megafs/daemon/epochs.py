"""What a device does once its slot holds a newer epoch than its index knows of, after ``rotate`` or a crash in it.

The slot is replaced whole, and everything else follows from comparing the two: the announcement for other devices, this
device's new certificate, a checkpoint of the new epoch (sync.checkpoint sees to it), the key of the index. So whenever
a rotation is killed, the next mount finishes it.
"""

import logging

from megafs import canonical
from megafs.config import VaultPaths
from megafs.crypto.keys import FIRST_EPOCH, ident_epoch
from megafs.daemon.device import Device
from megafs.errors import DamagedIndex, DiskError, NoSpace
from megafs.index.database import Database
from megafs.index.ledger import Ledger
from megafs.index.rekey import rekey
from megafs.index.vault import Vault
from megafs.model import Kind
from megafs.sync import epochs

log = logging.getLogger(__name__)

EPOCH = "epoch"  # key of the state table: the newest epoch that the index knows of


def open_index(paths: VaultPaths, device: Device) -> Database:
    """The index, under the key of the newest epoch from now on. Blocks, seconds if it had another. Nobody else has it.
    Raises DamagedIndex."""
    newest = device.keyring.index_key(device.id)
    try:
        return Database(paths.index, newest)
    except DamagedIndex:
        former = _former_key(paths, device)
        if former is None:
            raise
    try:
        rekey(paths.index, former, newest)
    except (NoSpace, DiskError) as error:
        log.warning("the index keeps its former key for now: %s", error)
        return Database(paths.index, former)
    return Database(paths.index, newest)


def _former_key(paths: VaultPaths, device: Device) -> bytes | None:
    for epoch in range(device.keyring.epoch - 1, FIRST_EPOCH - 1, -1):
        key = device.keyring.index_key(device.id, epoch)
        try:
            Database(paths.index, key).close()
        except DamagedIndex:
            continue
        return key
    return None


def settle(database: Database, device: Device) -> None:
    """Tell the index of the newest epoch; durable with the next commit, and before anything of the epoch ships: on each
    host the announcement comes before the first commit that devices of former epochs cannot read."""
    known = int(database.state(EPOCH) or FIRST_EPOCH)
    if known >= device.keyring.epoch:
        return
    ledger = Ledger(database.connection)
    for certificate in device.epochs:
        if certificate.claims.epoch > known:
            sealed = epochs.sealed(device.keyring, certificate)
            ledger.add_upload(Kind.EPOCH, ident_epoch(certificate.claims.epoch), sealed)
    Vault(database).set_certificate(device.number, canonical.encode(device.signer.certificate))
    note_epoch(database, device)
    log.info("epoch %d begins", device.keyring.epoch)


def note_epoch(database: Database, device: Device) -> None:
    """The index and the hosts know of the device's newest epoch."""
    database.set_state(EPOCH, b"%d" % device.keyring.epoch)
