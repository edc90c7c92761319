"""Cold reads from three hosts of which one is slow now and then, on trio's clock: what hedging is worth."""

import random
from os import urandom

import trio

from megafs.crypto.keys import Keyring, ident_pack
from megafs.crypto.merkle import root as merkle_root
from megafs.hosts import Stack, stacked
from megafs.index.database import Database
from megafs.index.packs import Packs
from megafs.model import WHOLE, HostId, Kind, PackId
from megafs.store.fetcher import HostFetcher
from tests.support.hosts import MemoryHost, SlowHost

READS = 600
NEAR_S, FAR_S = 0.01, 0.06  # the nearest host, the two others
STALL_S, EVERY = 0.24, 50  # of the nearest: every fiftieth request takes so long
SIZE = 1 << 20


class Stalling(SlowHost):
    """The nearest one, which is slow now and then."""

    def __init__(self, inner: MemoryHost) -> None:
        super().__init__(inner, latency_s=NEAR_S)
        self._asked = 0

    async def around(self, request, work):
        self._asked += 1
        self.latency_s = NEAR_S if self._asked % EVERY else STALL_S
        return await super().around(request, work)


class Patient(HostFetcher):
    """The control: waits for the host that was asked first."""

    def _hedge_s(self, host: HostId, count: int) -> float:
        return 1e9


async def cold_reads(database: Database, *, hedged: bool) -> list[float]:
    """How long each read took, in order of length. The clock must jump by itself."""
    keyring, packs, stacks = Keyring.create(bytes(32)), Packs(database), dict[HostId, Stack]()
    content = random.Random(1).randbytes(SIZE)
    number = packs.open(PackId(urandom(16)), 1)
    packs.close(number, SIZE, merkle_root(content))
    pack = packs.get(number)
    assert pack is not None
    for each in range(3):
        host, memory = HostId(bytes([each + 1]) * 16), MemoryHost()
        memory.objects[keyring.object_name(host, Kind.PACK, ident_pack(pack.id, WHOLE))] = content
        packs.add_copy(number, host, WHOLE, pack.root)
        slow = SlowHost(memory, latency_s=FAR_S) if each else Stalling(memory)
        stacks[host] = stacked(slow, label=f"host {each}", reply_s=60, patience_s=0)
    fetcher = (HostFetcher if hedged else Patient)(keyring, packs, stacks, limit_s=60)
    chance, took = random.Random(3), []
    for _ in range(READS):
        start = chance.randrange(SIZE - 4096)
        began = trio.current_time()
        data = await fetcher.fetch(pack, start, start + 4096, lambda data, s=start: data == content[s : s + 4096])
        assert data == content[start : start + 4096]
        took.append(trio.current_time() - began)
    return sorted(took)


def p99(took: list[float]) -> float:
    return took[int(0.99 * len(took))]
