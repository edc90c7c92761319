"""At mount: is this state older than what the hosts have of this very device? Then it is brought forward, or says how.

The open index, the hosts; before anything else runs. Offline is normal: hosts that do not answer soon are not waited
for, and shipping finds out in any case that its names are taken.
"""

import logging
import time
from collections.abc import Mapping

import trio

from megafs.config import VaultPaths
from megafs.daemon.device import Device
from megafs.daemon.salvage import keep_packs
from megafs.errors import HostError, RolledBack, Unavailable
from megafs.hosts import Stack
from megafs.index.alarms import Alarms
from megafs.index.database import Database
from megafs.index.ledger import Ledger
from megafs.index.vault import Vault
from megafs.model import Alarm, AlarmKind, HostId
from megafs.store.disk import Disk
from megafs.sync import recover, stream, told, watch
from megafs.sync.objects import Objects

log = logging.getLogger(__name__)

LOOK_S = 3.0  # how long a mount waits for hosts that do not answer


async def catch_up(paths: VaultPaths, database: Database, device: Device, stacks: Mapping[HostId, Stack]) -> None:
    """If the hosts have newer commits of this very device, its state is an old copy: say so and fast-forward. Offline
    is normal: hosts that do not answer soon are not waited for."""
    objects = Objects(device.keyring, {host: stack.prompt for host, stack in stacks.items()})
    ahead, beyond, position = 0, 0, stream.load(database)
    before = position.previous
    with trio.move_on_after(LOOK_S):
        try:
            ahead = await recover.steps_ahead(objects, device.trust, position, device.number)
            if not ahead:
                confirmed = Ledger(database.connection).newest_confirmed(device.number)
                beyond = await recover.steps_beyond(objects, device.trust, position, device.number, confirmed)
        except (HostError, Unavailable) as error:
            log.info("no host says whether this state is the newest: %s", error)
    if beyond:
        raise RolledBack(
            f"the state on this device is {beyond} commits older than the hosts', and they do not keep all of these "
            f"any more. {cure(paths)}"
        )
    if not ahead:
        return
    log.warning("the state on this device is %d commits older than the hosts': fast-forwarding from them", ahead)
    folder = time.strftime("from-an-older-state-%Y%m%d-%H%M%S")
    keep_packs(paths.packs, paths.aside / folder, Ledger(database.connection).unshipped_packs())
    try:
        gone = await recover.fast_forward(database, objects, device.trust, device.signer, ahead, folder.encode())
    except RolledBack as error:
        raise RolledBack(
            f"two histories: {told.commit(before.seq, before.hash)} of device {device.number}, which is here, is not "
            f"in what the hosts have of it ({error}). {cure(paths)}"
        ) from error
    after = stream.load(database).previous
    watch.tell(
        Alarms(database.connection),
        Vault(database),
        Alarm(
            kind=AlarmKind.OWN_STATE,
            device=device.number,
            known_seq=before.seq if before.device == device.number else 0,
            known_hash=before.hash,
            shown_seq=after.seq,
            shown_hash=after.hash,
            since_s=int(time.time()),
        ),
    )
    database.commit(0)
    database.sync_wal()
    disk = Disk(paths.packs)
    for number in gone:
        disk.unlink(number)


def cure(paths: VaultPaths) -> str:
    """What the owner can do."""
    return (
        "This takes what is on the hosts and keeps what is only here beside it: "
        f"megafs attach {paths.root.name} --repair --host URL … --recovery-key-file FILE"
    )
