"""What the CLI may ask of a running daemon: status, hosts, sync, check."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import trio

from megafs.control.hostmessages import HostReport, Hosts
from megafs.control.messages import Message, Progress, Request, Status, Synced
from megafs.control.server import Handler
from megafs.daemon import alarmcalls
from megafs.daemon.check import beside
from megafs.daemon.cure import told
from megafs.daemon.devices import listed
from megafs.daemon.engine import Engine
from megafs.daemon.keeping import deep_epoch, minute_of_day
from megafs.daemon.unshipped import unshipped
from megafs.errors import DiskError
from megafs.fuse.operations import Operations
from megafs.hours import opens
from megafs.index.database import SICK
from megafs.index.packs import live_before, thin_bytes
from megafs.model import HostId, HostSpec
from megafs.placement import obstacle
from megafs.sync.reach import promise_broken

COUNT_FREE_S = 0.5  # counting that is this quick is done for each status
COUNT_SHARE = 20  # what is slower takes at most one part of so many of the time


class Calls:
    """The handlers of one mount."""

    def __init__(
        self,
        engine: Engine,
        mountpoint: Path,
        operations: Operations,
        take_pages: Callable[[Engine], Awaitable[None]],
    ) -> None:
        """``take_pages``: have the kernel hand over what programs wrote into open files."""
        self._engine, self._operations, self._take_pages = engine, operations, take_pages
        self._mounted = Status(vault=engine.paths.root.name, mountpoint=str(mountpoint))
        self._totals, self._count_again_at = (0, 0, 0, 0), 0.0

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "status": self.status,
            "hosts": self.hosts,
            "devices": self.devices,
            "unshipped": lambda request: unshipped(self._engine, request.page),
            "sync": self.sync,
            "check": self.check,
        }

    def _reports(self) -> tuple[HostReport, ...]:
        """Of every host, in the order of their labels."""
        policy, engine = self._engine.vault.policy(), self._engine
        return tuple(self._report(seen.spec, obstacle(seen, policy) == "full") for seen in engine.space.states())

    def _report(self, spec: HostSpec, is_full: bool) -> HostReport:
        """``is_full``: gets no new packs for want of room, by its word, by a refusal or by its owner's limit."""
        engine = self._engine
        stack = engine.stacks.get(spec.id)
        measured = stack.measured if stack is not None else None
        absence, scrubbed = engine.care.absences().get(spec.id), engine.care.scrubbed(spec.id)
        if measured is None or spec.state != "active":
            state = spec.state
        elif absence is not None and absence.written_off:
            state = "written off"
        elif measured.answers:
            state = "full" if is_full else "ok"
        else:
            state = "refused" if measured.refusing else "unreachable"
        packs, stored = engine.packs.on_host(spec.id)
        free = engine.space.free.get(spec.id)
        now_s = time.time()
        told = measured is not None and bool(measured.last_error)
        return HostReport(
            label=spec.label,
            url=spec.url,
            state=state,
            stored_bytes=stored,
            retained_bytes=engine.packs.retained_on(spec.id),
            free_bytes=-1 if free is None else free,
            objects=packs,
            newest_commit=engine.ledger.host_head(spec.id, engine.device.number),
            operator=spec.operator,
            region=spec.region,
            price_storage=f"{spec.price_storage:g}",
            price_egress=f"{spec.price_egress:g}",
            limit_bytes=spec.limit_bytes,
            append_only=spec.append_only,
            latency_ms=int(measured.latency_s * 1000) if measured else 0,
            last_error=measured.last_error if measured else "",
            last_error_s=int(now_s - trio.current_time() + measured.last_error_at) if measured and told else 0,
            is_over=measured is not None and told and measured.answers,
            asks_again_s=int(now_s + measured.paused_s) if measured and measured.paused_s else 0,
            away_since_s=absence.since_s if absence is not None and state not in ("ok", "full") else 0,
            scrubbed_s=scrubbed.last_s,
            scrub_checked=scrubbed.checked,
            scrub_bad=scrubbed.bad,
            scrub_repaired=scrubbed.repaired,
        )

    async def status(self, request: Request) -> AsyncGenerator[Message, None]:
        """A large vault is not counted anew each time: a million files take most of a second."""
        engine = self._engine
        began_s = trio.current_time()

        def totals(deep: int, places: int, not_counted: Collection[HostId]) -> tuple[int, int, int, int]:
            with engine.database.snapshot() as connection:
                row = connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM inode WHERE nlink > 0").get
                left = live_before(connection, deep) if deep else 0
                return int(row[0]), int(row[1]), left, thin_bytes(connection, places, not_counted)

        try:
            if began_s >= self._count_again_at:
                asked = deep_epoch(engine.database), engine.vault.policy().places, engine.landscape.not_counted()
                self._totals = await trio.to_thread.run_sync(totals, *asked)
                took_s = trio.current_time() - began_s
                self._count_again_at = began_s + (COUNT_SHARE * took_s if took_s > COUNT_FREE_S else 0.0)
            status = self._asked(*self._totals)
        except (DiskError, *SICK) as error:
            why = str(self._operations.refusal() or await told(engine.paths, error))
            yield replace(self._mounted, read_only=why, unknown=True)
            return
        yield status

    def _asked(self, files: int, size: int, reseal_left: int, thin: int) -> Status:
        engine = self._engine
        level = engine.cache.level()
        left, policy = engine.shipper.backlog(), engine.vault.policy()
        return replace(
            self._mounted,
            read_only=str(self._operations.refusal() or engine.cache.refusing),
            files=files,
            bytes=size,
            copies=0 if policy.k else policy.copies,
            k=policy.k,
            m=policy.m,
            unshipped_bytes=level.unshipped + engine.content.unsealed_bytes,
            unshipped_commits=left.commits,
            thin_bytes=thin,
            fsync_fails=promise_broken(engine.waits_for_hosts, policy, engine.vault.hosts()),
            newest_commit=engine.shipper.stream.position.next_seq - 1,
            cache_bytes=level.local,
            cache_limit_bytes=level.limit,
            epoch=engine.device.keyring.epoch,
            reseal_left_bytes=reseal_left,
            pinned_bytes=engine.keeper.wanted_bytes,
            pinned_here_bytes=engine.keeper.here_bytes,
            offline=engine.fetcher.is_offline,
            chunks_healed=engine.reader.healed,
            hosts=self._reports(),
            phrase=alarmcalls.phrase(engine),
            alarms=alarmcalls.still_open(engine),
            background_from=opens(engine.settings.background_hours, minute_of_day()),
            shipping_from=opens(engine.settings.ship_hours, minute_of_day()),
        )

    async def hosts(self, request: Request) -> AsyncGenerator[Message, None]:
        await self._engine.space.ask_again()
        await self._engine.space.ask()  # of one that does not answer the report says so
        yield Hosts(hosts=self._reports())

    async def devices(self, request: Request) -> AsyncGenerator[Message, None]:
        engine = self._engine
        yield listed(engine.database, engine.device, is_writing=not engine.shipper.claims.is_lost)

    async def sync(self, request: Request) -> AsyncGenerator[Message, None]:
        engine = self._engine
        await self._take_pages(engine)
        if request.local:
            await engine.commits.durable_now()
            yield Synced(bytes=0, newest_commit=engine.shipper.stream.position.next_seq - 1)
            return
        await engine.space.ask_again()
        total = engine.cache.level().unshipped + engine.content.unsealed_bytes
        async for left in engine.shipper.until_shipped(engine.settings.host_patience_s):
            waiting = {host for host, count in left.lacking.items() if count} | set(left.owed)
            yield Progress(
                done_bytes=max(0, total - engine.cache.level().unshipped),
                total_bytes=total,
                waiting_for=tuple(spec.label for spec in engine.vault.hosts() if spec.id in waiting),
            )
        yield Synced(bytes=total, newest_commit=engine.shipper.stream.position.next_seq - 1)

    async def check(self, request: Request) -> AsyncGenerator[Message, None]:
        await self._engine.space.ask_again()
        async with aclosing(beside(self._engine, full=request.full, repair=request.repair)) as messages:
            async for told in messages:
                yield told
