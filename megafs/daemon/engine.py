"""One vault at work, without a mount: every part, wired. Used by run (with a mount), attach and the tests."""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import trio

from megafs.config import MIB, MountOptions, Settings, VaultPaths, durability_hosts
from megafs.daemon.device import Device
from megafs.daemon.keeping import Keeping
from megafs.errors import MegaFSError
from megafs.files.commit import Committer
from megafs.files.content import Content
from megafs.files.namespace import Namespace
from megafs.files.xattrs import Xattrs
from megafs.hosts import Stack
from megafs.index.alarms import Alarms
from megafs.index.care import Care
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.index.ledger import Ledger
from megafs.index.packs import Packs
from megafs.index.vault import Vault
from megafs.model import HostId, HostSpec, HostState
from megafs.store.cache import Cache, default_limit
from megafs.store.disk import Disk
from megafs.store.fetcher import HostFetcher
from megafs.store.reader import Reader
from megafs.store.writer import PackWriter
from megafs.sync.packing import Landscape
from megafs.sync.pins import Keeper
from megafs.sync.ship import Shipper
from megafs.sync.states import States

log = logging.getLogger(__name__)

ASK_AGAIN_S = 10.0  # for hosts that hang
USAGE_EVERY_S = 300.0  # hosts are asked for their free space at most so often
CLOCK_REALTIME_COARSE = 5  # clock_gettime(2); the time module has no name for it


def clock_ns() -> int:
    """The clock that the kernel stamps files with, so that times of both sides compare."""
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


class Takeover:
    """Who is told when another device has taken the vault over; set by the mount."""

    def __init__(self) -> None:
        self.tell: Callable[[], None] = lambda: None


class Space:
    """What hosts say they have free, as statfs and placement need it. Owner of the last answers."""

    def __init__(self, vault: Vault, stacks: Mapping[HostId, Stack], packs: Packs, care: Care) -> None:
        self._vault, self._stacks, self._packs, self._care = vault, stacks, packs, care
        self._counted: dict[HostId, tuple[int, int]] = {}  # newest copy row when counted, bytes
        self.free: dict[HostId, int | None] = {}
        self.used: dict[HostId, int] = {}
        self.under_way: Counter[HostId] = Counter()  # by sync.packing

    def states(self) -> list[HostState]:
        """Every host as placement sees it now."""
        states, away = [], self._care.written_off()
        for spec in self._vault.hosts():
            stack = self._stacks.get(spec.id)
            states.append(
                HostState(
                    spec=spec,
                    answers=stack is not None and stack.measured.healthy and not stack.measured.refusing,
                    failing=stack.measured.failing if stack is not None else 0.0,
                    written_off=spec.id in away,
                    full=stack is not None and stack.measured.full,
                    used_bytes=self._used(spec),
                    free_bytes=self.free.get(spec.id),
                    latency_s=stack.measured.latency_s if stack is not None else 0.0,
                )
            )
        return states

    def _used(self, spec: HostSpec) -> int:
        """Bytes on the host. Against a limit that its owner set, what we put there counts, and what is under way."""
        if not spec.limit_bytes:
            return self.used.get(spec.id, 0)
        newest = self._packs.newest_copy()
        counted, used = self._counted.get(spec.id, (-1, 0))
        if counted != newest:
            used = self._packs.on_host(spec.id)[1]
            self._counted[spec.id] = newest, used
        return used + self.under_way[spec.id]

    def recount(self) -> None:
        """Copies may have been deleted."""
        self._counted.clear()

    async def ask(self) -> None:
        """Every host for its free space."""
        self.recount()
        async with trio.open_nursery() as nursery:  # one that hangs takes a minute
            for host, stack in self._stacks.items():
                nursery.start_soon(self._ask, host, stack)

    async def ask_again(self) -> None:
        """The hosts that are down, although they are in a pause: somebody waits who may have put them right."""
        with trio.move_on_after(ASK_AGAIN_S):
            async with trio.open_nursery() as nursery:
                for host, stack in self._stacks.items():
                    if not stack.measured.answers:
                        stack.measured.ask_now()
                        nursery.start_soon(self._ask, host, stack)

    async def _ask(self, host: HostId, stack: Stack) -> None:
        try:
            usage = await stack.prompt.usage()
        except MegaFSError as error:
            log.info("a host does not say how much space it has: %s", error)
            return
        self.free[host] = usage.free_bytes
        if usage.used_bytes is not None:
            self.used[host] = usage.used_bytes

    def total_and_free(self, stored: int) -> tuple[int, int]:
        """For statfs, in bytes of content: as much is free as every one of the hosts that a pack needs can take."""
        unknown = 1 << 50
        active = [spec.id for spec in self._vault.hosts() if spec.state == "active"]
        free = sorted((self.free.get(host) or unknown for host in active), reverse=True)
        policy = self._vault.policy()
        available = free[min(policy.places, len(free)) - 1] * (policy.k or 1) if free else 0
        return stored + available, available


class Engine:
    """Every part, wired. Nothing here runs; whoever owns a nursery starts the loops."""

    def __init__(
        self,
        paths: VaultPaths,
        device: Device,
        database: Database,
        settings: Settings,
        options: MountOptions,
        stacks: dict[HostId, Stack],
        disk: Disk | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``database`` is open and adopted by the device. Blocks for a few file operations."""
        self.paths, self.device, self.database, self.stacks = paths, device, database, stacks
        self.vault, self.packs, self.ledger = Vault(database), Packs(database), Ledger(database.connection)
        self.inodes, self.extents = Inodes(database), Extents(database)
        self.alarms, self.care = Alarms(database.connection), Care(database.connection)
        self.disk = disk or Disk(paths.packs)
        database.sync_wal()  # after a kill it may hold commits that no disk has yet: resume removes files on their word
        self.writer = PackWriter(
            self.disk,
            device.keyring,
            self.packs,
            compress=settings.compression and not settings.coarse_sizes,
            coarse=settings.coarse_sizes,
        )
        self.writer.resume()
        limit = options.cache_bytes or settings.cache_bytes or default_limit(self.disk.free_bytes())
        self.settings = replace(settings, cache_bytes=limit)
        self.waits_for_hosts = durability_hosts(settings.durability)  # how many fsync waits for; 0: for none
        self.cache = Cache(self.disk, self.packs, self.writer, limit)
        self.fetcher = HostFetcher(device.keyring, self.packs, stacks, limit_s=settings.read_patience_s)
        self.reader = Reader(
            self.disk, device.keyring, self.packs, self.fetcher, cache_bytes=settings.chunk_cache_bytes
        )
        self.content = Content(
            self.extents,
            self.inodes,
            self.writer,
            self.reader,
            dirty_bytes=max(MIB, settings.dirty_bytes),
            admit=self.cache.admit,
        )
        self.xattrs = Xattrs(self.inodes)
        self.names = Namespace(self.inodes, self.xattrs, self.content, clock_ns)
        newest_pack = max(self.packs.newest(), self.writer.newest_pack)
        self.commits = Committer(
            database, self.content, self.writer, interval_s=settings.commit_s, newest_pack=newest_pack
        )
        self.content.on_change = self.commits.note_change
        self.reader.on_fetched = self.cache.wake
        self.cache.durable_now = self.commits.durable_now
        self.space, self.takeover = Space(self.vault, stacks, self.packs, self.care), Takeover()
        self.landscape = Landscape(states=self.space.states, policy=self.vault.policy, under_way=self.space.under_way)
        self.keeping = Keeping(self, lost=lambda: self.takeover.tell(), clock=clock)
        self.keeper = Keeper(database, self.disk, self.reader, limit_bytes=lambda: self.cache.limit_bytes)
        self.cache.pinned, self.cache.thin = self.keeper.kept, self.shipper.packing.thin
        self.states = States(database, self.content, self.packs, self.disk, self.keeping.reach, self.landscape)

    @property
    def shipper(self) -> Shipper:
        return self.keeping.shipper

    def loops(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """All that a mount runs beside its requests; each until it is cancelled."""
        own = (self.commits.run, self.content.run, self.cache.run, self.keeper.run)
        return [*own, self._ask_usage, self.fetcher.notices.run, *self.keeping.loops()]

    def note_durable(self) -> None:
        """What the committer tells once something is."""
        self.keeping.wake()
        self.cache.wake()

    async def _ask_usage(self) -> None:
        moves = self.shipper.moves
        while True:
            seen = moves.count
            await self.space.ask()
            await moves.beyond(seen)
            await trio.sleep(USAGE_EVERY_S)

    async def durable(self) -> None:
        """What fsync waits for, as the settings say. Raises Incomplete if hosts stay away too long."""
        if self.waits_for_hosts:
            await self.keeping.reach.until_on(self.waits_for_hosts, self.settings.host_patience_s)
        else:
            await self.commits.durable_now()

    def close(self) -> None:
        """After the last commit."""
        self.reader.cache.clear()
        self.disk.close()
        self.database.close()
