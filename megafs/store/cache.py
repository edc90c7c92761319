"""The bounded cache of pack files: how much may be accepted, and what is thrown out. Only shipped packs are ever
evicted.

Asked by files.content before each write (``admit``); told by sync when packs ship and by the reader when it fetched.
Writers are slowed from 60 % of the limit on un-shipped bytes, long before they would have to stop; they are refused
when the cache is full of what no host takes, or when the disk itself is nearly full. Eviction runs in the background.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import trio

from megafs.config import CACHE_LEAST_BYTES, CACHE_STALL_S, DISK_RESERVE_BYTES, GIB, MIB, PACK_BYTES
from megafs.errors import MegaFSError, NoSpace
from megafs.index.packs import SHIPPED, Packs
from megafs.model import PackNumber
from megafs.store.disk import Disk
from megafs.store.writer import PackWriter

log = logging.getLogger(__name__)

NEVER = float("inf")
THIN_BYTES = MIB  # a pinned pack with so much else in it is worth punching
Ranges = Mapping[PackNumber, Sequence[tuple[int, int]]]  # of packs: (start, stop) in order
SLOW_FROM = 0.6  # of the limit, in un-shipped bytes
SLOW_MOST_S = 0.25  # for one request just below the limit
WAIT_S = 1.0  # at the limit, while hosts still take something
EVICT_FROM, EVICT_TO = 0.9, 0.75  # watermarks of everything in the cache
DEFAULT_MOST_BYTES = 20 * GIB
LOOK_S = 0.5  # the disk and the table are looked at this often while something changes


def default_limit(free_bytes: int) -> int:
    """A tenth of the free disk, 20 GiB at most."""
    return max(CACHE_LEAST_BYTES, min(free_bytes // 10, DEFAULT_MOST_BYTES))


async def _nothing() -> Ranges:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How full the cache is, in bytes."""

    local: int  # in all pack files
    unshipped: int
    limit: int


class Cache:
    """Owner of the accounting."""

    def __init__(
        self,
        disk: Disk,
        packs: Packs,
        writer: PackWriter,
        limit_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk, self._packs, self._writer = disk, packs, writer
        self.limit_bytes = limit_bytes
        self._clock = clock
        self._closed = self._shipped = 0
        self._disk_free = disk.free_bytes()
        self._progress_s = clock()
        self._full_since_s = NEVER
        self.pinned: Callable[[], Awaitable[Ranges]] = _nothing  # what must stay; set by who owns the pins
        # On fewer hosts than the policy wants: these go last. Set by who knows the policy.
        self.thin: Callable[[], Collection[PackNumber]] = tuple
        self.durable_now: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint  # set by who owns the commits
        self._settled = self._shipped_packs()  # a crash brings back an index in which these are shipped, too
        self._woken = trio.Event()
        self._woken.set()
        self.evicted = 0
        self.refusing = ""  # why nothing is accepted; empty: it is
        self.refresh()

    def refresh(self) -> None:
        """Count again."""
        closed = shipped = 0
        open_numbers = {pack.number for pack in self._writer.unclosed()}
        for number, size, state, _ in self._packs.locals():
            if state == SHIPPED:
                shipped += size
            elif number not in open_numbers:
                closed += size
        if closed < self._closed or shipped > self._shipped:
            self._progress_s = self._clock()
        self._closed, self._shipped = closed, shipped

    def _shipped_packs(self) -> set[PackNumber]:
        return {number for number, _, state, _ in self._packs.locals() if state == SHIPPED}

    def wake(self) -> None:
        """Something was shipped, fetched or committed: look again soon."""
        self._woken.set()

    def level(self) -> Level:
        """As the rows have it now."""
        self.refresh()
        unshipped = self._closed + self._writer.unclosed_bytes
        return Level(local=unshipped + self._shipped, unshipped=unshipped, limit=self.limit_bytes)

    def admit(self, size: int) -> float:
        """Asked before ``size`` bytes are accepted: for how many seconds to slow down. Raises NoSpace."""
        unshipped = self._closed + self._writer.unclosed_bytes + size
        fullness = unshipped / self.limit_bytes
        if self._disk_free < DISK_RESERVE_BYTES:
            raise self._refused("the disk of the state directory is nearly full")
        if fullness < SLOW_FROM:
            if self.refusing:
                self.refusing = ""
            self._full_since_s = NEVER
            return 0.0
        self._woken.set()
        if fullness < 1:
            self._full_since_s = NEVER
            return SLOW_MOST_S * ((fullness - SLOW_FROM) / (1 - SLOW_FROM)) ** 2
        now_s = self._clock()
        self._full_since_s = min(self._full_since_s, now_s)
        if now_s - max(self._progress_s, self._full_since_s) > CACHE_STALL_S:
            raise self._refused("the cache is full of data that the hosts do not take")
        return WAIT_S

    def _refused(self, why: str) -> NoSpace:
        self._woken.set()
        if self.refusing != why:
            self.refusing = why
            log.warning("nothing is accepted: %s", why)
        return NoSpace(why)

    async def run(self) -> None:
        """Evict while there is too much. Ends by cancellation; does not wake up while nothing happens."""
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            try:
                self._disk_free = await trio.to_thread.run_sync(self._disk.free_bytes)
                self.refresh()
                await self._evict()
            except MegaFSError as error:  # the disk refuses; the daemon lives on, and writers are told by their writes
                log.warning("the cache was not looked after: %s", error)
            await trio.sleep(LOOK_S)

    async def _evict(self) -> None:
        level = self.level()
        short = max(0, DISK_RESERVE_BYTES * 2 - self._disk_free)
        if level.local <= EVICT_FROM * level.limit and not short:
            return
        excess = max(level.local - int(EVICT_TO * level.limit), short)
        shipped = self._shipped_packs()
        if not shipped <= self._settled:
            await self._settle(shipped)
        pinned, thin = await self.pinned(), set(self.thin())
        for number, size, state, _ in sorted(self._packs.locals(), key=lambda row: row[0] in thin):
            if excess <= 0:
                break
            if state == SHIPPED and number in self._settled and number not in pinned:
                self._packs.delete_local(number)
                await trio.to_thread.run_sync(self._disk.unlink, number)
                self.evicted += 1
                excess -= size
        for number, size, state, _ in self._packs.locals():
            if excess > 0 and state == SHIPPED and number in self._settled and number in pinned:
                excess -= await self._thin(number, size, pinned[number])
        self.refresh()

    async def _thin(self, number: PackNumber, size: int, kept: Sequence[tuple[int, int]]) -> int:
        """Of a pack with something pinned in it only that stays. Returns the bytes given back."""
        given = size - sum(stop - start for start, stop in kept)
        if given < THIN_BYTES:
            return 0

        def punch() -> None:
            at = 0
            for start, stop in [*kept, (PACK_BYTES * 2, 0)]:
                if start > at:
                    self._disk.punch(number, at, start - at)
                at = max(at, stop)

        self._packs.set_local(number, size - given, SHIPPED)
        await trio.to_thread.run_sync(punch)
        self.evicted += 1
        return given

    async def _settle(self, shipped: set[PackNumber]) -> None:
        """What was shipped just now may be evicted once that is durable. A commit that fails, maybe because the disk is
        full, must not keep the others from making room."""
        try:
            await self.durable_now()
        except MegaFSError as error:
            log.warning("only packs that were shipped earlier can be evicted: %s", error)
        else:
            self._settled = shipped
