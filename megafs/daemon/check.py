"""``megafs check`` put together: beside a mount with the engine's parts, or alone on a vault that is not mounted."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial

import trio

from megafs.config import VaultPaths, settings_from
from megafs.control.messages import Checked, Message, Progress
from megafs.crypto.opened import Opened
from megafs.daemon import secrets
from megafs.daemon.cure import cure_named
from megafs.daemon.device import Device, locked
from megafs.daemon.engine import Engine
from megafs.daemon.epochs import open_index
from megafs.daemon.hosts import Opener, connected
from megafs.daemon.unshipped import pages
from megafs.index.care import Care
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.packs import Packs
from megafs.index.vault import Vault
from megafs.model import HostId, Pack
from megafs.store.disk import Disk
from megafs.store.fetcher import HostFetcher
from megafs.store.reader import Reader
from megafs.sync.check import Checker
from megafs.sync.objects import Objects

SHOW_EVERY_S = 1.0


async def beside(engine: Engine, *, full: bool, repair: bool) -> AsyncGenerator[Message, None]:
    """Of a vault that is mounted. What is accepted and not yet committed is not looked at."""

    def lost_copy(pack: Pack, host: HostId, shard: int) -> None:
        engine.keeping.repairer.note_damage(pack, host)

    checker = Checker(
        root=engine.paths.root,
        database=engine.database,
        packs=engine.packs,
        extents=engine.extents,
        disk=engine.disk,
        reader=engine.reader,
        objects=Objects(engine.device.keyring, {host: stack.prompt for host, stack in engine.stacks.items()}),
        labels={spec.id: spec.label for spec in engine.vault.hosts()},
        durable_now=engine.commits.durable_now,
        lost_copy=lost_copy,
        full=full,
        repair=repair,
    )
    async for told in answered(checker):
        yield told


async def answered(checker: Checker) -> AsyncIterator[Message]:
    """Progress now and then, then which files are harmed, and the result."""
    shown = trio.current_time()
    async for done, total in checker.run():
        if trio.current_time() - shown >= SHOW_EVERY_S:
            shown = trio.current_time()
            yield Progress(done_bytes=done, total_bytes=total, waiting_for=tuple(checker.counts.silent))
    for page in pages(await checker.harmed_paths(), len):
        yield Progress(done_bytes=0, total_bytes=0, paths=tuple(page))
    yield Checked(
        chunks=checker.counts.chunks,
        copies=checker.counts.copies,
        silent=tuple(checker.counts.silent),
        findings=tuple(checker.findings),
    )


def check_vault(
    paths: VaultPaths, *, opened: Opened, full: bool, repair: bool, show: Callable[[Progress], None]
) -> Checked:
    """Of a vault that is not mounted. Blocks. Raises Busy if it is, Corrupt if the index cannot even be opened."""
    device = Device.of(opened)
    with locked(paths), cure_named(paths):
        database = open_index(paths, device)
        if not repair:
            database.leave_wal()
        database.adopt(device.number)
        try:
            return trio.run(_alone, paths, device, database, full, repair, show)
        finally:
            database.close()


async def _alone(
    paths: VaultPaths,
    device: Device,
    database: Database,
    full: bool,
    repair: bool,
    show: Callable[[Progress], None],
) -> Checked:
    settings = settings_from(paths.settings.read_text())
    packs, vault, care, disk = Packs(database), Vault(database), Care(database.connection), Disk(paths.packs)

    async def durable_now() -> None:
        database.commit(packs.newest())
        await trio.to_thread.run_sync(database.sync_wal)

    def lost_copy(pack: Pack, host: HostId, shard: int) -> None:
        """The next mount makes it anew."""
        care.note_damaged(pack.number, host, int(time.time()))

    result: Checked | None = None
    async with connected(vault.hosts(), Opener(settings, partial(secrets.read, paths, device.keyring))) as stacks:
        fetcher = HostFetcher(device.keyring, packs, stacks, limit_s=settings.host_reply_s)
        checker = Checker(
            root=paths.root,
            database=database,
            packs=packs,
            extents=Extents(database),
            disk=disk,
            reader=Reader(disk, device.keyring, packs, fetcher, cache_bytes=settings.chunk_cache_bytes),
            objects=Objects(device.keyring, {host: stack.prompt for host, stack in stacks.items()}),
            labels={spec.id: spec.label for spec in vault.hosts()},
            durable_now=durable_now,
            lost_copy=lost_copy,
            full=full,
            repair=repair,
        )
        async for told in answered(checker):
            if isinstance(told, Progress):
                show(told)
            elif isinstance(told, Checked):
                result = told
    disk.close()
    assert result is not None, "the last message of answered()"
    return result
