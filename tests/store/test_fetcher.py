"""Reads of packs from hosts: the slices that hold a range, else any k right shards, whatever hosts do meanwhile."""

import random
from os import urandom

import pytest
import trio

from megafs.crypto.keys import Keyring, ident_pack
from megafs.crypto.merkle import root as merkle_root
from megafs.errors import Unavailable
from megafs.hosts import stacked
from megafs.hosts.measured import HANGS_S
from megafs.index.database import Database
from megafs.index.packs import Packs
from megafs.model import HostId, Kind, PackId, Policy
from megafs.packs import shards
from megafs.store.fetcher import HostFetcher
from tests.support.hosts import CountingHost, DyingHost, MemoryHost, SlowHost
from tests.support.keys import raw

CONTENT = random.Random(1).randbytes(300_001)
RANGE = (149_000, 152_000)  # over the end of the first of two data shards
POLICY = Policy(k=2, m=2)
LIMIT_S = 30.0


class Place:
    """A host whose faults are at hand."""

    def __init__(self, number):
        self.id = HostId(bytes([number]) * 16)
        self.memory = MemoryHost()
        self.slow = SlowHost(self.memory)
        self.counting = CountingHost(self.slow)
        self.dying = DyingHost(self.counting, calls=1 << 60)
        self.stack = stacked(self.dying, label=f"host {number}", reply_s=20, patience_s=0)


class World:
    def __init__(self, database):
        self.packs, self.keyring = Packs(database), Keyring.create(bytes(32))
        self.places = [Place(number) for number in range(4)]
        self.damaged = []
        self.start()
        number = self.packs.open(PackId(urandom(16)), 1)
        self.packs.close(number, len(CONTENT), merkle_root(CONTENT))
        self.pack = self.packs.get(number)

    def start(self):
        """A fetcher that has nothing decoded yet."""
        stacks = {place.id: place.stack for place in self.places}
        self.fetcher = HostFetcher(self.keyring, self.packs, stacks, limit_s=LIMIT_S)
        self.fetcher.on_damage = lambda pack, host: self.damaged.append(host)

    def name(self, place, shard):
        return self.keyring.object_name(place.id, Kind.PACK, ident_pack(self.pack.id, shard))

    async def put_shards(self):
        for place, shard, data in zip(
            self.places, POLICY.shards, shards.encode(CONTENT, POLICY.k, POLICY.m), strict=True
        ):
            await place.memory.put(self.name(place, shard), data)
            self.packs.add_copy(self.pack.number, place.id, shard, merkle_root(data))

    def spoil(self, number):
        place = self.places[number]
        name = self.name(place, POLICY.shards[number])
        data = bytearray(place.memory.objects[name])
        data[100:-1:50] = bytes(len(data[100:-1:50]))
        place.memory.objects[name] = bytes(data)

    async def read(self, start=RANGE[0], stop=RANGE[1]):
        data = await self.fetcher.fetch(self.pack, start, stop, lambda data: data == CONTENT[start:stop])
        assert data == CONTENT[start:stop]

    @property
    def received(self):
        return [place.counting.received_bytes for place in self.places]


@pytest.fixture
async def world(tmp_path):
    database = Database(tmp_path / "index.db", raw(bytes(32)), create=True)
    database.adopt(1)
    world = World(database)
    await world.put_shards()
    yield world
    database.close()


async def test_a_range_costs_its_own_bytes(world):
    await world.read()
    await world.read(5, 10)
    assert sum(world.received) == RANGE[1] - RANGE[0] + 5
    assert world.received[2:] == [0, 0]


@pytest.mark.parametrize("missing", [(0,), (1,), (0, 1), (1, 3), (2, 3)])
async def test_any_two_of_four_suffice(world, missing):
    for number in missing:
        world.places[number].memory.objects.clear()
    await world.read()
    if 0 in missing:
        assert world.places[0].id in world.damaged
        before = sum(world.received)
        await world.read(0, len(CONTENT))
        await world.read(17, 18)
        first = shards.slice_bytes(POLICY.k, len(CONTENT))  # the data shard that is there, before the others are asked
        whole = POLICY.k * shards.shard_bytes(POLICY.k, len(CONTENT))
        assert sum(world.received) <= before + first + whole, "what was decoded is kept for the next readers"


@pytest.mark.parametrize(("start", "stop"), [(10, 1010), (149_900, 150_900), (200_000, 201_000)])
async def test_a_range_of_a_lost_data_shard_costs_k_times_its_bytes(world, start, stop):
    for number in (0, 1):
        world.places[number].memory.objects.clear()
    await world.read(start, stop)
    assert sum(world.received) == POLICY.k * (stop - start)
    world.spoil(2)  # the control: what comes out is checked, and then whole shards tell whose fault it is
    before = sum(world.received)
    world.start()
    with pytest.raises(Unavailable):
        await world.read(start, stop)
    assert world.places[2].id in world.damaged
    assert sum(world.received) > before + shards.shard_bytes(POLICY.k, len(CONTENT))


async def test_a_range_of_a_pack_in_many_shards_is_made_from_those_that_are_there(world):
    for number in (0, 2):
        world.places[number].memory.objects.clear()
    await world.read(10, 1010)
    assert world.received == [0, 1000, 0, 1000]


@pytest.mark.parametrize("wrong", [(0,), (0, 1), (1, 2)])
async def test_wrong_shards_are_found_out_and_never_decoded(world, wrong, caplog):
    for number in wrong:
        world.spoil(number)
    await world.read()
    assert set(world.damaged) == {world.places[number].id for number in wrong if number < 2} | (
        {world.places[2].id} if 2 in wrong and world.places[2].id in world.damaged else set()
    )
    assert set(world.fetcher.wrong) == set(world.damaged)


async def test_too_few_are_told_and_nothing_is_given_out(world):
    for number in (0, 1):
        world.places[number].memory.objects.clear()
    world.spoil(2)
    with pytest.raises(Unavailable):
        await world.read()
    assert world.places[3].id not in world.damaged


async def test_hosts_that_hang_are_overtaken(world, autojump_clock):
    world.places[0].slow.hang = True
    started = trio.current_time()
    await world.read()
    assert trio.current_time() - started < LIMIT_S
    for place in world.places:
        place.slow.hang = True
    world.start()
    started = trio.current_time()
    with pytest.raises(Unavailable):
        await world.fetcher.fetch(world.pack, 0, 10, lambda data: True)
    assert trio.current_time() - started <= LIMIT_S + 1


async def test_a_host_known_to_be_down_is_not_waited_for(world):
    world.places[1].dying.die()
    while world.places[1].stack.measured.healthy:
        with pytest.raises(Exception, match="gone"):
            await world.places[1].stack.prompt.head("a")
    await world.read()
    assert world.received[1] == 0


async def test_readers_of_one_pack_share_a_decoding(world):
    world.places[0].memory.objects.clear()
    async with trio.open_nursery() as nursery:
        for start in range(0, 100_000, 10_000):
            nursery.start_soon(world.read, start, start + 10)
    assert sum(world.received) <= 3 * shards.shard_bytes(2, len(CONTENT))


async def test_whole_copies_come_first(world):
    place = world.places[3]
    await place.memory.put(world.name(place, -1), CONTENT)
    world.packs.add_copy(world.pack.number, place.id, -1, world.pack.root)
    await world.read()
    assert world.received == [0, 0, 0, RANGE[1] - RANGE[0]]


async def test_copies_that_move_meanwhile_are_followed(world):
    """The policy changes while a read is under way: the shards it asked for are gone, a copy is there."""
    place = world.places[3]
    for other in world.places:
        other.memory.objects.clear()
    await place.memory.put(world.name(place, -1), CONTENT)
    done = []

    def moved(pack, host):
        if not done:
            done.append(host)
            world.packs.add_copy(world.pack.number, place.id, -1, world.pack.root)

    world.fetcher.on_damage = moved
    await world.read()
    assert done


async def test_a_pack_without_rows_is_asked_for_everywhere_once(world):
    """A row may have been lost with a commit that never shipped."""
    for place in world.places:
        world.packs.delete_copy(world.pack.number, place.id, POLICY.shards[world.places.index(place)])
    place = world.places[2]
    await place.memory.put(world.name(place, -1), CONTENT)
    for start in range(0, 50_000, 1000):
        await world.read(start, start + 1000)
    asked = [other.counting.requests["get"] for other in world.places]
    assert asked[2] == 50
    assert max(asked[:2] + asked[3:]) <= 2, "who has not got it is not asked for every chunk"
    place.memory.objects.clear()
    for _ in range(5):
        with pytest.raises(Unavailable):
            await world.read()
    assert sum(other.counting.requests["get"] for other in world.places) <= 50 + 4 + 4


async def test_hosts_that_hang_cost_one_wait_a_pack_and_soon_none(world, autojump_clock):
    """Their requests are given up for others' answers, so they never fail."""
    for number in (0, 1):
        world.places[number].slow.hang = True
    for start in range(0, 10_000, 1000):
        await world.read(start, start + 1000)
    assert trio.current_time() < 10, "decoded once, and at hand then"
    for _ in range(4):  # another pack each time
        world.fetcher._decoder._kept.clear()
        await world.read(0, 1000)
    began = trio.current_time()
    world.fetcher._decoder._kept.clear()
    await world.read(0, 1000)
    assert trio.current_time() - began < 0.5, "and not asked first any more"
    assert world.places[0].stack.measured.answers, "it may only be slow"
    await trio.sleep(HANGS_S)
    world.places[0].slow.hang = world.places[1].slow.hang = False
    world.fetcher._decoder._kept.clear()
    before = world.received
    await world.read(0, 1000)
    assert [now - then for now, then in zip(world.received, before, strict=True)] == [1000, 0, 0, 0], "and again"
