"""All between the committed index and the hosts, wired: shipping, checkpoints, collecting, compacting, repair."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from megafs.config import Settings
from megafs.daemon.device import Device
from megafs.files.commit import Committer
from megafs.hosts import Stack
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.index.ledger import Ledger
from megafs.index.packs import Packs
from megafs.model import HostId
from megafs.store.disk import Disk
from megafs.store.fetcher import HostFetcher
from megafs.store.reader import Reader
from megafs.store.writer import PackWriter
from megafs.sync.checkpoint import Checkpointer
from megafs.sync.claims import Claims, Standing
from megafs.sync.collect import Collector
from megafs.sync.compact import Compactor
from megafs.sync.objects import Objects
from megafs.sync.packing import Landscape, PackShipper
from megafs.sync.repair import Repairer
from megafs.sync.ship import Shipper
from megafs.sync.stream import Stream

COMPACT_EVERY_S = 300.0  # packs are looked through this often


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the local side hands over."""

    device: Device
    database: Database
    settings: Settings
    stacks: Mapping[HostId, Stack]
    commits: Committer
    writer: PackWriter
    reader: Reader
    fetcher: HostFetcher
    disk: Disk
    extents: Extents
    inodes: Inodes
    landscape: Landscape


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """The loops that keep the hosts as the policy wants them."""

    shipper: Shipper
    checkpointer: Checkpointer
    collector: Collector
    compactor: Compactor
    repairer: Repairer

    def start(self, nursery: trio.Nursery) -> None:
        """Run everything in ``nursery``; ends by cancellation."""
        for loop in (self.shipper.run, self.checkpointer.run, self.collector.run, self.repairer.run, self._compact):
            nursery.start_soon(loop)

    async def _compact(self) -> None:
        while True:
            await trio.sleep(COMPACT_EVERY_S)
            await self.compactor.run_once()

    def wake(self) -> None:
        """Something became durable."""
        self.shipper.wake()


def build(parts: Parts, lost: Callable[[], None]) -> Keeping:
    """``lost`` is called once another device has taken the vault over."""
    device, database, stacks = parts.device, parts.database, parts.stacks
    ledger, packs = Ledger(database.connection), Packs(database)
    # Prompt: lanes and packs have pauses of their own, and a pack goes elsewhere rather than wait for a host.
    objects = Objects(device.keyring, {host: stack.prompt for host, stack in stacks.items()})
    stream = Stream(database, device.keyring, device.signer, time.time)
    standing = Standing(term=stream.position.term, device=device.id)
    claims = Claims(objects, device.trust, standing, time.time)
    packing = PackShipper(
        objects=objects,
        ledger=ledger,
        packs=packs,
        writer=parts.writer,
        disk=parts.disk,
        landscape=parts.landscape,
        settings=parts.settings,
        clock=time.time,
        changed=lambda: shipper.wake(),
    )
    shipper = Shipper(
        objects=objects,
        ledger=ledger,
        stream=stream,
        claims=claims,
        packing=packing,
        commits=parts.commits,
        landscape=parts.landscape,
        clock=time.time,
        lost=lost,
    )
    return Keeping(
        shipper=shipper,
        checkpointer=Checkpointer(
            database=database,
            keyring=device.keyring,
            stream=stream,
            shipper=shipper,
            commits=parts.commits,
            landscape=parts.landscape,
            clock=time.time,
        ),
        collector=Collector(
            objects=objects,
            ledger=ledger,
            packs=packs,
            extents=parts.extents,
            inodes=parts.inodes,
            disk=parts.disk,
            stream=stream,
            shipper=shipper,
            commits=parts.commits,
            landscape=parts.landscape,
            settings=parts.settings,
            clock=time.time,
            is_idle=parts.reader.is_idle,
        ),
        compactor=Compactor(
            packs=packs,
            extents=parts.extents,
            writer=parts.writer,
            disk=parts.disk,
            fetcher=parts.fetcher,
            commits=parts.commits,
            may_run=lambda: claims.lost_to is None,
        ),
        repairer=_repairer(parts, objects, ledger, packs, claims, shipper),
    )


def _repairer(
    parts: Parts, objects: Objects, ledger: Ledger, packs: Packs, claims: Claims, shipper: Shipper
) -> Repairer:
    repairer = Repairer(
        objects=objects,
        ledger=ledger,
        packs=packs,
        disk=parts.disk,
        landscape=parts.landscape,
        claims=claims,
        clock=time.time,
        changed=shipper.wake,
    )
    parts.fetcher.on_damage = repairer.note_damage
    return repairer
