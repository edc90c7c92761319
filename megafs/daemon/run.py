"""One mount from beginning to ordered end. Whatever ends it (umount, SIGTERM, SIGINT, a failed loop), the order is the
same: the kernel hands over its dirty pages, the mount goes, the last commit is made, the hosts' connections close.
"""

import gc
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from megafs import process
from megafs.config import MountOptions, Settings, VaultPaths, durability_hosts, settings_from
from megafs.control.messages import Done, Message, Request
from megafs.control.server import Handler, serving
from megafs.crypto.opened import Opened
from megafs.daemon import anew, memory, screen, secrets
from megafs.daemon.alarmcalls import AlarmCalls
from megafs.daemon.calls import Calls
from megafs.daemon.catchup import LOOK_S, catch_up
from megafs.daemon.cure import cure_named, first, telling
from megafs.daemon.device import Device, locked
from megafs.daemon.engine import Engine
from megafs.daemon.epochs import open_index, settle
from megafs.daemon.hostcalls import HostCalls
from megafs.daemon.hosts import Opener, connected
from megafs.daemon.locking import Locking
from megafs.daemon.mountoptions import limited, mount_options
from megafs.daemon.pincalls import PinCalls
from megafs.daemon.recoverycalls import RecoveryCalls
from megafs.daemon.rescue import Rescue
from megafs.daemon.scrubcalls import ScrubCalls
from megafs.daemon.sweep import sweep
from megafs.errors import (
    DiskError,
    HostError,
    MegaFSError,
    NotMounted,
    ReadOnly,
    Unavailable,
    Usage,
    WrongKey,
)
from megafs.fuse import loop
from megafs.fuse.operations import Operations
from megafs.fuse.readahead import raise_read_ahead
from megafs.hosts import Stack
from megafs.index.database import PAGE_CACHE_KIB, SICK
from megafs.index.hints import read_soon
from megafs.index.vault import Vault
from megafs.model import ROOT_INO, HostId
from megafs.sync.reach import promise_broken
from megafs.sync.states import STATE

log = logging.getLogger(__name__)

SICK_S = 1.0  # before a loop goes on that met a sick disk
READERS = 8  # tasks of pyfuse3 kept ready; starting one costs a request 10 µs (fuse.loop)
ROOM_S = 1.0  # statfs may say what was a moment ago: all packs and hosts are looked at for it
SWITCH_S = 0.0005  # a request never waits longer for a thread that computes in Python (fuse.loop); the default is 5 ms
LOST = "the index failed, and it is not known which changes are lost: unmount and mount again"
# Nearly nothing here is in a cycle; at 700 objects, as by default, collecting takes 2 % of an untar.
GC_THRESHOLDS = (20_000, 20, 20)


def run(
    paths: VaultPaths, *, opened: Opened, mountpoint: Path, options: MountOptions, ready: Callable[[], None]
) -> None:
    """Mount and serve until unmounted. ``ready`` is called once the mount answers. Raises MegaFSError."""
    process.harden()
    memory.keep_apart()
    device = Device.of(opened)
    opened.forget()
    with locked(paths), cure_named(paths):
        secrets.seal_up(paths, device.keyring)
        settings = limited(settings_from(paths.settings.read_text()), options)
        opener = Opener(settings, partial(secrets.read, paths, device.keyring))
        read_soon(paths.index, PAGE_CACHE_KIB * 1024)
        database = open_index(paths, device)
        database.adopt(device.number)
        hosts, policy, specs = durability_hosts(settings.durability), Vault(database).policy(), Vault(database).hosts()
        if broken := promise_broken(hosts, policy, specs):
            database.close()
            raise Usage(f"{broken}: ask for fewer, with --durability or in vault.toml, or add a host")

        async def serve() -> None:
            async with connected(Vault(database).hosts(), opener) as stacks:
                await catch_up(paths, database, device, stacks)
                settle(database, device)
                session = Session(
                    Engine(paths, device, database, settings, options, stacks), mountpoint, options, opener
                )
                try:
                    await session.run(ready)
                finally:
                    session.close()

        trio.run(serve)


class Session:
    """Owner of the mount and of the nursery that everything runs in."""

    def __init__(self, engine: Engine, mountpoint: Path, options: MountOptions, opener: Opener) -> None:
        self.engine, self.mountpoint, self.options = engine, mountpoint, options
        self._former: Engine | None = None  # requests that began before the index failed may still read through it
        self._opener, self._paths = opener, engine.paths
        self._calls: dict[str, Handler] = {}
        self._answering = trio.Event()
        self.operations = Operations(
            engine.names,
            engine.content,
            engine.xattrs,
            engine.commits,
            timeout_s=engine.settings.entry_timeout_s,
            space=self._space,
        )
        self._room, self._room_until_s = (0, 0), 0.0
        self.locking = Locking(engine.paths.root.name, mountpoint, self.operations)
        if options.read_only:
            self.operations.read_only = "mounted read-only"
        engine.takeover.tell = self._taken_over
        self.operations.virtual = {STATE: lambda ino: self.engine.states.of(ino)}
        self.operations.durable = self._durable
        self.operations.gate.promises_hosts = bool(engine.waits_for_hosts)

    async def _durable(self) -> None:
        if self.engine.waits_for_hosts:
            await self.operations.gate.while_open(self.engine.durable)
        else:
            await self.engine.durable()

    def _tell_anew(self) -> None:
        """Hosts answer again: the next time that they do not is worth another line in the log."""
        self.operations.last_failure = ""

    def _taken_over(self) -> None:
        """Say so, and what of ours the winner did not have: whoever attaches may have seen only hosts that lagged."""
        claims, newest = self.engine.shipper.claims, self.engine.shipper.stream.position.next_seq - 1
        reason = claims.read_only_reason
        base = claims.lost_to.claim.base if claims.lost_to is not None else None
        if base is not None and base.device == self.engine.device.number and base.seq < newest:
            reason += (
                f"; commits {base.seq + 1} to {newest} of this device are not in the vault any more, copy them too"
            )
        self.operations.read_only = reason

    def _space(self) -> tuple[int, int]:
        if self.engine.cache.refusing:
            return self.engine.packs.stored_bytes(), 0
        if trio.current_time() >= self._room_until_s:
            self._room = self.engine.space.total_and_free(self.engine.packs.stored_bytes())
            self._room_until_s = trio.current_time() + ROOM_S
        return self._room

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until unmounted; then commit for the last time."""
        name, settings = self._paths.root.name, self.engine.settings
        purged = self.engine.names.purge_left_over()
        log.info("mounting %s; %d unlinked inodes of the last time purged", name, purged)
        await self._look_for_claims()
        self._space(), self.engine.names.row(ROOT_INO)  # what the kernel asks first: a mount that fails there is none
        self._mount()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._live)
                nursery.start_soon(self._answer)
                nursery.start_soon(self._obey_signals)
                nursery.start_soon(self._tell_when_ready, ready)
                nursery.start_soon(self._lock_when_asked, settings)
                await pyfuse3.main(min_tasks=READERS)
                if not self.locking.is_locked:
                    await self._last_commit()
                nursery.cancel_scope.cancel()
        finally:
            pyfuse3.close(unmount=True)
            loop.uninstall()
        log.info("unmounted %s", name)

    async def _live(self) -> None:
        """The loops, and once more with another engine after a lock, or when the index failed and can be read again."""
        while True:
            known = await self._end_of_life(self.engine)
            if known is None:
                await self._be_locked()
                continue
            former, self.engine = self.engine, await anew.begin(self.engine, known, self.operations, self._anew)
            if self._former is not None:
                self._former.close()
            self._former = former
            self._calls.update(self._handlers())

    async def _end_of_life(self, engine: Engine) -> anew.Known | None:
        """The loops until they have to end: because the index failed, or for a lock (None)."""
        known: anew.Known | None = None

        async def end_if_it_fails(scope: trio.CancelScope) -> None:
            nonlocal known
            await engine.commits.given_up.wait()
            await anew.until_well(engine)
            known = anew.before(engine)
            if known is None:
                self.operations.read_only = LOST
                await trio.sleep_forever()
            scope.cancel()

        async with trio.open_nursery() as nursery:
            for loop_forever in engine.loops():
                nursery.start_soon(self._outliving, loop_forever)
            engine.fetcher.on_answer = self._tell_anew
            if not self.options.read_only:
                nursery.start_soon(self._outliving, Rescue(engine).run)
            engine.commits.on_durable = engine.note_durable
            nursery.start_soon(end_if_it_fails, nursery.cancel_scope)
            await self.locking.ending.wait()
            nursery.cancel_scope.cancel()
        return known

    async def _be_locked(self) -> None:
        """Without keys until somebody brings them."""
        locking, engine = self.locking, self.engine
        await locking.calls_ended()
        self._calls.update(dict.fromkeys(self._calls, locking.refuse))
        self._calls.update({"status": locking.status, "lock": self._lock, "unlock": locking.unlock})
        self.operations.drop()
        who, settings, stacks = engine.device.id, engine.settings, engine.stacks
        self.close()
        del self.engine
        keys = engine.device.keys()
        engine.device.forget()
        del engine
        gc.unfreeze()
        gc.collect()
        try:
            await trio.to_thread.run_sync(sweep, keys, keys[-1:])  # SQLite takes its key in hex
        except OSError as error:
            log.warning("copies of keys that libraries made may be left in memory: %s", error.strerror)

        def takes(opened: Opened) -> MegaFSError | None:
            device = Device.of(opened)
            if device.id != who:
                return WrongKey("this opens another device's slot file")
            try:
                self.engine = self._made(device, settings, stacks, 0)
            except (MegaFSError, *SICK) as error:
                return error if isinstance(error, MegaFSError) else DiskError(f"the index cannot be read: {error}")
            engine = self.engine
            self._opener.secrets = partial(secrets.read, self._paths, device.keyring)
            self.operations.begin_anew(engine.names, engine.content, engine.xattrs, engine.commits)
            self._calls.update(self._handlers())
            return None

        await locking.wait_for_key(takes)

    async def _lock(self, request: Request) -> AsyncGenerator[Message, None]:
        if not self.locking.is_locked:
            await self.locking.lock(self.engine)
        yield Done(sentences=("It is locked: megafs unlock opens it.",))

    async def _lock_when_asked(self, settings: Settings) -> None:
        """After idle time, and with the screen."""
        async with trio.open_nursery() as nursery:

            async def lock() -> None:
                try:
                    if not self.locking.is_locked:
                        await self.locking.lock(self.engine)
                except MegaFSError as error:
                    log.warning("not locked: %s", error)

            def ask() -> None:
                nursery.start_soon(lock)

            if settings.lock_idle_s:
                nursery.start_soon(self.locking.watch_idle, settings.lock_idle_s, ask)
            if settings.lock_with_screen:
                nursery.start_soon(screen.watch, ask)

    async def _answer(self) -> None:
        """The CLI's calls; through whichever engine there is."""
        self._calls.update(self._handlers())
        async with serving(self._paths.root, self._calls, ended=lambda: self.locking.ending):
            self._answering.set()
            await trio.sleep_forever()

    def _anew(self, former: Engine, given_out: int) -> Engine:
        return self._made(former.device, former.settings, former.stacks, given_out)

    def _made(self, device: Device, settings: Settings, stacks: dict[HostId, Stack], given_out: int) -> Engine:
        """Another engine under the same mount."""
        database = open_index(self._paths, device)
        try:
            database.adopt(device.number, given_out)
            engine = Engine(self._paths, device, database, settings, self.options, stacks)
        except BaseException:
            database.close()  # it holds the lock of who writes
            raise
        engine.takeover.tell = self._taken_over
        return engine

    def close(self) -> None:
        """After the mount has gone, or for a lock."""
        for engine in (self._former, getattr(self, "engine", None)):
            if engine is not None:
                engine.close()
        self._former = None

    async def _outliving(self, loop_forever: Callable[[], Awaitable[None]]) -> None:
        """A loop that met an index which its disk does not give: the mount stays, to be read, and says why."""
        while True:
            try:
                await loop_forever()
            except* DiskError as group:
                log.warning("a loop goes on in a second: %s", group.exceptions[0])
            except* SICK as group:
                self.engine.commits.give_up(first(group))
            await trio.sleep(SICK_S)

    def _mount(self) -> None:
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        loop.install()
        wanted = mount_options(self._paths.root, self.options)
        try:
            pyfuse3.init(self.operations, str(self.mountpoint), wanted)
        except RuntimeError as error:
            raise NotMounted(f"the kernel did not mount on {self.mountpoint}: {error}; see megafs doctor") from error

    def _handlers(self) -> Mapping[str, Handler]:
        calls = Calls(self.engine, self.mountpoint, self.operations, self.locking.take_pages)
        hosts = HostCalls(self.engine, self._opener)
        more = (AlarmCalls(self.engine), RecoveryCalls(self.engine), PinCalls(self.engine), ScrubCalls(self.engine))
        working = {name: handler for part in (calls, hosts, *more) for name, handler in part.handlers().items()}
        return {
            **{name: self.locking.counted(telling(self._paths, handler)) for name, handler in working.items()},
            "lock": self._lock,
            "unlock": self.locking.unlock,
        }

    async def _look_for_claims(self) -> None:
        """Before anything is accepted, if the hosts answer soon; shipping looks again in any case."""
        claims = self.engine.shipper.claims
        with trio.move_on_after(LOOK_S), suppress(ReadOnly):
            try:
                await claims.look()
            except (HostError, Unavailable) as error:
                log.info("no host says whether another device writes: %s", error)
        if claims.is_lost:  # one host's word is enough, whatever the others are waited for
            log.warning("%s", claims.read_only_reason)
            self._taken_over()

    async def _tell_when_ready(self, ready: Callable[[], None]) -> None:
        await self._answering.wait()
        # In a thread: it asks the mount, and we are the ones who answer.
        await trio.to_thread.run_sync(raise_read_ahead, self.mountpoint)
        ready()

    async def _obey_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                log.info("ending on %s", signal.Signals(number).name)
                await self._unmount()

    async def _unmount(self) -> None:
        """As the user's umount does; if files are open, the mount goes all the same, after the kernel gave its
        pages."""
        if self.locking.is_locked:
            self.operations.gate.end()
        else:
            self.operations.gate.hasten()
            await self.locking.take_pages(self.engine)
        helper = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        command = [*helper, "--", str(self.mountpoint)]
        ended = await trio.to_thread.run_sync(partial(subprocess.run, command, check=False, capture_output=True))
        if ended.returncode:
            pyfuse3.terminate()

    async def _last_commit(self) -> None:
        engine = self.engine
        for ino in list(engine.names.unlinked):
            engine.names.purge(ino)
        await engine.commits.durable_now()
