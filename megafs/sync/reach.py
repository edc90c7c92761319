"""Which commits are how far: what fsync waits for under ``durability = "remote=N"``, and what a file's state says.

A commit is on N hosts once N have acknowledged its object and its head (without a head an attach would not look for
it), and every pack that it names lies on N. A row is known to be shipped by its id: ids grow, so all up to the counter
of a shipped commit are. What a crash forgets of that is known again once all that waited at the start has been shipped.
"""

from collections import deque
from collections.abc import Callable, Sequence

import trio

from megafs.crypto.keys import STEP_IDENT
from megafs.errors import Incomplete
from megafs.index.database import Database
from megafs.index.ledger import Ledger
from megafs.index.reach import Reaches
from megafs.model import COUNTER_BITS, HostSpec, PackNumber, Policy
from megafs.sync.packing import Landscape
from megafs.sync.ship import Commits, Shipper

LOOK_S = 1.0
SHIPPED_COUNTER = "shipped_counter"  # of the state table; an old value only says less
MARKS = 1_000  # offline for long: what was committed last counts as one


def promise_broken(hosts: int, policy: Policy, specs: Sequence[HostSpec]) -> str:
    """Why fsync could never have something on so many hosts; empty if it can."""
    active = sum(spec.state == "active" for spec in specs)
    if hosts <= min(policy.places, active):
        return ""
    what = f"the policy has {policy.places}" if policy.places < hosts else f"the vault has {active} that take packs"
    return f"fsync is to wait for {hosts} hosts (durability), and {what}"


class Reach:
    """Owner of the marks: (outbox row, id counter of its commit)."""

    def __init__(
        self, database: Database, ledger: Ledger, shipper: Shipper, commits: Commits, landscape: Landscape
    ) -> None:
        self._database, self._ledger, self._shipper = database, ledger, shipper
        self._commits, self._landscape = commits, landscape
        self._rows = Reaches(database.connection)
        self._marks: deque[tuple[int, int]] = deque([(ledger.newest_outbox(), database.committed_counter)])
        self._noted = self._marks[0][0]
        self._shipped_counter = int(database.state(SHIPPED_COUNTER) or b"-1")
        first = ledger.first_unshipped_pack()
        self._pack = PackNumber((ledger.newest_local_pack() if first is None else first - 1) or 0)

    def note(self) -> None:
        """A commit has become durable."""
        newest = self._commits.durable
        if newest > self._noted:
            self._noted = newest
            if len(self._marks) >= MARKS:
                self._advance()
            if len(self._marks) >= MARKS:
                self._marks.pop()  # the next one says the same of both, later
            self._marks.append((newest, self._database.committed_counter))

    def first_row(self, hosts: int) -> int | None:
        """The first outbox row that is not on so many hosts, with its head; None: all are."""
        seqs = [STEP_IDENT.unpack(ident)[1] for ident in self._rows.steps_on_fewer(hosts)]
        seqs += self._shipper.headless()
        rows = [self._rows.first_waiting(), self._rows.first_of(min(seqs)) if seqs else None]
        return min((row for row in rows if row is not None), default=None)

    def _advance(self) -> None:
        first = self.first_row(self._shipper.enough())
        before = self._shipped_counter
        while self._marks and (first is None or self._marks[0][0] < first):
            self._shipped_counter = max(self._shipped_counter, self._marks.popleft()[1])
        if self._shipped_counter != before:
            self._database.set_state(SHIPPED_COUNTER, b"%d" % self._shipped_counter)

    def has(self, row_id: int) -> bool:
        """Whether the commit with this row is where all that ships has to be."""
        self._advance()
        return row_id >> COUNTER_BITS != self._database.device or self._counter(row_id) <= self._shipped_counter

    @staticmethod
    def _counter(row_id: int) -> int:
        return row_id & (1 << COUNTER_BITS) - 1

    async def until_on(self, hosts: int, patience_s: float) -> None:
        """Everything accepted before this call is on so many hosts. Raises Incomplete once nothing has moved for
        ``patience_s``: all is durable here then, and is shipped when hosts answer; ReadOnly after a takeover."""
        specs = [state.spec for state in self._landscape.states()]
        if broken := promise_broken(hosts, self._landscape.policy(), specs):
            raise Incomplete(broken)
        await self._commits.durable_now()
        self._shipper.packing.retire_now()
        last, after = self._ledger.newest_local_pack(), self._pack
        await self._until(lambda: self._rows.packs_on_fewer(hosts, after, last), hosts, patience_s)
        # Where the packs lie is part of what an attach needs: one commit takes the copy rows along.
        await self._commits.durable_now()
        target = self._shipper.hasten()

        def behind() -> int:
            first = self.first_row(hosts)
            return 0 if first is None else max(0, target + 1 - first)

        await self._until(behind, hosts, patience_s)
        self._pack = max(self._pack, last)

    async def _until(self, left: Callable[[], int], hosts: int, patience_s: float) -> None:
        """Return when nothing is left."""
        self._shipper.try_now()
        before, deadline = -1, 0.0
        while (now_left := left()) > 0:
            self._shipper.claims.check_writable()
            seen = self._shipper.moves.count
            if now_left != before:
                before, deadline = now_left, trio.current_time() + patience_s
            if trio.current_time() >= deadline:
                raise Incomplete(f"fsync: durable on this device, but not on {hosts} hosts: too few answer")
            with trio.move_on_at(min(deadline, trio.current_time() + LOOK_S)):
                await self._shipper.moves.beyond(seen)
