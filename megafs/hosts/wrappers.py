"""What every host gets around itself: a time limit, limits of rate and connections, and retries.

``Retrying(Limited(Measured(Timed(host))))`` is the usual order (``hosts.stacked`` builds it); Measured has its own
module. Each wrapper is a Host again. They share one hook, ``around``, through which each request passes with its size.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from megafs.config import PACK_BYTES
from megafs.errors import HostUnreachable
from megafs.hosts import pace
from megafs.hosts.protocol import Bytes, Host
from megafs.model import Usage

Result = TypeVar("Result")
END = None  # what the iteration of ``list`` passes through ``around`` after the last entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request on its way. ``wanted_bytes`` None: the answer's size is not known beforehand."""

    verb: str
    sent_bytes: int = 0
    wanted_bytes: int | None = 0


class Wrapped:
    """A host whose requests all pass through ``around``; as it stands it changes nothing."""

    def __init__(self, inner: Host) -> None:
        self._inner = inner

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        """Do the work, with whatever this wrapper adds."""
        return await work()

    async def prepare(self) -> None:
        await self.around(Request(verb="prepare"), self._inner.prepare)

    async def put(self, name: str, data: Bytes) -> None:
        await self.around(Request(verb="put", sent_bytes=len(data)), lambda: self._inner.put(name, data))

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        request = Request(verb="get", wanted_bytes=None if stop is None else stop - start)
        return await self.around(request, lambda: self._inner.get(name, start, stop))

    async def head(self, name: str) -> int:
        return await self.around(Request(verb="head"), lambda: self._inner.head(name))

    async def delete(self, name: str) -> None:
        await self.around(Request(verb="delete"), lambda: self._inner.delete(name))

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        async with aclosing(self._inner.list()) as entries:  # type: ignore[type-var]  # an async generator, always

            async def following() -> tuple[str, int] | None:
                return await anext(entries, END)

            while (entry := await self.around(Request(verb="list"), following)) is not END:
                yield entry

    async def usage(self) -> Usage:
        return await self.around(Request(verb="usage"), self._inner.usage)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Timed(Wrapped):
    """Ends a request that takes longer than ``reply_s`` plus its bytes at ``floor_bytes_s``: no answer is an answer.

    A limit on the whole request, because a slow drip of bytes defeats limits on single reads; by size, because 16 MiB
    take two minutes on an honest 1 Mbit/s line. What the request waits for our own limits of rate does not count.
    """

    def __init__(self, inner: Host, *, label: str, reply_s: float, floor_bytes_s: float = 64 << 10) -> None:
        super().__init__(inner)
        self._label = label
        self._reply_s = reply_s
        self._floor_bytes_s = floor_bytes_s

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        moved = request.sent_bytes + (PACK_BYTES if request.wanted_bytes is None else request.wanted_bytes)
        limit_s = self._reply_s + moved / self._floor_bytes_s
        try:
            with trio.fail_after(limit_s) as scope:
                pace.current().scope = scope
                return await work()
        except trio.TooSlowError as error:
            raise HostUnreachable(f"{self._label}: no answer to {request.verb} within {limit_s:.0f} s") from error


def jittered(pause_s: float, chance: Callable[[], float] = random.random) -> float:
    """Half to one and a half of a pause: devices that lost a host together do not come back together."""
    return pause_s * (0.5 + chance())


class Retrying(Wrapped):
    """Repeats what met HostUnreachable, with growing, jittered pauses, for ``patience_s``; then lets the error through.

    0 means one attempt. All requests can be repeated: puts are idempotent, and a list starts anew without what it gave.
    """

    def __init__(
        self,
        inner: Host,
        *,
        patience_s: float,
        first_s: float = 0.25,
        most_s: float = 15.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        self._patience_s = patience_s
        self._first_s = first_s
        self._most_s = most_s
        self._chance = chance

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        deadline = trio.current_time() + self._patience_s
        pause_s = self._first_s
        while True:
            try:
                return await work()
            except HostUnreachable:
                wait_s = jittered(pause_s, self._chance)
                if trio.current_time() + wait_s > deadline:
                    raise
            await trio.sleep(wait_s)
            pause_s = min(2 * pause_s, self._most_s)

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        given: set[str] = set()
        entries = self._inner.list()

        async def following() -> tuple[str, int] | None:
            nonlocal entries
            try:
                while (entry := await anext(entries, END)) is not END and entry[0] in given:
                    pass
            except HostUnreachable:
                entries = self._inner.list()  # one that has raised is over
                raise
            return entry

        try:
            while (entry := await self.around(Request(verb="list"), following)) is not END:
                given.add(entry[0])
                yield entry
        finally:
            await _closed(entries)


async def _closed(entries: AsyncIterator[tuple[str, int]]) -> None:
    async with aclosing(entries):  # type: ignore[type-var]  # an async generator, always
        pass


class Limited(Wrapped):
    """At most ``connections`` requests at a time, and bytes per second each way through the buckets given (pace.py).

    Puts leave one connection free if there are two or more: a pack may take minutes, a reader must not wait for it.
    """

    def __init__(
        self, inner: Host, *, connections: int, up: pace.TokenBucket | None = None, down: pace.TokenBucket | None = None
    ) -> None:
        super().__init__(inner)
        self._all = trio.CapacityLimiter(connections)
        self._puts = trio.CapacityLimiter(max(1, connections - 1))
        self._up = up or pace.UNLIMITED
        self._down = down or pace.UNLIMITED

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        async with self._lane(request), self._all:
            with pace.paced(self._up, self._down):
                return await work()

    @asynccontextmanager
    async def _lane(self, request: Request) -> AsyncIterator[None]:
        if request.verb == "put":
            async with self._puts:
                yield
        else:
            yield
