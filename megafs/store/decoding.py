"""Whole packs from any k of their shards: what reads fall back to when a data shard is missing, wrong or slow.

Shards in by a function that fetches one, packs out. Every shard is right by the Merkle root in its copy row before it
is decoded, and the pack by its own afterwards. Readers of one pack share one decoding, and the last packs are kept for
them: about 48 MiB for each pack at work, AT_ONCE at most, and KEPT packs of 16 MiB.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from megafs.crypto.merkle import root as merkle_root
from megafs.errors import Corrupt, Unavailable
from megafs.model import HostId, Pack, PackNumber
from megafs.packs import shards

AT_ONCE = 2
KEPT = 2
SPARE_AFTER_S = 5.0  # a shard that takes this long gets company from a host not yet asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A copy row of a pack in shards."""

    number: int
    host: HostId
    root: bytes

    async def is_right(self, data: bytes) -> bool:
        return await trio.to_thread.run_sync(merkle_root, data) == self.root


Fetch = Callable[[Pack, int, Shard], Awaitable[bytes | None]]


class Decoder:
    """Owner of the packs decoded last. A reader holds the lock of its pack while it fetches; no other lock is taken."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._locks: dict[PackNumber, trio.Lock] = {}
        self._kept: OrderedDict[PackNumber, bytes] = OrderedDict()

    def __contains__(self, number: PackNumber) -> bool:
        """Whether this pack is at hand."""
        return number in self._kept

    async def pack(self, pack: Pack, k: int, having: Sequence[Shard]) -> bytes:
        """The bytes of the pack. ``having``: the best hosts first. Raises Unavailable or Corrupt."""
        lock = self._locks.setdefault(pack.number, trio.Lock())
        try:
            async with lock:
                if pack.number not in self._kept:
                    async with self._limiter:
                        self._kept[pack.number] = await self._decode(pack, k, having)
                    while len(self._kept) > KEPT:
                        self._kept.popitem(last=False)
                self._kept.move_to_end(pack.number)
                return self._kept[pack.number]
        finally:
            if not lock.locked():  # nobody waits either: they would have it by now
                self._locks.pop(pack.number, None)

    async def _decode(self, pack: Pack, k: int, having: Sequence[Shard]) -> bytes:
        good = await self._gather(pack, k, having)
        if len(good) < k:
            raise Unavailable(f"{len(good)} right shards of a pack answer, and it takes {k}")

        def decoded() -> bytes:
            data = shards.decode(good, k, shards.SHARDS_MAX - k, pack.stored_bytes)
            if merkle_root(data) != pack.root:
                raise Corrupt("pack: its shards do not make what the index says")
            return data

        return await trio.to_thread.run_sync(decoded)

    async def _gather(self, pack: Pack, k: int, having: Sequence[Shard]) -> dict[int, bytes]:
        """k right shards, if there are so many: k are asked, one more for each that fails or takes long."""
        good: dict[int, bytes] = {}

        async def one(shard: Shard, over: trio.Event) -> None:
            try:
                data = await self._fetch(pack, k, shard)
                if data is not None and len(good) < k:
                    good[shard.number] = data
                    if len(good) == k:
                        nursery.cancel_scope.cancel()
            finally:
                over.set()

        async with trio.open_nursery() as nursery:
            asked: list[trio.Event] = []
            for shard in having:
                while sum(not over.is_set() for over in asked) >= k - len(good):
                    with trio.move_on_after(SPARE_AFTER_S) as patience:
                        await _any(asked)
                    if patience.cancelled_caught:
                        break
                asked.append(trio.Event())
                nursery.start_soon(one, shard, asked[-1])
        return good


async def _any(events: Sequence[trio.Event]) -> None:
    """Return when one more of them is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            if not event.is_set():
                nursery.start_soon(wait, event)
