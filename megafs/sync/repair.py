"""What the policy wants and hosts do not have: debts are paid, lost copies made anew, on other hosts if need be.

Copy rows, owed rows and the hosts' states in; parts put, rows changed. The bytes come from the local file or from any
host that has them right; they are checked against the pack's root before they go anywhere. Removing a surplus copy is
a delete and asks the majority first.

What is missing is made at any hour; what merely lies elsewhere than the policy now says (policy changed, a host being
drained, one that came back) is moved in the hours that the owner leaves for it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping

import trio

from megafs.crypto.keys import ident_pack
from megafs.crypto.merkle import root as merkle_root
from megafs.errors import Corrupt, HostError, MegaFSError, Unavailable
from megafs.index.care import Care
from megafs.index.ledger import Ledger
from megafs.index.packs import SHIPPED, Packs
from megafs.model import HostId, Kind, Pack, PackNumber, Policy, shard_parts
from megafs.packs import shards
from megafs.placement import WHOLE, Part, part_bytes, steps
from megafs.store.disk import Disk
from megafs.sync.claims import Claims
from megafs.sync.moves import Moves
from megafs.sync.objects import Objects
from megafs.sync.packing import Landscape, StoredPart, note_copy, stored_parts

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
GIVE_UP_S = 3600.0  # a host that owes nothing but an answer for this long is replaced
AT_ONCE = 2  # packs; repair leaves the line to shipping


class Repairer:
    """Owner of the copies that were found lost."""

    def __init__(
        self,
        *,
        objects: Objects,
        ledger: Ledger,
        care: Care,
        packs: Packs,
        disk: Disk,
        landscape: Landscape,
        claims: Claims,
        clock: Callable[[], float],
        moves: Moves,
        changed: Callable[[], None] = lambda: None,
        may_move: Callable[[], bool] = lambda: True,
    ) -> None:
        """``may_move`` says whether this is an hour for work that can wait."""
        self._objects, self._ledger, self._packs, self._disk = objects, ledger, packs, disk
        self._landscape, self._claims, self._clock, self._changed = landscape, claims, clock, changed
        self._may_move, self._care, self._moves = may_move, care, moves
        self._woken, self._over = trio.Event(), trio.Event()
        self._is_running = False
        self._is_waiting = True  # something is to be done that cannot be done now
        self.made = 0

    def note_damage(self, pack: Pack, host: HostId) -> None:
        """A reader found that the host's copy is missing or wrong: it is made anew."""
        self._care.note_damaged(pack.number, host, int(self._clock()))
        self.wake()

    async def mended(self) -> None:
        """Return once a round that began after this call is over."""
        for _ in range(2 if self._is_running else 1):
            self.wake()
            await self._over.wait()

    def wake(self) -> None:
        """A host may be back."""
        self._woken.set()
        self._moves.note()

    async def run(self) -> None:
        """Repair until cancelled. Rests while nothing is to be done and nothing changes."""
        seen = self._moves.count
        while True:
            with trio.move_on_after(LOOK_EVERY_S):
                await self._woken.wait()
            if not self._is_waiting:
                await self._moves.beyond(seen)
            self._woken, seen = trio.Event(), self._moves.count
            self._is_running = True
            if not self._claims.is_lost:
                try:
                    await self.run_once()
                except MegaFSError as error:
                    self._is_waiting = True
                    log.warning("repair pauses: %s", error)
            self._is_running = False
            self._over.set()
            self._over = trio.Event()

    def due(self) -> list[PackNumber]:
        """Packs that may have less than the policy wants, or are on hosts that should no longer have them."""
        states = {state.spec.id: state for state in self._landscape.states()}
        now_s = self._clock()
        due, owed = {number for number, _ in self._care.damaged()}, self._ledger.owed()
        for debt in owed:
            state = states.get(debt.host)
            if state is None or state.is_usable or (not state.written_off and now_s - debt.since_s > GIVE_UP_S):
                due.add(debt.pack)
        gone = {host for host, state in states.items() if state.spec.state == "gone"}
        absent = {host for host, state in states.items() if state.written_off}
        policy = self._landscape.policy()
        count = sum(state.spec.state == "active" and not state.written_off for state in states.values())
        due.update(self._packs.on_hosts(gone))
        due.update(self._packs.with_fewer_copies(min(policy.places, count), absent))
        later = self._packs.on_hosts(host for host, each in states.items() if each.spec.state == "draining")
        later += self._packs.with_other_copies(policy.places, policy.shards, absent)  # the policy was changed
        self._is_waiting = bool(due or owed or later)
        return sorted(due.union(later if self._may_move() else ()))

    async def run_once(self) -> int:
        """Mend every pack that is due; how many parts were put."""
        before = self.made
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def one(number: PackNumber) -> None:
            async with limiter:
                await self._mend(number)

        async with trio.open_nursery() as nursery:
            for number in self.due():
                nursery.start_soon(one, number)
        if self.made > before:
            self._changed()
        return self.made - before

    async def _mend(self, number: PackNumber) -> None:
        pack, local = self._packs.get(number), self._packs.local(number)
        if pack is None or not pack.stored_bytes or pack.dead_since_s or (local is not None and local[1] != SHIPPED):
            return  # dead, or still on its way: shipping cares for it
        policy, states = self._landscape.policy(), {state.spec.id: state for state in self._landscape.states()}
        lost = {host for damaged, host in self._care.damaged() if damaged == number}
        have = [Part(host, shard) for host, shard, _ in self._packs.copies(number) if host not in lost]
        plan = steps(list(states.values()), policy, pack.id, have)
        for part in plan.forget:
            self._packs.delete_copy(number, part.host, part.shard)
        # A host that does not answer is found out about by others: reading 16 MiB for it would be in vain.
        reachable = [part for part in plan.make if part.host in self._objects.hosts and states[part.host].is_usable]
        if reachable:
            with self._landscape.putting((part.host, part_bytes(policy)) for part in reachable):
                try:
                    parts = await self._parts(pack, policy, lost)
                except (Unavailable, Corrupt) as error:
                    log.warning("pack %d cannot be repaired now: %s", number, error)
                    return
                await self._make(pack, parts, reachable)
        if not [part for part in plan.make if part not in self._present(number, lost)]:
            self._ledger.forget_owed(number)
            self._give_up(pack, lost)
            await self._remove(pack, plan.remove)

    def _give_up(self, pack: Pack, hosts: Iterable[HostId]) -> None:
        """The pack is complete without the damaged copies that are still there."""
        for host in hosts:
            if self._care.is_damaged(pack.number, host):
                for where, shard, _ in self._packs.copies(pack.number):
                    if where == host:
                        self._packs.delete_copy(pack.number, host, shard)
                        self._ledger.expire(Kind.PACK, ident_pack(pack.id, shard), [host])
                self._care.forget_damaged(pack.number, host)
                self._care.count_repaired(host)

    def _present(self, number: PackNumber, lost: Iterable[HostId]) -> set[Part]:
        damaged = {host for host in lost if self._care.is_damaged(number, host)}
        return {Part(host, shard) for host, shard, _ in self._packs.copies(number) if host not in damaged}

    async def _make(self, pack: Pack, parts: Mapping[int, StoredPart], wanted: Iterable[Part]) -> None:
        for part in wanted:
            stored = parts[part.shard]
            ident = ident_pack(pack.id, part.shard)
            try:
                if self._care.is_damaged(pack.number, part.host):
                    # A host that keeps what it has under a name would keep the damage.
                    if not await self._claims.may_delete():
                        continue
                    await self._objects.delete(part.host, Kind.PACK, ident)
                await self._objects.put(part.host, Kind.PACK, ident, stored.data)
            except HostError as error:
                log.info("a copy of pack %d is still owed: %s", pack.number, error)
                self._ledger.owe(pack.number, part.host, int(self._clock()), part.shard)
                continue
            note_copy(self._packs, pack, part, stored)
            self._ledger.pay(pack.number, part.host, part.shard)
            if self._care.is_damaged(pack.number, part.host):
                self._care.forget_damaged(pack.number, part.host)
                self._care.count_repaired(part.host)
            self.made += 1

    async def _remove(self, pack: Pack, surplus: Iterable[Part]) -> None:
        for part in surplus:
            if not await self._claims.may_delete():
                return
            self._packs.delete_copy(pack.number, part.host, part.shard)
            self._ledger.expire(Kind.PACK, ident_pack(pack.id, part.shard), [part.host])

    async def _parts(self, pack: Pack, policy: Policy, lost: set[HostId]) -> Mapping[int, StoredPart]:
        data = await trio.to_thread.run_sync(self._disk.read, pack.number, 0, pack.stored_bytes)
        if len(data) != pack.stored_bytes or await trio.to_thread.run_sync(merkle_root, data) != pack.root:
            data = await self._fetched(pack, policy, lost)
        return await trio.to_thread.run_sync(stored_parts, data, pack.root, policy)

    async def _fetched(self, pack: Pack, policy: Policy, lost: set[HostId]) -> bytes:
        """The whole pack from hosts, right by its root. Raises Unavailable or Corrupt."""
        good: dict[int, dict[int, bytes]] = {}  # by k: while the policy changes, of two
        for host, shard, root in self._packs.copies(pack.number):
            if host in lost or host not in self._objects.hosts:
                continue
            try:
                data = await self._objects.get(host, Kind.PACK, ident_pack(pack.id, shard))
            except HostError:
                continue
            if await trio.to_thread.run_sync(merkle_root, data) != root:
                self._care.note_damaged(pack.number, host, int(self._clock()))
                continue
            if shard == WHOLE:
                return data
            k, number = shard_parts(shard)
            good.setdefault(k, {})[number] = data
            if len(good[k]) == k:
                whole = shards.decode(good[k], k, shards.SHARDS_MAX - k, pack.stored_bytes)
                if merkle_root(whole) != pack.root:
                    raise Corrupt("pack: its shards do not make what the index says")
                return whole
        raise Unavailable("too few hosts have the pack right")
