"""Decoding keeps its promise of memory: a few packs at a time, however many readers fall back to it at once."""

import random
import tracemalloc
from os import urandom

import pytest
import trio

from megafs.crypto.merkle import root as merkle_root
from megafs.model import HostId, Pack, PackId, PackNumber
from megafs.packs import shards
from megafs.store.decoding import AT_ONCE, KEPT, Decoder, Shard

K, M = 2, 2
SIZE = 1 << 20
PACKS = 24
MOST_BYTES = (3 * AT_ONCE + KEPT + 2) * SIZE  # shards, what they decode to and a copy of it; what is kept


def hosted(number):
    """A pack, the shards of it that are left (the parity), and their rows."""
    content = random.Random(number).randbytes(SIZE)
    pack = Pack(
        number=PackNumber(number),
        id=PackId(urandom(16)),
        epoch=1,
        stored_bytes=SIZE,
        root=merkle_root(content),
        dead_since_s=0,
    )
    parts = shards.encode(content, K, M)
    rows = [Shard(number=n, host=HostId(bytes([n]) * 16), root=merkle_root(parts[n])) for n in (2, 3)]
    return pack, parts, rows, content[:64]


async def peak_bytes(at_once):
    """Of all packs wanted at the same time."""
    stored = {number: hosted(number) for number in range(1, PACKS + 1)}
    running = most = 0

    async def fetch(pack, k, shard):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0)
        running -= 1
        data = bytes(bytearray(stored[pack.number][1][shard.number]))  # as from a line: bytes of its own
        return data if await shard.is_right(data) else None

    decoder = Decoder(fetch)
    if at_once is not None:
        decoder._limiter.total_tokens = at_once

    async def read(pack, rows, beginning):
        assert (await decoder.pack(pack, K, rows))[:64] == beginning

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        async with trio.open_nursery() as nursery:
            for pack, _, rows, beginning in stored.values():
                nursery.start_soon(read, pack, rows, beginning)
        return tracemalloc.get_traced_memory()[1] - before, most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("at_once", [None, PACKS])
async def test_few_packs_are_in_memory_at_once(at_once):
    peak, most = await peak_bytes(at_once)
    if at_once is None:
        assert peak <= MOST_BYTES
        assert most <= AT_ONCE * K
    else:
        assert peak > MOST_BYTES, "the control: with no limit it would be noticed"
