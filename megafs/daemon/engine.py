"""One vault at work, without a mount: every part, wired. Used by run (with a mount), attach and the tests."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from megafs.config import MIB, MountOptions, Settings, VaultPaths
from megafs.daemon import keeping
from megafs.daemon.device import Device
from megafs.daemon.keeping import Keeping
from megafs.files.commit import Committer
from megafs.files.content import Content
from megafs.files.namespace import Namespace
from megafs.files.xattrs import Xattrs
from megafs.hosts import Stack
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.index.ledger import Ledger
from megafs.index.packs import Packs
from megafs.index.vault import Vault
from megafs.model import HostId, HostState
from megafs.store.cache import Cache, default_limit
from megafs.store.disk import Disk
from megafs.store.fetcher import HostFetcher
from megafs.store.reader import Reader
from megafs.store.writer import PackWriter
from megafs.sync.packing import Landscape
from megafs.sync.ship import Shipper

CLOCK_REALTIME_COARSE = 5  # clock_gettime(2); the time module has no name for it


def clock_ns() -> int:
    """The clock that the kernel stamps files with, so that times of both sides compare."""
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


class Takeover:
    """Who is told when another device has taken the vault over; set by the mount."""

    def __init__(self) -> None:
        self.tell: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The parts. Nothing here runs; whoever owns a nursery starts the loops."""

    paths: VaultPaths
    settings: Settings
    device: Device
    database: Database
    vault: Vault
    packs: Packs
    ledger: Ledger
    disk: Disk
    writer: PackWriter
    cache: Cache
    fetcher: HostFetcher
    reader: Reader
    content: Content
    xattrs: Xattrs
    names: Namespace
    commits: Committer
    stacks: Mapping[HostId, Stack]
    keeping: Keeping
    space: "Space"
    takeover: Takeover

    @property
    def shipper(self) -> Shipper:
        return self.keeping.shipper

    def close(self) -> None:
        """After the last commit."""
        self.reader.cache.clear()
        self.disk.close()
        self.database.close()


class Space:
    """What hosts say they have free, as statfs and placement need it. Owner of the last answers."""

    def __init__(self, vault: Vault, stacks: Mapping[HostId, Stack]) -> None:
        self._vault, self._stacks = vault, stacks
        self.free: dict[HostId, int | None] = {}
        self.used: dict[HostId, int] = {}

    def states(self) -> list[HostState]:
        """Every host as placement sees it now."""
        states = []
        for spec in self._vault.hosts():
            stack = self._stacks.get(spec.id)
            states.append(
                HostState(
                    spec=spec,
                    healthy=stack is not None and stack.measured.healthy,
                    full=stack is not None and stack.measured.full,
                    used_bytes=self.used.get(spec.id, 0),
                    free_bytes=self.free.get(spec.id),
                    latency_s=stack.measured.latency_s if stack is not None else 0.0,
                )
            )
        return states

    def total_and_free(self, stored: int) -> tuple[int, int]:
        """For statfs, in bytes of content: as much is free as every one of the hosts that a pack needs can take."""
        unknown = 1 << 50
        free = sorted((self.free.get(host) or unknown for host in self._stacks), reverse=True)
        places = self._vault.policy().places
        available = free[min(places, len(free)) - 1] if free else 0
        return stored + available, available


def build(
    paths: VaultPaths,
    device: Device,
    database: Database,
    settings: Settings,
    options: MountOptions,
    stacks: Mapping[HostId, Stack],
    disk: Disk | None = None,
) -> Engine:
    """Wire everything. ``database`` is open and adopted by the device. Blocks for a few file operations."""
    vault, packs, ledger = Vault(database), Packs(database), Ledger(database.connection)
    inodes, extents = Inodes(database), Extents(database)
    disk = disk or Disk(paths.packs)
    database.sync_wal()  # after a kill it may hold commits that no disk has yet: resume removes files on their word
    writer = PackWriter(disk, device.keyring, packs, compress=settings.compression)
    writer.resume()
    limit = options.cache_bytes or settings.cache_bytes or default_limit(disk.free_bytes())
    cache = Cache(disk, packs, writer, limit)
    fetcher = HostFetcher(device.keyring, packs, stacks, limit_s=settings.host_reply_s)
    reader = Reader(disk, device.keyring, packs, fetcher, cache_bytes=settings.chunk_cache_bytes)
    content = Content(extents, inodes, writer, reader, dirty_bytes=max(MIB, settings.dirty_bytes), admit=cache.admit)
    xattrs = Xattrs(inodes)
    names = Namespace(inodes, xattrs, content, clock_ns)
    newest_pack = max(packs.newest(), writer.newest_pack)
    commits = Committer(database, content, writer, interval_s=settings.commit_s, newest_pack=newest_pack)
    cache.durable_now = commits.durable_now
    space, takeover = Space(vault, stacks), Takeover()
    parts = keeping.Parts(
        device=device,
        database=database,
        settings=settings,
        stacks=stacks,
        commits=commits,
        writer=writer,
        reader=reader,
        fetcher=fetcher,
        disk=disk,
        extents=extents,
        inodes=inodes,
        landscape=Landscape(states=space.states, policy=vault.policy),
    )
    return Engine(
        paths=paths,
        settings=replace(settings, cache_bytes=limit),
        device=device,
        database=database,
        vault=vault,
        packs=packs,
        ledger=ledger,
        disk=disk,
        writer=writer,
        cache=cache,
        fetcher=fetcher,
        reader=reader,
        content=content,
        xattrs=xattrs,
        names=names,
        commits=commits,
        stacks=stacks,
        keeping=keeping.build(parts, lambda: takeover.tell()),
        space=space,
        takeover=takeover,
    )
