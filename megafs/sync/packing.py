"""Packs on their way: closed when they are full or old, put on the hosts that placement chooses, the rest owed.

In: full and aged packs of the writer. Out: copy rows, owed rows, local state SHIPPED. While every host that could still
take a part is away, a pack is held back for a short time only, and then counts as shipped with the parts that could be
had, as long as it can be read from them: what waits for the other hosts is on none. A pack is closed in the index,
durably, before the first byte of it leaves: after a crash a pack not closed is cut and goes on, and must not be on a
host in another shape. Several packs travel at once, each to its hosts at once.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import trio

from megafs.config import MERKLE_LEAF_BYTES, Settings
from megafs.crypto.keys import ident_pack
from megafs.crypto.merkle import leaf_hashes, root_of
from megafs.crypto.seal import digest
from megafs.errors import Corrupt, DiskError, HostError
from megafs.hosts.wrappers import jittered
from megafs.index.ledger import Ledger
from megafs.index.packs import SHIPPED, Packs
from megafs.model import ChunkPlace, HostId, HostState, Kind, Pack, PackNumber, Policy
from megafs.packs import shards
from megafs.placement import WHOLE, Part, can_be_read, wanted
from megafs.store.disk import Disk
from megafs.store.writer import OpenPack, PackWriter
from megafs.sync.objects import Objects

log = logging.getLogger(__name__)

# Who writes comes first: shipping a gigabyte takes as much of the disk and half as much of the processors as accepting
# it did. So a full pack leaves once the writer pauses, or at the latest so long after its last byte.
QUIET_S = 1.0
PATIENCE_S = 5.0
RETRY_FIRST_S = 1.0  # a pack that found too few hosts
RETRY_MOST_S = 60.0
ROTTEN_S = 3.0  # one that rotted here: its owner may have removed the files
# Of host_patience_s: then what is on too few hosts counts while the others are away. Less than all of it, so that who
# waits for a sync sees everything leave that can.
SHORT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """What placement decides on, asked anew each time; handed in by the daemon."""

    states: Callable[[], Sequence[HostState]]
    policy: Callable[[], Policy]
    under_way: Counter[HostId] = field(default_factory=Counter)  # bytes being put, which no copy row counts yet

    @contextmanager
    def putting(self, parts: Iterable[tuple[HostId, int]]) -> Iterator[None]:
        """Bytes that go to hosts now: counted with what is there, or packs side by side would pass an owner's limit.
        Entered without an await after placement was asked."""
        more = Counter[HostId]()
        for host, size in parts:
            more[host] += size
        self.under_way.update(more)
        try:
            yield
        finally:
            self.under_way.subtract(more)

    def not_counted(self) -> set[HostId]:
        """The hosts on which copies do not count: written off, or gone."""
        return {state.spec.id for state in self.states() if state.written_off or state.spec.state == "gone"}

    def enough(self) -> int:
        """On how many hosts a pack or commit must be before anything names it, unless they stay away; and before
        anything older is deleted, even then. A vault that has fewer hosts has no more to wait for."""
        hosts = sum(state.spec.state != "gone" for state in self.states())
        return max(1, min(self.policy().enough, hosts))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One part of a pack as a host gets it, its Merkle root, and the leaves below that if they were not known."""

    data: bytes
    root: bytes
    leaves: Sequence[bytes] = ()


def stored_parts(data: bytes, root: bytes, policy: Policy) -> Mapping[int, StoredPart]:
    """Thread. The parts of a pack by shard: the whole, or k + m."""
    if not policy.k:
        return {WHOLE: StoredPart(data=data, root=root)}
    found = {}
    for shard, part in zip(policy.shards, shards.encode(data, policy.k, policy.m), strict=True):
        leaves = leaf_hashes(part)
        found[shard] = StoredPart(data=part, root=root_of(leaves), leaves=leaves)
    return found


def rotten(data: bytes, places: Iterable[ChunkPlace]) -> list[ChunkPlace]:
    """The chunks of a pack that are not what was sealed."""
    view = memoryview(data)
    return [each for each in places if digest(view[each.offset : each.offset + each.sealed_bytes]) != each.digest]


def root_around(data: bytes, places: Iterable[ChunkPlace], known: Sequence[bytes]) -> bytes:
    """The Merkle root of a pack in which these chunks are right: its ``known`` leaves are believed where they lie in
    them, so that no byte is hashed twice."""
    runs: list[tuple[int, int]] = []
    for start, stop in sorted((place.offset, place.offset + place.sealed_bytes) for place in places):
        if runs and runs[-1][1] == start:
            runs[-1] = runs[-1][0], stop
        else:
            runs.append((start, stop))
    believed = {
        leaf for start, stop in runs for leaf in range(-(-start // MERKLE_LEAF_BYTES), stop // MERKLE_LEAF_BYTES)
    }
    view, leaves = memoryview(data), []
    for number, start in enumerate(range(0, len(view), MERKLE_LEAF_BYTES)):
        if number in believed and number < len(known):
            leaves.append(known[number])
        else:
            leaves += leaf_hashes(view[start : start + MERKLE_LEAF_BYTES])
    return root_of(leaves)


def note_copy(packs: Packs, pack: Pack, part: Part, stored: StoredPart) -> None:
    """A host has acknowledged a part."""
    packs.add_copy(pack.number, part.host, part.shard, stored.root)
    if stored.leaves:
        packs.set_leaves(pack.number, part.shard, stored.leaves)


@dataclass(slots=True, kw_only=True)
class Trouble:
    """A pack that found too few hosts; owner: PackShipper."""

    sentence: str
    retry_at: float
    pause_s: float


class PackShipper:
    """Owner of the packs in flight."""

    def __init__(
        self,
        *,
        objects: Objects,
        ledger: Ledger,
        packs: Packs,
        writer: PackWriter,
        disk: Disk,
        landscape: Landscape,
        settings: Settings,
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._objects, self._ledger, self._packs = objects, ledger, packs
        self._writer, self._disk, self._landscape = writer, disk, landscape
        self._settings, self._clock, self._changed = settings, clock, changed
        self._limiter = trio.CapacityLimiter(settings.uploads)
        self._flying: set[PackNumber] = set()
        self._urgent = PackNumber(0)  # somebody waits for packs up to this one
        self._short_since = float("inf")  # (trio's clock) since when packs find fewer than enough hosts, but some
        self.troubles: dict[PackNumber, Trouble] = {}
        self.closed: list[PackNumber] = []
        self.durable: set[PackNumber] = set(ledger.closed_packs())  # closed, and a crash cannot reopen them

    def retire_due(self) -> None:
        """Stop writing into the open pack if it has waited long enough."""
        if self._writer.due(self._settings.pack_idle_s, self._settings.pack_age_s):
            self._writer.retire()

    def retire_now(self) -> None:
        """Somebody waits: what is in the open pack ships."""
        self._writer.retire()
        self._urgent = max((pack.number for pack in self._writer.full), default=self._urgent)

    def leaving(self) -> list[OpenPack]:
        """Retired packs whose time has come."""
        rested = self._writer.rested(QUIET_S, PATIENCE_S)
        return [pack for pack in self._writer.full if pack.number <= self._urgent or pack in rested]

    def must_be_logged(self, leaving: Sequence[OpenPack]) -> bool:
        """Whether one of these may be named by rows that no commit has counted yet: then an index commit comes before
        it is closed, so that those rows wait for it and its directory is complete."""
        logged = self._ledger.newest_pack_logged()
        return any(pack.number > logged for pack in leaving)

    async def close(self, leaving: Sequence[OpenPack]) -> None:
        """Close these. They may travel once the next index commit is durable (``made_durable``); they are kept in mind
        as ``closed`` until then, also if the disk refuses the next one."""
        for pack in leaving:
            await self._writer.close(pack)
            self.closed.append(pack.number)

    def made_durable(self, closed: Sequence[PackNumber]) -> None:
        """The index commit after these were closed has returned."""
        self.durable.update(closed)
        self.closed = [number for number in self.closed if number not in self.durable]

    def launch(self, nursery: trio.Nursery) -> None:
        """Send every closed pack that is not on its way."""
        now, closed = trio.current_time(), self._ledger.closed_packs()
        for dropped in self.troubles.keys() - set(closed):
            del self.troubles[dropped]
        for number in closed:
            trouble = self.troubles.get(number)
            if number in self._flying or number not in self.durable or (trouble and trouble.retry_at > now):
                continue
            self._flying.add(number)
            nursery.start_soon(self._fly, number)

    def is_flying(self, number: PackNumber) -> bool:
        """Whether the pack is being put just now."""
        return number in self._flying

    def thin(self) -> list[PackNumber]:
        """The packs that are on fewer hosts than the policy wants."""
        return self._packs.with_fewer_copies(self._landscape.policy().places, self._landscape.not_counted())

    def next_retry(self) -> float:
        """When (trio's clock) a pack is tried again; infinity for never. One on its way is not waited for."""
        waiting = [trouble.retry_at for number, trouble in self.troubles.items() if number not in self._flying]
        return min(waiting, default=float("inf"))

    def retry_now(self) -> None:
        """Somebody waits."""
        for trouble in self.troubles.values():
            trouble.retry_at = trio.current_time()

    async def _fly(self, number: PackNumber) -> None:
        try:
            async with self._limiter:
                await self._ship(number)
        finally:
            self._flying.discard(number)
            self._changed()

    async def _ship(self, number: PackNumber) -> None:
        pack = self._packs.get(number)
        if pack is None or self._packs.local(number) is None:
            return  # dropped meanwhile
        policy = self._landscape.policy()
        places, known = self._packs.places(number), self._packs.leaves(number, WHOLE)
        try:
            objects = await trio.to_thread.run_sync(self._parts, pack, policy, places, known)
        except Corrupt as error:
            if number not in self.troubles:
                log.error("pack %d cannot be shipped: %s", number, error)
            self._note_trouble(number, str(error), most_s=ROTTEN_S)
            return
        except DiskError as error:
            self._note_trouble(number, str(error))
            return
        if objects is None:
            await self._close_anew(pack)
            return
        have = {Part(host, shard) for host, shard, _ in self._packs.copies(number)}
        failed: dict[HostId, str] = {}
        while True:
            states = [
                replace(state, answers=False) if state.spec.id in failed else state
                for state in self._landscape.states()
            ]
            owed = [part for part in wanted(states, policy, pack.id, have) if part not in have]
            targets = [part for part in owed if part.host not in failed and part.host in self._objects.hosts]
            if not targets:
                break
            with self._landscape.putting((part.host, len(objects[part.shard].data)) for part in targets):
                await self._put(pack, objects, targets, have, failed)
        self._settle(pack, have, owed, "; ".join(failed.values()))

    def _parts(
        self, pack: Pack, policy: Policy, places: Sequence[ChunkPlace], known: Sequence[bytes]
    ) -> Mapping[int, StoredPart] | None:
        """Thread. By shard number what hosts get, made from the local file after that was compared with what was
        sealed: what rotted here must not become the only copy. A GB takes a second of one core, a twelfth of what
        writing and shipping it takes. Raises Corrupt; None if nothing that lives is wrong, but the rest of the file."""
        data = self._disk.read(pack.number, 0, pack.stored_bytes)
        if wrong := rotten(data, places):
            raise Corrupt(
                f"{len(wrong)} of its chunks rotted on the disk of the state directory before any host had them; "
                "megafs check names the files: once they are removed or written anew, all else ships"
            )
        if len(data) != pack.stored_bytes or root_around(data, places, known) != pack.root:
            return None
        return stored_parts(data, pack.root, policy)

    async def _close_anew(self, pack: Pack) -> None:
        """What rotted is dead, or the end of the pack, which is made anew; unless a host has it as it was. A pack in
        which nothing lives is about to be dropped (sync.collect)."""
        if self._packs.copies(pack.number) or self._packs.is_empty(pack.number):
            self._note_trouble(pack.number, "a pack rotted on the disk of the state directory")
            return
        await self._writer.reopen(pack)
        self.durable.discard(pack.number)
        self.troubles.pop(pack.number, None)

    async def _put(
        self,
        pack: Pack,
        objects: Mapping[int, StoredPart],
        targets: Sequence[Part],
        have: set[Part],
        failed: dict[HostId, str],
    ) -> None:
        async def one(part: Part) -> None:
            stored = objects[part.shard]
            try:
                await self._objects.put(part.host, Kind.PACK, ident_pack(pack.id, part.shard), stored.data)
            except HostError as error:
                failed[part.host] = str(error)
                return
            have.add(part)
            if self._packs.get(pack.number) is not None:
                note_copy(self._packs, pack, part, stored)
                self._ledger.pay(pack.number, part.host, part.shard)

        async with trio.open_nursery() as nursery:
            for part in targets:
                nursery.start_soon(one, part)

    def _settle(self, pack: Pack, have: set[Part], owed: Sequence[Part], reasons: str) -> None:
        """Shipped if on enough hosts; what the policy wants beyond that is owed."""
        if self._packs.get(pack.number) is None or self._packs.local(pack.number) is None:
            return
        enough = self._landscape.enough()
        if not self._suffices(have, enough):
            reasons = reasons or "too few hosts are active"
            self._note_trouble(pack.number, f"a pack is on {len(have)} hosts and needs {enough}: {reasons}")
            return
        for part in owed:
            self._ledger.owe(pack.number, part.host, int(self._clock()), part.shard)
        self.troubles.pop(pack.number, None)
        self.durable.discard(pack.number)
        self._packs.set_local(pack.number, pack.stored_bytes, SHIPPED)

    def _suffices(self, have: Collection[Part], enough: int) -> bool:
        """Whether a pack may count as shipped, after every host that can take a part was asked."""
        is_enough = len({part.host for part in have}) >= enough
        if is_enough or not can_be_read(have):  # with no host at all it is us who are away
            self._short_since = float("inf")
            return is_enough
        self._short_since = min(self._short_since, trio.current_time())
        return not self.patience_left_s

    @property
    def patience_left_s(self) -> float:
        """How long something still waits for a host that fails now; 0: packs leave without it."""
        patience_s = self._settings.host_patience_s * SHORT
        return min(patience_s, max(0.0, self._short_since + patience_s - trio.current_time()))

    def _note_trouble(self, number: PackNumber, sentence: str, most_s: float = RETRY_MOST_S) -> None:
        before, now = self.troubles.get(number), trio.current_time()
        pause_s = RETRY_FIRST_S if before is None else min(2 * before.pause_s, most_s)
        retry_at = now + jittered(pause_s)
        if self._short_since <= now:
            retry_at = min(retry_at, now + self.patience_left_s)
        self.troubles[number] = Trouble(sentence=sentence, retry_at=retry_at, pause_s=pause_s)
