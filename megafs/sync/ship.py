"""The shipping loop: packs, then the commits that name them, then heads; and "wait until all of it is there".

In: what the committer made durable, what the writer has filled. Out: objects on hosts, in that order. One task decides
and freezes (pace says when, stream what); packs and lanes carry out. Nothing here runs inside a FUSE request.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from megafs.crypto.keys import STEP_IDENT
from megafs.errors import Incomplete, Locked, MegaFSError
from megafs.index.alarms import Alarms
from megafs.index.ledger import Ledger
from megafs.model import HostId, Kind, PackNumber
from megafs.sync import pace
from megafs.sync.claims import Claims
from megafs.sync.lanes import Lanes
from megafs.sync.moves import Moves
from megafs.sync.objects import Objects
from megafs.sync.packing import Landscape, PackShipper
from megafs.sync.statements import Step, step_hash
from megafs.sync.stream import Stream

log = logging.getLogger(__name__)

OPEN_PACK_TICK_S = 1.0  # how often the age of an open pack is looked at
RETRY_S = 5.0  # after the local disk refused


class Commits(Protocol):
    """What makes the index durable (files.commit.Committer)."""

    durable: int

    async def durable_now(self) -> None:
        """Return when everything accepted and every index row written before this call is durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is not yet where it should be."""

    packs: int
    commits: int  # outbox rows in no commit object
    lacking: dict[HostId, int]  # objects per host
    owed: dict[HostId, int]  # packs per host
    thin: int = 0  # packs on fewer hosts than the policy wants; counted once nothing else is left: many are many rows

    @property
    def is_empty(self) -> bool:
        per_host = [*self.lacking.values(), *self.owed.values()]
        return not (self.packs or self.commits or self.thin or any(per_host))


@dataclass(slots=True, kw_only=True)
class Wait:
    """Somebody waits until ``done``; owner: until_shipped."""

    look: Callable[[], Backlog]
    done: Callable[[Backlog], bool]
    patience_s: float
    before: Backlog | None = None
    deadline: float = 0.0


class Shipper:
    """Owner of the loop, of the boundary of a checkpoint in the making, and of commits without a head."""

    def __init__(
        self,
        *,
        objects: Objects,
        ledger: Ledger,
        alarms: Alarms,
        stream: Stream,
        claims: Claims,
        packing: PackShipper,
        commits: Commits,
        landscape: Landscape,
        clock: Callable[[], float],
        lost: Callable[[], None] = lambda: None,
        may_ship: Callable[[], bool] = lambda: True,
    ) -> None:
        """``lost`` is called once another device has taken the vault over; ``may_ship`` says whether this is an hour
        for shipping, if nobody waits for it."""
        self._objects, self._ledger, self.stream, self.claims = objects, ledger, stream, claims
        self.packing, self._commits, self._landscape, self._clock = packing, commits, landscape, clock
        self._lost, self._may_ship = lost, may_ship
        self._waiting = 0  # how many wait for everything to be shipped
        self.lanes = Lanes(objects, ledger, alarms, claims, changed=self.wake, lost=self._on_lost)
        self.boundary = 0  # no commit object crosses this outbox row (sync.checkpoint)
        self.boundary_step: Step | None = None  # the commit object that ended there
        self.held = False  # nothing is frozen (while a checkpoint finds out its boundary)
        self._urgent_n = 0
        self._told = False
        self._headless = self._without_head()
        self._woken = trio.Event()
        self.moves = Moves()
        self.on_wait: Callable[[], None] = lambda: None  # somebody waits: told to who asks hosts and pays what is owed

    def wake(self) -> None:
        """Something changed: look again."""
        self._woken.set()
        self.moves.note()

    def headless(self) -> list[int]:
        """The seqs of commits whose head is not frozen yet."""
        return [step.seq for step in self._headless.values()]

    def hasten(self) -> int:
        """Somebody waits for all outbox rows that there are: no commit object waits for more. Returns the last."""
        self._urgent_n = max(self._urgent_n, self._ledger.newest_outbox())
        self.wake()
        return self._ledger.newest_outbox()

    def try_now(self) -> None:
        """Somebody waits: hosts that failed are asked again at once."""
        self.on_wait()
        self.packing.retry_now()
        self.lanes.wake()
        self.wake()

    def _on_lost(self) -> None:
        if not self._told:  # each lane finds out for itself
            self._told = True
            log.warning("%s", self.claims.read_only_reason)
            self._lost()
        self.wake()

    def _without_head(self) -> dict[int, Step]:
        headed = {ident for _, kind, ident in self._ledger.uploads() if kind is Kind.HEAD}
        found = {}
        for n, kind, ident in self._ledger.uploads():
            if kind is Kind.COMMIT and ident not in headed:
                device, seq = STEP_IDENT.unpack(ident)
                found[n] = Step(device=device, seq=seq, hash=step_hash(self._ledger.upload_body(n)))
        return found

    async def run(self) -> None:
        """Ship until cancelled."""
        async with trio.open_nursery() as nursery:
            self.lanes.nursery = nursery
            for host in list(self._objects.hosts):
                self.lanes.open(host)
            while True:
                self._woken = trio.Event()
                try:
                    await self._round(nursery)
                    pause_s = self._pause_s()
                except MegaFSError as error:  # the local disk is full or failing: the daemon lives on
                    level = logging.INFO if isinstance(error, Locked) else logging.WARNING
                    log.log(level, "shipping pauses: %s", error)  # locked: as its owner wants it
                    pause_s = RETRY_S
                with trio.move_on_after(pause_s):
                    await self._woken.wait()

    async def _round(self, nursery: trio.Nursery) -> None:
        if self.claims.is_lost:
            return
        self.packing.retire_due()
        leaving = self.packing.leaving()
        if self.packing.must_be_logged(leaving):
            await self._commits.durable_now()
        await self.packing.close(leaving)
        if self.packing.closed:
            closed = tuple(self.packing.closed)
            await self._commits.durable_now()
            self.packing.made_durable(closed)
        if not self._may_ship() and not self._waiting:
            return
        self.packing.launch(nursery)
        await self._freeze_commits()
        await self._freeze_heads()
        if self._ledger.newest_upload() > self.lanes.durable:  # parts of a checkpoint, or the disk refused before
            await self._let_go()
        self._forget_complete()

    def _batch(self) -> pace.Batch | None:
        unshipped = self._ledger.first_unshipped_pack()
        return pace.batch(
            self._ledger.waiting(self._commits.durable, unshipped),
            unshipped,
            self._ledger.dropped(),
            self.boundary,
        )

    async def _freeze_commits(self) -> None:
        while not self.held and (batch := self._batch()) is not None:
            urgent = batch.first <= self._urgent_n or bool(self.boundary)
            if pace.freeze_in(batch, urgent=urgent, now_s=self._clock()):
                return
            draft = self.stream.draft(batch)
            frozen = await trio.to_thread.run_sync(self.stream.seal, draft)
            upload = self.stream.freeze(frozen)
            self._headless[upload] = frozen.step
            if batch.last == self.boundary:
                self.boundary, self.boundary_step = 0, frozen.step
            await self._let_go()

    async def _freeze_heads(self) -> None:
        enough = self.enough()
        ready = [n for n in sorted(self._headless) if len(self._ledger.acknowledged_by(n)) >= enough]
        if not ready or self.claims.is_lost:
            return
        for n in ready:
            self.stream.freeze_head(self._headless.pop(n))
        await self._let_go()

    def enough(self) -> int:
        """On how many hosts a commit must be now before its head tells of it, and a checkpoint before heads name it:
        hosts that stay away are not waited for."""
        there = len(self._objects.hosts) - self.lanes.count_away(self.packing.patience_left_s)
        return max(1, min(self._landscape.enough(), there))

    async def _let_go(self) -> None:
        """Frozen objects become durable, then the lanes may send them."""
        newest = self._ledger.newest_upload()
        await self._commits.durable_now()
        self.lanes.durable = max(self.lanes.durable, newest)
        self.lanes.wake()

    async def ship_frozen(self) -> None:
        """Objects were frozen elsewhere (checkpoints): make them durable and send them."""
        await self._let_go()

    def _counted(self) -> set[HostId]:
        """The hosts that are waited for: one that is written off gets what it lacks once it is back (sync.presence)."""
        away = {state.spec.id for state in self._landscape.states() if state.written_off}
        return set(self._objects.hosts) - away

    def _forget_complete(self) -> None:
        hosts = self._counted()
        for n in self._ledger.complete_uploads(max(len(hosts), self._landscape.enough())):
            if n not in self._headless and hosts <= self._ledger.acknowledged_by(n):
                self._ledger.forget_upload(n)

    def _pause_s(self) -> float:
        """How long nothing can become due. Infinity is fine: new durable commits wake the loop."""
        if self.claims.is_lost:
            return float("inf")
        least_s = 0.0 if self._may_ship() or self._waiting else OPEN_PACK_TICK_S  # what waits for its hours
        pauses = [max(0.0, self.packing.next_retry() - trio.current_time())]
        if self._ledger.first_unshipped_pack() is not None:
            pauses.append(OPEN_PACK_TICK_S)
        if self._headless:
            pauses.append(self.lanes.next_away(self.packing.patience_left_s))
        batch = None if self.held else self._batch()
        if batch is not None:
            urgent = batch.first <= self._urgent_n or bool(self.boundary)
            pauses.append(max(0.05, pace.freeze_in(batch, urgent=urgent, now_s=self._clock())))
        return max(min(pauses), least_s)

    def backlog(self, pack: PackNumber | None = None, outbox_n: int | None = None) -> Backlog:
        """What is left of everything up to that pack and outbox row (None: of all that exists)."""
        packs = [number for number in self._ledger.unshipped_packs() if pack is None or number <= pack]
        rows = self._ledger.count_waiting(self._ledger.newest_outbox() if outbox_n is None else outbox_n)
        newest, hosts = self._ledger.newest_upload(), self._counted()
        lacking = {host: self._ledger.lacking(host, newest) for host in sorted(hosts)}
        owed: dict[HostId, int] = {}
        for debt in (debt for debt in self._ledger.owed() if debt.host in hosts):
            owed[debt.host] = owed.get(debt.host, 0) + 1
        left = Backlog(packs=len(packs), commits=rows + len(self._headless), lacking=lacking, owed=owed)
        return replace(left, thin=len(self.packing.thin())) if left.is_empty else left

    async def until_shipped(self, patience_s: float) -> AsyncIterator[Backlog]:
        """Ship everything that exists now; yields what is left whenever that changes. Raises Incomplete once nothing
        has moved for ``patience_s``, ReadOnly if another device took the vault over."""
        self._waiting += 1
        try:
            async with aclosing(self._until_shipped(patience_s)) as steps:
                async for left in steps:
                    yield left
        finally:
            self._waiting -= 1

    async def _until_shipped(self, patience_s: float) -> AsyncGenerator[Backlog, None]:
        await self._commits.durable_now()
        self.packing.retire_now()
        pack = self._ledger.newest_local_pack()
        packs = Wait(look=lambda: self.backlog(pack, 0), done=lambda left: not left.packs, patience_s=patience_s)
        while (left := await self._next_left(packs)) is not None:
            yield left
        # Copy rows of these packs are part of what exists now; one commit object takes them along.
        await self._commits.durable_now()
        target = self.hasten()
        everything = Wait(
            look=lambda: self.backlog(pack, target), done=lambda left: left.is_empty, patience_s=patience_s
        )
        while (left := await self._next_left(everything)) is not None:
            yield left

    async def _next_left(self, wait: Wait) -> Backlog | None:
        """What is left once that has changed; None when nothing is left of it."""
        if wait.before is None:
            self.try_now()
        elif wait.done(wait.before):
            return None
        while True:
            self.claims.check_writable()
            seen, left = self.moves.count, wait.look()
            if left != wait.before:
                wait.before, wait.deadline = left, trio.current_time() + wait.patience_s
                return left
            if trio.current_time() >= wait.deadline:
                raise Incomplete(self._missing(left))
            with trio.move_on_at(min(wait.deadline, trio.current_time() + OPEN_PACK_TICK_S)):
                await self.moves.beyond(seen)

    def _missing(self, left: Backlog) -> str:
        labels = {state.spec.id: state.spec.label for state in self._landscape.states()}
        reasons = sorted({trouble.sentence for trouble in self.packing.troubles.values()})
        parts = [f"{left.packs} packs are on too few hosts" + "".join(f" ({each})" for each in reasons)] * bool(
            left.packs
        )
        parts += [f"{left.thin} packs are on fewer hosts than the policy wants"] if left.thin else []
        for host, label in sorted(labels.items(), key=lambda item: item[1]):
            count = left.lacking.get(host, 0) + left.owed.get(host, 0)
            if count:
                error = self.lanes.states[host].error if host in self.lanes.states else ""
                parts.append(f"{label} lacks {count} objects" + (f" ({error})" if error else ""))
        return "not everything is on every host: " + ("; ".join(parts) or f"{left.commits} commits wait")
