"""All between the committed index and the hosts, wired: shipping, checkpoints, collecting, compacting, care."""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import trio

from megafs.config import Settings
from megafs.crypto.keys import ident_claim
from megafs.daemon import memory
from megafs.daemon.device import Device
from megafs.errors import HostError
from megafs.files.commit import Committer
from megafs.hosts import Stack
from megafs.hours import minutes_until
from megafs.index.alarms import Alarms
from megafs.index.care import Care
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.index.ledger import Ledger
from megafs.index.packs import Packs
from megafs.index.vault import Vault
from megafs.model import HostId, Kind
from megafs.store.cache import Cache
from megafs.store.disk import Disk
from megafs.store.fetcher import HostFetcher
from megafs.store.reader import Reader
from megafs.store.writer import PackWriter
from megafs.sync.anchors import Anchors
from megafs.sync.checkpoint import Checkpointer
from megafs.sync.claims import Claims, Standing
from megafs.sync.collect import Collector
from megafs.sync.compact import Compactor
from megafs.sync.joining import bring_up
from megafs.sync.lasting import Lasting
from megafs.sync.mirror import Mirror
from megafs.sync.objects import Objects
from megafs.sync.packing import Landscape, PackShipper
from megafs.sync.possession import Examiner
from megafs.sync.presence import Presence
from megafs.sync.reach import Reach
from megafs.sync.repair import Repairer
from megafs.sync.scrub import Scrubber
from megafs.sync.ship import Shipper
from megafs.sync.stream import Stream
from megafs.sync.watch import Watch

log = logging.getLogger(__name__)

COMPACT_EVERY_S = 300.0  # packs are looked through this often
RESEAL_EVERY_S = 5.0  # a round of at most 32 MiB, while little waits to be shipped
TIDY_EVERY_S = 10.0  # freed memory goes back to the system: what commit objects and checkpoints were made in
HOURS_LOOK_MIN = 10  # trio's clock stands still while the machine sleeps
DEEP = "deep_epoch"  # key of the setting table: all chunks of earlier epochs are to be sealed anew; absent: none


def since_boot_s() -> float:
    """A clock that nobody sets, and that goes on while the machine sleeps: what a majority said before is old then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def deep_epoch(database: Database) -> int:
    """Chunks of epochs before this one are to be sealed anew; 0: only what is compacted."""
    return int(Vault(database).setting(DEEP) or 0)


def minute_of_day() -> int:
    """Local time, as the owner's settings mean it."""
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min


class Local(Protocol):
    """What the local side (daemon.engine) hands over."""

    device: Device
    database: Database
    settings: Settings
    stacks: dict[HostId, Stack]
    packs: Packs
    ledger: Ledger
    alarms: Alarms
    care: Care
    cache: Cache
    extents: Extents
    inodes: Inodes
    disk: Disk
    writer: PackWriter
    reader: Reader
    fetcher: HostFetcher
    commits: Committer
    landscape: Landscape


class Keeping:
    """The loops that keep the hosts as the policy wants them."""

    def __init__(self, local: Local, lost: Callable[[], None], clock: Callable[[], float]) -> None:
        """``lost`` is called once another device has taken the vault over."""
        device, self._local, self._clock = local.device, local, clock
        # Prompt: lanes and packs have pauses of their own, and a pack goes elsewhere rather than wait for a host.
        self._objects = Objects(device.keyring, {host: stack.prompt for host, stack in local.stacks.items()})
        self._stream = Stream(
            local.database, device.keyring, device.signer, self._clock, coarse=local.settings.coarse_sizes
        )
        standing = Standing(term=self._stream.position.term, device=device.id)
        self._claims = Claims(self._objects, device.trust, standing, since_boot_s)
        self._lasting = Lasting(local.database, self._clock, since_boot_s)
        self.shipper = self._shipper(lost)
        self.reach = Reach(local.database, local.ledger, self.shipper, local.commits, local.landscape)
        self.checkpointer = Checkpointer(
            database=local.database,
            keyring=device.keyring,
            stream=self._stream,
            shipper=self.shipper,
            commits=local.commits,
            landscape=local.landscape,
            clock=self._lasting,
        )
        self.collector = self._collector()
        self.compactor = Compactor(
            packs=local.packs,
            extents=local.extents,
            writer=local.writer,
            disk=local.disk,
            fetcher=local.fetcher,
            commits=local.commits,
            may_run=lambda: not self._claims.is_lost and self._may_tend(),
            deep_epoch=lambda: deep_epoch(local.database),
        )
        self.repairer = self._repairer()
        local.fetcher.on_damage = self.repairer.note_damage
        self.mirror = Mirror(
            objects=self._objects,
            ledger=local.ledger,
            packs=local.packs,
            stream=self._stream,
            claims=self._claims,
            repairer=self.repairer,
            watch=self._watch(),
        )
        self.shipper.lanes.check_former = self.mirror.watch.check_former
        self.shipper.lanes.on_back, self.shipper.on_wait = self._care_for_who_is_back, self._somebody_waits
        self.presence = Presence(
            care=local.care,
            mirror=self.mirror,
            repairer=self.repairer,
            hosts=lambda: self._objects.hosts,
            answers=self._answers,
            ask=self._ask,
            gone_s=local.settings.host_gone_s,
            clock=self._clock,
        )
        for stack in local.stacks.values():
            stack.measured.on_failure = self.presence.note_failure
        self.scrubber = self._scrubber()

    def _care_for_who_is_back(self) -> None:
        self.repairer.wake()
        self.mirror.wake()

    def _somebody_waits(self) -> None:
        for stack in self._local.stacks.values():
            stack.measured.ask_now()
        self.repairer.wake()

    def _may_tend(self) -> bool:
        """Whether this is an hour for work that can wait."""
        return not minutes_until(self._local.settings.background_hours, minute_of_day())

    def _may_ship(self) -> bool:
        if not minutes_until(self._local.settings.ship_hours, minute_of_day()):
            return True
        level = self._local.cache.level()
        return 2 * level.unshipped > level.limit

    def _answers(self, host: HostId) -> bool:
        stack = self._local.stacks.get(host)
        return stack is not None and stack.measured.healthy and not stack.measured.refusing

    async def _ask(self, host: HostId) -> None:
        """Hear of a host that did not answer the last time."""
        stack = self._local.stacks.get(host)
        if stack is not None and host in self._objects.hosts and not stack.measured.answers:
            try:
                await self._objects.has(host, Kind.CLAIM, ident_claim(1, 0))
            except HostError as error:
                log.debug("%s", error)

    def _scrubber(self) -> Scrubber:
        local, chance = self._local, secrets.SystemRandom()
        return Scrubber(
            examiner=Examiner(self._objects, local.packs, chance),
            care=local.care,
            ledger=local.ledger,
            packs=local.packs,
            stream=self._stream,
            claims=self._claims,
            mirror=self.mirror,
            anchors=Anchors(self._objects, self._claims, Vault(local.database)),
            repairer=self.repairer,
            hosts=lambda: set(self._objects.hosts) - local.care.written_off(),
            clock=self._clock,
            chance=chance,
            may_run=self._may_tend,
        )

    def _watch(self) -> Watch:
        local = self._local
        return Watch(
            objects=self._objects,
            ledger=local.ledger,
            vault=Vault(local.database),
            alarms=local.alarms,
            trust=local.device.trust,
            own=lambda: self._stream.position.previous,
            durable_now=local.commits.durable_now,
            clock=self._clock,
            lasting=self._lasting,
        )

    def _shipper(self, lost: Callable[[], None]) -> Shipper:
        local = self._local
        packing = PackShipper(
            objects=self._objects,
            ledger=local.ledger,
            packs=local.packs,
            writer=local.writer,
            disk=local.disk,
            landscape=local.landscape,
            settings=local.settings,
            clock=self._clock,
            changed=lambda: self.shipper.wake(),
        )
        return Shipper(
            objects=self._objects,
            ledger=local.ledger,
            alarms=local.alarms,
            stream=self._stream,
            claims=self._claims,
            packing=packing,
            commits=local.commits,
            landscape=local.landscape,
            clock=self._clock,
            lost=lost,
            may_ship=self._may_ship,
        )

    def _collector(self) -> Collector:
        local = self._local
        return Collector(
            objects=self._objects,
            ledger=local.ledger,
            packs=local.packs,
            extents=local.extents,
            inodes=local.inodes,
            disk=local.disk,
            stream=self._stream,
            shipper=self.shipper,
            commits=local.commits,
            landscape=local.landscape,
            settings=local.settings,
            clock=self._clock,
            lasting=self._lasting,
            is_idle=local.reader.is_idle,
        )

    def _repairer(self) -> Repairer:
        local = self._local
        return Repairer(
            objects=self._objects,
            ledger=local.ledger,
            care=local.care,
            packs=local.packs,
            disk=local.disk,
            landscape=local.landscape,
            claims=self._claims,
            clock=self._clock,
            moves=self.shipper.moves,
            changed=local.commits.note_change,  # where copies are is soon known to the hosts, too
            may_move=self._may_tend,
        )

    def loops(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """Each runs until it is cancelled, and sleeps while nothing moves but for what is really due."""
        shipping = (self.shipper, self.checkpointer, self.collector)
        care = (self.repairer, self.mirror, self.presence, self.scrubber)
        now_and_then = (
            partial(self._while_moving, COMPACT_EVERY_S, self._in_hours(self.compactor.run_once)),
            partial(self._while_moving, RESEAL_EVERY_S, self._in_hours(self.compactor.reseal_once)),
            partial(self._while_moving, TIDY_EVERY_S, partial(trio.to_thread.run_sync, memory.give_back)),
        )
        return [*now_and_then, *(part.run for part in (*shipping, *care, self.scrubber.notices))]

    async def _while_moving(self, every_s: float, look: Callable[[], Awaitable[object]]) -> None:
        """Look so long after the first that moved since the last look."""
        moves, seen = self.shipper.moves, -1
        while True:
            await moves.beyond(seen)
            await trio.sleep(every_s)
            seen = moves.count
            await look()

    def _in_hours(self, work: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        """The same, but in the hours for work that can wait."""

        async def later() -> None:
            minutes = 1
            while minutes:
                minutes = minutes_until(self._local.settings.background_hours, minute_of_day())
                await trio.sleep(60 * min(minutes, HOURS_LOOK_MIN))
            if not self._claims.is_lost:
                await work()

        return later

    @property
    def claims(self) -> Claims:
        return self._claims

    def join(self, host: HostId, stack: Stack) -> None:
        """From now on the host gets what all hosts get. Packs come once the vault's hosts name it."""
        self._objects.hosts[host] = stack.prompt
        stack.measured.on_failure = self.presence.note_failure
        self.shipper.lanes.open(host)

    async def bring_up(self, host: HostId) -> AsyncGenerator[tuple[int, int], None]:
        """Copy to a host that has joined what came before; (done, of how many)."""
        others = Objects(self._local.device.keyring, {h: s for h, s in self._objects.hosts.items() if h != host})
        async for step in bring_up(host, self._objects, others, self._claims, self._local.ledger, self._stream):
            yield step

    def leave(self, host: HostId) -> None:
        """Nothing is sent to the host any more, nor asked of it."""
        self._objects.hosts.pop(host, None)
        self.shipper.lanes.close(host)
        Vault(self._local.database).forget_debts(host)
        self.wake()

    def wake(self) -> None:
        """Something became durable."""
        self.reach.note()
        self.shipper.wake()
