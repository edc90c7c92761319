"""Hosts are asked for random parts of what they were given, all day; what is missing or wrong is made anew.

Copy rows and the ledger in; reads, counts and damage out. 460 objects a host and day, each drawn from all of them: if
1 % are lost, a day without finding one has the probability 0.99 ** 460 = 1 %. That is 30 MB a host and day at most.
Drawn anew each time, because a host that sees which were looked at could lose just those. What was not done while the
vault was not mounted, the host away, or the hours not right, is made up for afterwards, a day's worth at most. Where
one is bad, more are: then each object of that host is looked at. On demand all of that is done at once (``sweep``).
"""

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Hashable
from dataclasses import dataclass, field
from secrets import SystemRandom

import trio

from megafs.errors import HostError, MegaFSError, Unavailable
from megafs.index.care import Care
from megafs.index.ledger import Ledger
from megafs.index.packs import Packs
from megafs.model import HostId, Kind, PackNumber
from megafs.store.notices import Notices
from megafs.sync.anchors import KINDS as ANCHORS
from megafs.sync.anchors import Anchors
from megafs.sync.claims import Claims
from megafs.sync.joining import needed_objects
from megafs.sync.mirror import Mirror
from megafs.sync.possession import UNREADABLE, WRONG, Copy, Examiner
from megafs.sync.repair import Repairer
from megafs.sync.stream import Stream

log = logging.getLogger(__name__)

DAY_S = 86_400.0
A_DAY = 460  # objects of each host; 300 would be enough for 95 %, the rest pays for hours with the host away
TICK_S = 5.0  # so fast is made up for what was missed: a day's worth in 40 minutes
RETRY_S = 2.0
RECOUNT_S = 3600.0  # what lies on a host is listed anew this often
AT_ONCE = 4  # objects of a sweep
NO_PACK = PackNumber(0)
WHOLE_AT_ONCE = 2  # of a full one: each is a pack in memory


@dataclass(frozen=True, slots=True)
class Item:
    """One object that a host should have: a part of a pack, one of the index, or an anchor (without ident)."""

    host: HostId
    pack: PackNumber = NO_PACK
    shard: int = 0
    root: bytes = b""
    kind: Kind = Kind.PACK
    ident: bytes = b""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one sweep found on one host. Owner: the sweep."""

    checked: int = 0
    bytes: int = 0
    bad: int = 0
    repaired: int = 0
    is_silent: bool = False
    damaged: list[PackNumber] = field(default_factory=list)


class Scrubber:
    """Owner of the lists of what lies where, and of the hosts under suspicion."""

    def __init__(
        self,
        *,
        examiner: Examiner,
        care: Care,
        ledger: Ledger,
        packs: Packs,
        stream: Stream,
        claims: Claims,
        mirror: Mirror,
        anchors: Anchors,
        repairer: Repairer,
        hosts: Callable[[], Collection[HostId]],
        clock: Callable[[], float],
        chance: SystemRandom,
        may_run: Callable[[], bool] = lambda: True,
        a_day: int = A_DAY,
    ) -> None:
        """``hosts`` are those that should have something now; ``may_run`` says whether this is an hour for it."""
        self._examiner, self._care, self._ledger, self._packs = examiner, care, ledger, packs
        self._stream, self._claims, self._mirror, self._repairer = stream, claims, mirror, repairer
        self._anchors = anchors
        self._hosts, self._clock, self._chance, self._may_run = hosts, clock, chance, may_run
        self._every_s = DAY_S / a_day
        self.notices = Notices(trio.current_time)
        self._bad: set[Item] = set()  # of the index and anchors, and not mended yet; copies of packs are rows
        self._listed: dict[HostId, tuple[float, list[Item]]] = {}
        self._suspects: set[HostId] = set()

    async def run(self) -> None:
        """Look until cancelled, or until another device writes."""
        while not self._claims.is_lost:
            await trio.sleep(self._pause_s())
            if self._may_run():
                await self.tick()

    def _pause_s(self) -> float:
        if not self._may_run():
            return self._every_s
        due_s = [self._care.scrubbed(host).due_s for host in self._hosts()]
        return min(max(TICK_S, min(due_s, default=0.0) - self._clock()), 2 * self._every_s)

    async def tick(self) -> None:
        """One object of each host whose turn it is; a sweep of those where something was bad."""
        async with trio.open_nursery() as nursery:
            for host in self._due():
                nursery.start_soon(self._sample, host)
        for host in sorted(self._suspects & set(self._hosts())):
            self._suspects.discard(host)
            async for _ in self.sweep([host], {}, full=False):
                pass

    def _due(self) -> list[HostId]:
        """Those whose turn comes soon as well: one wake-up for all. The next turn is counted from when it was due."""
        now_s, due = self._clock(), []
        for host in self._hosts():
            due_s = self._care.scrubbed(host).due_s
            if not due_s or due_s > now_s + 2 * self._every_s:  # new, or the clock was set back
                self._care.set_due(host, now_s + self._chance.random() * self._every_s)
            elif due_s <= now_s + self._every_s / 2:
                due.append(host)
        return due

    async def _sample(self, host: HostId) -> None:
        items = self._items(host)
        if items and not await self._look(self._chance.choice(items), full=False, tally=(tally := Tally())):
            return  # it is asked again at the next tick
        if items and tally.bad:
            self._suspects.add(host)
        now_s, due_s = self._clock(), self._care.scrubbed(host).due_s
        step_s = self._every_s * (0.5 + self._chance.random())
        self._care.set_due(host, max(due_s, now_s - DAY_S) + step_s)

    def _items(self, host: HostId, *, anew: bool = False) -> list[Item]:
        """What the host should have, as listed not long ago."""
        made_s, items = self._listed.get(host, (-RECOUNT_S, []))
        now_s = trio.current_time()
        if anew or not items or made_s + RECOUNT_S <= now_s:
            items = [Item(host, pack, shard, root) for pack, shard, root in self._packs.copies_on(host)]
            lacking = {
                (kind, ident)
                for n, kind, ident in self._ledger.uploads()
                if host not in self._ledger.acknowledged_by(n)
            }
            items += [Item(host, kind=kind) for kind in ANCHORS]
            items += [
                Item(host, kind=kind, ident=ident)
                for kind, ident in needed_objects(self._ledger, self._stream)
                if (kind, ident) not in lacking
            ]
            self._listed[host] = now_s, items
        return items

    async def sweep(
        self, hosts: Collection[HostId], tallies: dict[HostId, Tally], *, full: bool
    ) -> AsyncGenerator[tuple[int, int], None]:
        """Look at every object of these hosts, in random order; yields (done, of how many) and fills ``tallies``. What
        is bad has been made anew when this ends, as far as it can be now. A host that does not answer is left."""
        tallies.update({host: Tally() for host in hosts})
        items = [item for host in hosts for item in self._items(host, anew=True)]
        self._chance.shuffle(items)
        batch = WHOLE_AT_ONCE if full else AT_ONCE

        async def again(item: Item) -> bool:
            await trio.sleep(RETRY_S)  # one request that fails is no silence
            return await self._look(item, full=full, tally=tallies[item.host])

        async def one(item: Item) -> None:
            tally = tallies[item.host]
            if item.kind is Kind.PACK and self._care.is_damaged(item.pack, item.host):
                tally.bad += 1  # counted when it was found, and still so
                tally.damaged.append(item.pack)
            elif not tally.is_silent:
                is_looked_at = await self._look(item, full=full, tally=tally) or await again(item)
                tally.is_silent = not is_looked_at and not await self._is_unreadable(item, tally)

        for start in range(0, len(items), batch):
            yield start, len(items)
            async with trio.open_nursery() as nursery:
                for item in items[start : start + batch]:
                    nursery.start_soon(one, item)
        if any(tally.damaged for tally in tallies.values()):
            await self._repairer.mended()
        for host, tally in tallies.items():
            tally.repaired += sum(not self._care.is_damaged(number, host) for number in tally.damaged)
        yield len(items), len(items)

    async def _look(self, item: Item, *, full: bool, tally: Tally) -> bool:
        """Look at one object, count, note what is bad; whether the host answered."""
        pack = self._packs.get(item.pack) if item.kind is Kind.PACK else None
        is_mended = False
        try:
            if item.kind in ANCHORS:
                look, is_mended = await self._anchors.look(item.host, item.kind)
            elif item.kind is not Kind.PACK:
                look = await self._examiner.look_at_object(item.host, item.kind, item.ident)
            elif pack is None or pack.dead_since_s or self._care.is_damaged(item.pack, item.host):
                return True  # it went meanwhile, or is known
            else:
                copy = Copy(pack=pack, host=item.host, shard=item.shard, root=item.root)
                look = await self._examiner.look_at(copy, full=full)
        except (HostError, Unavailable) as error:
            log.debug("a host cannot be looked at: %s", error)
            return False
        is_bad = bool(look.wrong)
        if is_bad and item.kind not in ANCHORS:
            is_bad, is_mended = await self._handled(item, look.wrong, tally)
        tally.checked, tally.bytes, tally.bad = tally.checked + 1, tally.bytes + look.bytes, tally.bad + is_bad
        self._care.count(item.host, now_s=int(self._clock()), checked=1, size=look.bytes)
        if item.kind is not Kind.PACK:  # a pack is counted by who notes the damage, and by who mends it
            self._count(item, is_bad=is_bad)
        if is_mended:
            tally.repaired += 1
            self._count(item, is_bad=False)
            self._tell(item, f"{look.wrong}; put there again", (look.wrong, "mended"))
        return True

    def _tell(self, item: Item, what: str, cause: Hashable) -> None:
        self.notices.tell((item.host, cause), log.info, f"host {item.host.hex()[:8]}: {what}")

    async def _is_unreadable(self, item: Item, tally: Tally) -> bool:
        """Whether it is only this copy that its host cannot give, while it answers other questions: a bad sector, or a
        server that checks what it reads. That is as good as a wrong one."""
        if item.kind is not Kind.PACK or not await self._examiner.answers(item.host):
            return False
        is_bad, _ = await self._handled(item, UNREADABLE, tally)
        tally.checked, tally.bad = tally.checked + 1, tally.bad + is_bad
        self._care.count(item.host, now_s=int(self._clock()), checked=1)
        return True

    def _count(self, item: Item, *, is_bad: bool) -> None:
        """What is bad counts once, however often it is met before it can be mended, and as repaired once it is right,
        whoever saw to that."""
        if is_bad and item not in self._bad:
            self._bad.add(item)
            self._care.count_bad(item.host)
        elif not is_bad and item in self._bad:
            self._bad.discard(item)
            self._care.count_repaired(item.host)

    async def _handled(self, item: Item, wrong: str, tally: Tally) -> tuple[bool, bool]:
        """Whether something is bad, not merely moved meanwhile; then it is noted, or mended, which is the second."""
        if item.kind is Kind.PACK:
            copies = self._packs.copies(item.pack)
            pack = self._packs.get(item.pack)
            if pack is None or not any((host, shard) == (item.host, item.shard) for host, shard, _ in copies):
                return False, False
            self._repairer.note_damage(pack, item.host)
            tally.damaged.append(item.pack)
            self._tell(item, f"{wrong} (pack {item.pack})", wrong)
            return True, False
        try:
            is_mended = await self._mirror.mend(item.host, item.kind, item.ident)
        except MegaFSError as error:
            self._tell(item, f"{wrong}, and cannot be mended now: {error}", type(error).__name__)
            return True, False
        return is_mended or wrong == WRONG, is_mended  # what is missing everywhere was collected
