"""Ranges of packs from whichever hosts have them right: the fastest healthy one first, the next hedged in behind it.

Called by store.reader for chunks that are not here. Whole copies are read by range. Of a pack in shards the range is
read from the one or two data shards that hold it; if they are known to be away, from the same range of k others; and
only if that fails, too, or takes too long, or the range is large, any k shards are fetched whole (store.decoding). A
host that answers with wrong bytes, or not at all, costs time but never the read, as long as enough others have them; it
is named in the log and counted, and repair mends its copy.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import trio

from megafs.config import MIB
from megafs.crypto.keys import Keyring, ident_pack
from megafs.errors import Corrupt, HostError, MegaFSError, ObjectMissing, Unauthentic, Unavailable
from megafs.hosts import Stack
from megafs.index.packs import Packs
from megafs.model import WHOLE, HostId, Kind, Pack, PackNumber, shard_of, shard_parts
from megafs.packs import shards
from megafs.store.decoding import Decoder, Shard
from megafs.store.notices import Notices

log = logging.getLogger(__name__)

HEDGE_FIRST_S = 1.0  # until a host's p95 is known
HEDGE_LEAST_S = 0.02
DECODING_HEDGE_S = 3.0  # k whole shards for the sake of one chunk: not for a host that is merely slow today
DENIED_S, DENIED_MOST = 60.0, 10_000  # who has not a pack of which nothing is known is asked again after this
COLUMNS_SHARE = 4  # up to this part of a pack is decoded alone; of more, the whole is at hand for the next reader
RANGE_BYTES = 1 << 18  # what hosts are compared by
AHEAD_S = 2.0
AHEAD_LEAST_BYTES, AHEAD_MOST_BYTES = 4 * MIB, 16 * MIB
Verify = Callable[[bytes], bool]


class Attempt(NamedTuple):
    """One way to the bytes, and how long it is given before the next one starts beside it."""

    fetch: Callable[[], Awaitable[bytes | None]]
    hedge_s: float


class HostFetcher:
    """Owner of the counts of what hosts did wrong."""

    def __init__(self, keyring: Keyring, packs: Packs, stacks: Mapping[HostId, Stack], *, limit_s: float) -> None:
        self._keyring, self._packs, self._stacks = keyring, packs, stacks
        self._limit_s = limit_s
        self._decoder = Decoder(self._shard)
        self.notices = Notices(trio.current_time)
        # Of packs without copy rows: who had it, and who said not to and when.
        self._had: dict[PackNumber, HostId] = {}
        self._denied: dict[tuple[PackNumber, HostId], float] = {}
        self.wrong: dict[HostId, int] = {}  # answers that did not open
        self.on_damage: Callable[[Pack, HostId], None] = lambda pack, host: None
        self.starving = False  # the last range wanted was not to be had
        self.on_answer: Callable[[], None] = lambda: None  # that is over

    def ranked(self) -> list[HostId]:
        """All hosts, best to read from first: healthy before not, fast before slow."""

        def rank(host: HostId) -> tuple[bool, float]:
            return not self._is_well(host), self._stacks[host].measured.expected_s(RANGE_BYTES)

        return sorted(self._stacks, key=rank)

    @property
    def is_offline(self) -> bool:
        """Whether hosts are away so that what was wanted last was not to be had. One file alone may be lost with all of
        them there."""
        return self.starving and not all(map(self._is_well, self._stacks))

    def _is_well(self, host: HostId) -> bool:
        measured = self._stacks[host].measured
        return measured.healthy and not measured.hangs

    def reach_bytes(self, least_bytes: int = AHEAD_LEAST_BYTES) -> int:
        """What the best host brings in AHEAD_S: with less under way the line would be idle between two requests."""
        best = next(iter(self.ranked()), None)
        rate = self._stacks[best].measured.download_bytes_s if best is not None else 0.0
        return int(min(max(rate * AHEAD_S, least_bytes), AHEAD_MOST_BYTES))

    async def fetch(self, pack: Pack, start: int, stop: int, verify: Verify) -> bytes:
        """The range as ``verify`` accepts it. Raises Unavailable, within the limit, or a quarter of it if that is how
        the last one ended: a program that goes through a hundred files should not wait for each as for the first."""
        with trio.move_on_after(self._limit_s / 4 if self.starving else self._limit_s):
            copies: object = None
            while copies != (copies := self._packs.copies(pack.number)):  # again if they moved while we asked
                found = await self._hedged(self._attempts(pack, start, stop, verify))
                if found is not None:
                    if self.starving:
                        self.starving = False
                        self.on_answer()
                    return found
        self.starving = True
        raise Unavailable("too few hosts answer with the right bytes of this file")

    async def _hedged(self, attempts: Iterator[Attempt]) -> bytes | None:
        """What the first attempt that succeeds brings; each next one begins when the one before fails or is slow."""
        found: bytes | None = None

        async def follow(attempt: Attempt, over: trio.Event) -> None:
            nonlocal found
            try:
                data = await attempt.fetch()
                if data is not None:
                    found = found or data
                    nursery.cancel_scope.cancel()
            finally:
                over.set()

        async with trio.open_nursery() as nursery:
            for attempt in attempts:
                over = trio.Event()
                nursery.start_soon(follow, attempt, over)
                with trio.move_on_after(attempt.hedge_s):
                    await over.wait()
        return found

    def _attempts(self, pack: Pack, start: int, stop: int, verify: Verify) -> Iterator[Attempt]:
        """Known copies, then shards, then hosts of which nothing is known: a copy row may have been lost with a commit
        that never shipped. Of those who had it comes first the next time, and who had not is not asked again soon."""
        ranked = self.ranked()
        known: set[HostId] = set()
        sharded: dict[int, list[Shard]] = {}
        for host, shard, root in self._packs.copies(pack.number):
            if host in self._stacks and shard == WHOLE:
                known.add(host)
            elif host in self._stacks:
                k, number = shard_parts(shard)
                sharded.setdefault(k, []).append(Shard(number=number, host=host, root=root))

        def whole(host: HostId) -> Attempt:
            is_known = host in known
            return Attempt(
                partial(self._from_copy, pack, host, start, stop, verify, is_known), self._hedge_s(host, stop - start)
            )

        yield from (whole(host) for host in ranked if host in known)
        for k, having in sharded.items():
            having.sort(key=lambda shard: ranked.index(shard.host))
            if pack.number in self._decoder:
                yield Attempt(partial(self._decoded, pack, k, having, start, stop, verify), self._limit_s)
            silent: set[HostId] = set()
            if slices := self._slices(pack, k, having, start, stop):
                silent = {shard.host for shard, _ in slices}
                hedge_s = max(self._decoding_hedge_s(host, stop - start) for host in silent)
                yield Attempt(partial(self._from_slices, pack, k, slices, verify, silent), hedge_s)
                having.sort(key=lambda shard: shard.host in silent)
            if len({shard.number for shard in having}) >= k:
                # One that hangs costs a wait each time: then the whole is fetched, for the next reader to have at once.
                if k > 1 and not silent and COLUMNS_SHARE * (stop - start) <= pack.stored_bytes:
                    hedge_s = max(self._decoding_hedge_s(shard.host, stop - start) for shard in having)
                    yield Attempt(partial(self._from_columns, pack, k, list(having), start, stop, verify), hedge_s)
                yield Attempt(partial(self._decoded, pack, k, having, start, stop, verify), self._limit_s)
        if not sharded:
            unlisted = [host for host in ranked if host not in known and self._may_have(pack.number, host)]
            unlisted.sort(key=lambda host: host != self._had.get(pack.number))
            yield from (whole(host) for host in unlisted)

    def _may_have(self, pack: PackNumber, host: HostId) -> bool:
        denied_s = self._denied.get((pack, host))
        return denied_s is None or trio.current_time() > denied_s + DENIED_S

    def _slices(
        self, pack: Pack, k: int, having: list[Shard], start: int, stop: int
    ) -> list[tuple[Shard, shards.Slice]] | None:
        """Which bytes of which known shards make up the range; None if a data shard of it is nowhere, or known to be
        on a host that is down."""
        first = {shard.number: shard for shard in reversed(having)}
        wanted = shards.data_range(k, pack.stored_bytes, start, stop) if pack.stored_bytes else []
        if any(s.shard not in first or not self._is_well(first[s.shard].host) for s in wanted):
            return None
        return [(first[each.shard], each) for each in wanted]

    async def _from_copy(
        self, pack: Pack, host: HostId, start: int, stop: int, verify: Verify, is_known: bool
    ) -> bytes | None:
        data = await self._get(pack, host, WHOLE, start, stop, is_known=is_known)
        if data is None or verify(data):
            if data is not None and not is_known:
                self._had[pack.number] = host
            return data
        self._note_wrong(pack, host)
        return None

    async def _from_slices(
        self, pack: Pack, k: int, slices: list[tuple[Shard, shards.Slice]], verify: Verify, silent: set[HostId]
    ) -> bytes | None:
        """``silent`` is left with the hosts that have not answered yet."""
        parts: dict[int, bytes] = {}

        async def one(shard: Shard, wanted: shards.Slice) -> None:
            data = await self._get(pack, shard.host, shard_of(k, shard.number), wanted.start, wanted.stop)
            silent.discard(shard.host)
            if data is not None:
                parts[shard.number] = data

        async with trio.open_nursery() as nursery:
            for shard, wanted in slices:
                nursery.start_soon(one, shard, wanted)
        if len(parts) < len(slices):
            return None
        data = b"".join(parts[shard.number] for shard, _ in slices)
        if verify(data):
            return data
        if len(slices) == 1:
            self._note_wrong(pack, slices[0][0].host)  # of several, decoding finds out which
        return None

    async def _from_columns(
        self, pack: Pack, k: int, having: list[Shard], start: int, stop: int, verify: Verify
    ) -> bytes | None:
        """Each part of the range from its data shard, or from the same bytes of k others. Only what comes out can be
        checked: if that is wrong, decoding whole shards finds out which one it was."""
        data = b""
        for wanted in shards.data_range(k, pack.stored_bytes, start, stop):
            found = await self._columns(pack, k, having, wanted)
            if wanted.shard in found:
                data += found[wanted.shard]
            elif len(found) == k:
                try:
                    data += await trio.to_thread.run_sync(shards.decode_columns, found, k, wanted.shard)
                except Corrupt:
                    return None
            else:
                return None
        return data if verify(data) else None

    async def _columns(self, pack: Pack, k: int, having: list[Shard], wanted: shards.Slice) -> dict[int, bytes]:
        """These bytes of k shards, the best hosts' first; k at a time are asked, others for those that fail."""
        found: dict[int, bytes] = {}
        left = list({shard.number: shard for shard in reversed(having)}.values())
        left.sort(key=having.index)

        async def one(shard: Shard) -> None:
            data = await self._get(pack, shard.host, shard_of(k, shard.number), wanted.start, wanted.stop)
            if data is not None:
                found[shard.number] = data

        while len(found) < k and len(left) >= k - len(found):
            asked, left = left[: k - len(found)], left[k - len(found) :]
            async with trio.open_nursery() as nursery:
                for shard in asked:
                    nursery.start_soon(one, shard)
        return found

    async def _decoded(
        self, pack: Pack, k: int, having: list[Shard], start: int, stop: int, verify: Verify
    ) -> bytes | None:
        try:
            data = (await self._decoder.pack(pack, k, having))[start:stop]
        except MegaFSError as error:
            self.notices.tell(("decoding", type(error)), log.info, f"pack {pack.number} cannot be decoded now: {error}")
            return None
        return data if verify(data) else None

    async def _shard(self, pack: Pack, k: int, shard: Shard) -> bytes | None:
        """A whole shard, right by its root; None if its host does not give it."""
        size = shards.shard_bytes(k, pack.stored_bytes)
        data = await self._get(pack, shard.host, shard_of(k, shard.number), 0, size)
        if data is not None and not await shard.is_right(data):
            self._note_wrong(pack, shard.host)
            return None
        return data

    async def _get(
        self, pack: Pack, host: HostId, shard: int, start: int, stop: int, *, is_known: bool = True
    ) -> bytes | None:
        name = self._keyring.object_name(host, Kind.PACK, ident_pack(pack.id, shard))
        try:
            data = await self._stacks[host].prompt.get(name, start, stop)
        except HostError as error:
            label = self._stacks[host].label
            self.notices.tell((host, type(error)), log.info, f"reading from {label} failed: {error}")
            if isinstance(error, ObjectMissing):
                if is_known:
                    self.on_damage(pack, host)
                else:
                    self._note_denied(pack.number, host)
            return None
        if len(data) == stop - start:
            return data
        self._note_wrong(pack, host)
        return None

    def _note_denied(self, pack: PackNumber, host: HostId) -> None:
        if len(self._denied) > DENIED_MOST:
            self._denied.clear()
        self._denied[pack, host] = trio.current_time()

    def _hedge_s(self, host: HostId, count: int) -> float:
        measured = self._stacks[host].measured
        p95_s = measured.p95_s(count)
        if p95_s:
            return max(HEDGE_LEAST_S, p95_s)
        return HEDGE_FIRST_S + measured.expected_s(count)

    def _decoding_hedge_s(self, host: HostId, count: int) -> float:
        """A host that did not answer the last time gets no more than the least; what it took then says nothing."""
        usual_s = 0.0 if self._stacks[host].measured.given_up else 3 * self._hedge_s(host, count)
        return max(DECODING_HEDGE_S, usual_s)

    def _note_wrong(self, pack: Pack, host: HostId) -> None:
        self.wrong[host] = self.wrong.get(host, 0) + 1
        label = self._stacks[host].label
        sentence = f"{label} answered with wrong bytes of pack {pack.number}; asking another"
        self.notices.tell((host, Unauthentic), log.warning, sentence)
        self.on_damage(pack, host)
