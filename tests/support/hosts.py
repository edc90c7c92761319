"""A true host in memory, and faults as wrappers: dying, slow, full, counting, evil."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

import trio

from megafs.errors import HostFull, HostUnreachable, ObjectMissing
from megafs.hosts import pace
from megafs.hosts.protocol import Bytes, Host, checked_name, checked_range
from megafs.hosts.wrappers import Request, Wrapped
from megafs.model import Usage

Result = TypeVar("Result")


class MemoryHost:
    """Objects in a dict. ``space_bytes`` makes it full."""

    def __init__(self, *, label: str = "memory", space_bytes: int | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self._label = label
        self._space_bytes = space_bytes

    async def prepare(self) -> None:
        await trio.lowlevel.checkpoint()

    async def put(self, name: str, data: Bytes) -> None:
        await trio.lowlevel.checkpoint()
        checked_name(name)
        for piece in pace.current().cut(data):
            await pace.current().sending(len(piece))
        used = sum(map(len, self.objects.values())) - len(self.objects.get(name, b""))
        if self._space_bytes is not None and used + len(data) > self._space_bytes:
            raise HostFull(f"{self._label}: full")
        self.objects[name] = bytes(data)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        checked_range(start, stop)
        data = self._object(name)[start:stop]
        await pace.current().received(len(data))
        return data

    async def head(self, name: str) -> int:
        await trio.lowlevel.checkpoint()
        return len(self._object(name))

    async def delete(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self.objects.pop(checked_name(name), None)

    async def list(self):
        for name, data in list(self.objects.items()):
            await trio.lowlevel.checkpoint()
            yield name, len(data)

    async def usage(self) -> Usage:
        await trio.lowlevel.checkpoint()
        used = sum(map(len, self.objects.values()))
        free = None if self._space_bytes is None else self._space_bytes - used
        return Usage(free_bytes=free, used_bytes=used)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def _object(self, name: str) -> bytes:
        if checked_name(name) not in self.objects:
            raise ObjectMissing(f"{self._label}: no object {name}")
        return self.objects[name]


class DyingHost(Wrapped):
    """Unreachable after ``calls`` more requests, until ``revive``. ``halfway``: the fatal put or delete still lands."""

    def __init__(self, inner: Host, *, calls: int = 0, halfway: bool = False) -> None:
        super().__init__(inner)
        self.calls = calls
        self.halfway = halfway

    def die(self, *, after: int = 0) -> None:
        self.calls = after

    def revive(self) -> None:
        self.calls = 1 << 60

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        self.calls -= 1
        if self.calls < 0:
            if self.halfway and self.calls == -1:
                await work()
            await trio.lowlevel.checkpoint()
            raise HostUnreachable("dying: gone")
        return await work()


class FlakyHost(Wrapped):
    """Each request fails with probability ``share``; half of the failed ones were carried out before."""

    def __init__(self, inner: Host, *, share: float, seed: int = 0) -> None:
        super().__init__(inner)
        self.share = share
        self._random = random.Random(seed)

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        if self._random.random() >= self.share:
            return await work()
        if self._random.random() < 0.5:
            await work()
        await trio.lowlevel.checkpoint()
        raise HostUnreachable("flaky: try again")


class SlowHost(Wrapped):
    """Each request takes ``latency_s`` plus its bytes at ``bytes_s`` (0: any speed); ``hang`` stops all answers."""

    def __init__(self, inner: Host, *, latency_s: float = 0.0, bytes_s: float = 0.0) -> None:
        super().__init__(inner)
        self.latency_s = latency_s
        self.bytes_s = bytes_s
        self.hang = False

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        if self.hang:
            await trio.sleep_forever()
        await trio.sleep(self.latency_s)
        if self.bytes_s:
            await trio.sleep(request.sent_bytes / self.bytes_s)
        result = await work()
        if self.bytes_s and isinstance(result, bytes):
            await trio.sleep(len(result) / self.bytes_s)
        return result


class CountingHost(Wrapped):
    """Counts requests by verb and bytes each way; ``peak`` is how many ran at once at most."""

    def __init__(self, inner: Host) -> None:
        super().__init__(inner)
        self.requests: Counter[str] = Counter()
        self.sent_bytes = 0
        self.received_bytes = 0
        self.running = 0
        self.peak = 0

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        self.requests[request.verb] += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            result = await work()
        finally:
            self.running -= 1
        self.sent_bytes += request.sent_bytes
        self.received_bytes += len(result) if isinstance(result, bytes) else 0
        return result


class Evil(StrEnum):
    """What an evil host does to an object that is read."""

    MUTATE = "mutate"  # one bit differs
    TRUNCATE = "truncate"  # the last byte is not there
    EXTEND = "extend"  # a byte too many
    ZERO = "zero"
    SWAP = "swap"  # the content of another object
    WITHHOLD = "withhold"  # denies having it
    OLD = "old"  # what the name held before it was last put


class EvilHost(Wrapped):
    """Stores honestly, answers as ``deeds`` say (by name; ``everything`` for all); writes down what it saw."""

    def __init__(self, inner: Host) -> None:
        super().__init__(inner)
        self.deeds: dict[str, Evil] = {}
        self.everything: Evil | None = None
        self.swapped_with: dict[str, str] = {}
        self.transcript: list[tuple[str, str, int]] = []
        self.served_wrongly = 0
        self._old: dict[str, bytes] = {}

    async def put(self, name: str, data: Bytes) -> None:
        self.transcript.append(("put", name, len(data)))
        try:
            self._old[name] = await self._inner.get(name)
        except ObjectMissing:
            self._old[name] = b""
        await self._inner.put(name, data)

    async def head(self, name: str) -> int:
        self.transcript.append(("head", name, 0))
        return len(await self._answer(name))

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        answer = (await self._answer(name))[start:stop]
        self.transcript.append(("get", name, len(answer)))
        return answer

    async def delete(self, name: str) -> None:
        self.transcript.append(("delete", name, 0))
        await self._inner.delete(name)

    async def _answer(self, name: str) -> bytes:
        deed = self.deeds.get(name, self.everything)
        data = await self._inner.get(name)
        if deed is None:
            return data
        self.served_wrongly += 1
        match deed:
            case Evil.WITHHOLD:
                raise ObjectMissing(f"evil: no object {name}")
            case Evil.MUTATE:
                middle = len(data) // 2
                return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else b"\1"
            case Evil.TRUNCATE:
                return data[:-1]
            case Evil.EXTEND:
                return data + b"\0"
            case Evil.ZERO:
                return bytes(len(data))
            case Evil.OLD:
                return self._old.get(name, b"")
            case Evil.SWAP:
                return await self._inner.get(await self._other(name))

    async def _other(self, name: str) -> str:
        if name in self.swapped_with:
            return self.swapped_with[name]
        names = sorted([other async for other, _ in self._inner.list()])
        return names[(names.index(name) + 1) % len(names)]
