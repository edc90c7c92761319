"""Hosts in one hand: they know everything that any of them saw, remember every version, and answer as they are told.

A ``Puppet`` wraps a true host. What it takes it stores; what it says goes through ``deed`` (bytes: changed, swapped,
withheld, injected, cut), ``size`` (HEAD) and ``listing`` (LIST), late by ``delay_s``, or comes from ``world``, an older
or another picture of itself, another one for each device. All puppets of a ``Brain`` share one transcript.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import trio

from megafs.errors import ObjectMissing
from megafs.hosts.protocol import Bytes, Host, checked_name
from megafs.hosts.wrappers import Wrapped
from tests.support.hosts import MemoryHost

Deed = Callable[[str, bytes | None], bytes | None]  # name, what is stored (None: nothing) -> what is served
Size = Callable[[str, int | None], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as a host sees it."""

    host: str
    verb: str
    name: str
    data: bytes = b""
    served: bytes | None = None  # of a get: what it answered; None: nothing
    at_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True, kw_only=True)
class Brain:
    """Owner of the transcript, and of every version of every object by (host, name)."""

    transcript: list[Seen] = field(default_factory=list)
    versions: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)

    def everything(self) -> set[bytes]:
        """All contents that were ever put anywhere, once each."""
        return {data for versions in self.versions.values() for data in versions}

    def trace(self) -> list[tuple[str, str, str, int]]:
        """What was asked, without what was answered."""
        return [(seen.host, seen.verb, seen.name, len(seen.data)) for seen in self.transcript]


class Puppet(Wrapped):
    """One host of a brain; honest until told otherwise."""

    def __init__(self, brain: Brain, label: str, inner: Host | None = None) -> None:
        self.memory = MemoryHost(label=label)
        super().__init__(inner or self.memory)
        self.brain, self.label = brain, label
        self.deed: Deed = lambda name, data: data
        self.size: Size = lambda name, size: size
        self.world: Mapping[str, bytes] | None = None  # None: what is stored
        self.listing: Callable[[dict[str, int]], dict[str, int]] = lambda there: there  # what LIST says
        self.delay_s = 0.0  # before each answer

    def picture(self) -> dict[str, bytes]:
        """What it holds now, to be served later as ``world``."""
        return dict(self.memory.objects)

    def _served(self, name: str) -> bytes | None:
        checked_name(name)
        world = self.memory.objects if self.world is None else self.world
        return self.deed(name, world.get(name))

    async def put(self, name: str, data: Bytes) -> None:
        self.brain.transcript.append(Seen(host=self.label, verb="put", name=name, data=bytes(data)))
        self.brain.versions.setdefault((self.label, name), []).append(bytes(data))
        await trio.sleep(self.delay_s)
        await self._inner.put(name, data)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        await self._inner.usage()  # a checkpoint, as every request has one
        await trio.sleep(self.delay_s)
        data = self._served(name)
        served = None if data is None else data[start:stop]
        self.brain.transcript.append(Seen(host=self.label, verb="get", name=name, served=served))
        if data is None:
            raise ObjectMissing(f"{self.label}: no object {name}")
        return data[start:stop]

    async def head(self, name: str) -> int:
        self.brain.transcript.append(Seen(host=self.label, verb="head", name=name))
        await self._inner.usage()
        await trio.sleep(self.delay_s)
        data = self._served(name)
        size = self.size(name, None if data is None else len(data))
        if size is None:
            raise ObjectMissing(f"{self.label}: no object {name}")
        return size

    async def delete(self, name: str) -> None:
        self.brain.transcript.append(Seen(host=self.label, verb="delete", name=name))
        await self._inner.delete(name)

    async def list(self) -> AsyncIterator[tuple[str, int]]:
        self.brain.transcript.append(Seen(host=self.label, verb="list", name=""))
        there = {name: size async for name, size in self._inner.list()}
        for name, size in self.listing(there).items():
            yield name, size
