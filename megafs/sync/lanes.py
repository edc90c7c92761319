"""Frozen objects on their way: one lane per host, in the order in which they were frozen, none waiting for another.

Upload rows in, acknowledged rows out. A lane whose host is down pauses and tries again; the rows wait. Only rows up to
``durable`` are sent: what a crash could take back must not be on a host. Before each commit object the lane looks on
its host whether another device has taken the vault over.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from megafs.crypto.keys import STEP_IDENT
from megafs.errors import HostError, ReadOnly, Unavailable
from megafs.hosts.wrappers import jittered
from megafs.index.alarms import Alarms, Witness
from megafs.index.ledger import Ledger, Upload
from megafs.model import HostId, Kind
from megafs.sync.claims import Claims
from megafs.sync.objects import Objects
from megafs.sync.statements import own_head

PAUSE_FIRST_S = 1.0
PAUSE_MOST_S = 60.0


@dataclass(slots=True, kw_only=True)
class LaneState:
    """How one host does; owner: its lane."""

    error: str = ""  # of the last attempt; empty: it went well
    failing_since: float = float("inf")  # (trio's clock); infinity: it is not
    pause_s: float = PAUSE_FIRST_S


async def trust_the_host(host: HostId, device: int) -> None:
    """Until somebody watches (sync.watch.check_former)."""


class Lanes:
    """Owner of the lanes' states and of ``durable``."""

    def __init__(
        self,
        objects: Objects,
        ledger: Ledger,
        alarms: Alarms,
        claims: Claims,
        *,
        changed: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        """``changed`` is called after each acknowledgement and error; ``lost`` once a better claim was seen."""
        self._objects, self._ledger, self._claims, self._alarms = objects, ledger, claims, alarms
        self._changed, self._lost = changed, lost
        # Rows found at the start were read from the database file, so they survived.
        self.durable = ledger.newest_upload()
        self.check_former: Callable[[HostId, int], Awaitable[None]] = trust_the_host
        self.on_back: Callable[[], None] = lambda: None  # a host takes something again; set by who cares for it then
        self.states: dict[HostId, LaneState] = {}
        self._more = trio.Event()
        self.nursery: trio.Nursery | None = None  # the shipper's, while it runs
        self._scopes: dict[HostId, trio.CancelScope] = {}

    def open(self, host: HostId) -> None:
        """Send to this host from now on."""
        if self.nursery is not None and host not in self._scopes:
            self._scopes[host] = trio.CancelScope()
            self.nursery.start_soon(self._run, host, self._scopes[host])

    def count_away(self, patience_s: float) -> int:
        """How many hosts have taken nothing for so long, though something was sent."""
        now = trio.current_time()
        return sum(now >= state.failing_since + patience_s for state in self.states.values())

    def next_away(self, patience_s: float) -> float:
        """In how many seconds that may be so of one more; infinity for never."""
        now = trio.current_time()
        due = (state.failing_since + patience_s - now for state in self.states.values())
        return min((left_s for left_s in due if left_s > 0), default=float("inf"))

    def close(self, host: HostId) -> None:
        """Send nothing more to this host."""
        if host in self._scopes:
            self._scopes.pop(host).cancel()
        self.states.pop(host, None)

    async def _run(self, host: HostId, scope: trio.CancelScope) -> None:
        with scope:
            await self.run(host)

    def wake(self) -> None:
        """There may be more to send, or a pausing lane should try again now."""
        self._more.set()
        self._more = trio.Event()

    async def run(self, host: HostId) -> None:
        """Send to one host until cancelled, or until the vault was taken over."""
        state = self.states.setdefault(host, LaneState())
        while True:
            upload = self._ledger.next_upload(host, self.durable)
            more = self._more
            if self._claims.is_lost:
                return  # found out elsewhere; whoever did has told
            if upload is None:
                await more.wait()
                continue
            try:
                await self._send(host, upload)
            except ReadOnly:
                self._lost()
                return
            except (HostError, Unavailable) as error:
                state.error = str(error)
                state.failing_since = min(state.failing_since, trio.current_time())
                self._changed()
                with trio.move_on_after(jittered(state.pause_s)):
                    await more.wait()
                state.pause_s = min(2 * state.pause_s, PAUSE_MOST_S)
            else:
                is_back, state.failing_since = state.failing_since < float("inf"), float("inf")
                state.error, state.pause_s = "", PAUSE_FIRST_S
                self._acknowledge(host, upload)
                if is_back:
                    self.on_back()
                self._changed()

    async def _send(self, host: HostId, upload: Upload) -> None:
        if upload.kind is Kind.COMMIT:
            await self._claims.look_on(host)
            await self._claims.look_for_twin(host, upload.ident, upload.body)
        if upload.kind is Kind.HEAD:
            await self.check_former(host, STEP_IDENT.unpack(upload.ident)[0])
        body = upload.body
        if not body:
            body = await self._objects.read(upload.kind, upload.ident, lambda sealed: self._checked(upload, sealed))
        await self._objects.put(host, upload.kind, upload.ident, body)

    def _checked(self, upload: Upload, sealed: bytes) -> bytes:
        """What another host has, if it opens at its place: damage is not passed on."""
        self._objects.keyring.open(upload.kind, [upload.ident], sealed)
        return sealed

    def _acknowledge(self, host: HostId, upload: Upload) -> None:
        self._ledger.acknowledge(upload.n, host)
        if upload.kind is Kind.HEAD:
            device, seq = STEP_IDENT.unpack(upload.ident)
            self._ledger.set_host_head(host, device, seq)
            if upload.body:
                step = own_head(self._objects.keyring.open(Kind.HEAD, [upload.ident], upload.body)).step
                self._alarms.note(Witness(host=host, device=device, seq=seq, hash=step.hash))
