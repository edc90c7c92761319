"""The bounded cache: who is slowed, who is refused, what goes first, and when it may."""

import pytest
import trio

from megafs.config import CACHE_LEAST_BYTES, CACHE_STALL_S, DISK_RESERVE_BYTES, MIB
from megafs.errors import DiskError, NoSpace
from megafs.index.packs import CLOSED, SHIPPED, Packs
from megafs.model import PackId
from megafs.store.cache import Cache
from megafs.store.disk import Disk
from tests.store.rig import Rig

LIMIT = CACHE_LEAST_BYTES


class Store:
    """Packs as rows and empty files; the clock is set by hand."""

    def __init__(self, tmp_path) -> None:
        self.rig = Rig(tmp_path)
        self.packs: Packs = self.rig.packs
        self.disk: Disk = self.rig.disk
        self.free = 1 << 40
        self.disk.free_bytes = lambda: self.free
        self.now_s = 0.0
        self.commits = 0
        self.cache = Cache(self.disk, self.packs, self.rig.writer, LIMIT, clock=lambda: self.now_s)
        self.cache.durable_now = self.durable_now

    async def durable_now(self) -> None:
        self.commits += 1

    def add(self, size, state, used_min=0):
        number = self.packs.open(PackId(bytes(16)), 1)
        self.disk.create(number)
        self.packs.set_local(number, size, state)
        self.packs.use_local(number, used_min)
        self.cache.refresh()
        return number

    def here(self):
        return set(self.disk.numbers())


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path)
    yield made
    made.rig.close()


async def looked_after(store):
    """One look of the background task."""
    with trio.move_on_after(0.3):
        store.cache.wake()
        await store.cache.run()


async def test_the_least_recently_used_shipped_packs_go_first(store):
    numbers = [store.add(LIMIT // 8, SHIPPED, used_min=minute) for minute in (5, 1, 4, 2, 3, 6, 7, 8)]
    await looked_after(store)
    assert store.here() == {numbers[0], numbers[2], numbers[4], *numbers[5:]}, "1 and 2 went: a quarter of it"
    assert store.cache.evicted == 2
    assert store.packs.local(numbers[1]) is None


async def test_what_is_not_shipped_is_never_evicted(store):
    kept = [store.add(LIMIT // 4, CLOSED) for _ in range(5)]
    gone = store.add(LIMIT // 8, SHIPPED)
    await looked_after(store)
    assert store.here() == set(kept)
    assert gone not in store.here()


async def test_a_pack_shipped_just_now_waits_for_the_commit_that_says_so(store):
    """A crash would bring back an index that counts on the file."""
    number = store.add(LIMIT, SHIPPED)

    async def durable_now():
        assert number in store.here()
        store.commits += 1

    store.cache.durable_now = durable_now
    await looked_after(store)
    assert store.commits == 1
    assert store.here() == set()


async def test_a_commit_that_fails_keeps_only_the_newly_shipped_from_making_room(store):
    old = store.add(LIMIT // 2, SHIPPED)
    store.cache._settled = {old}
    new = store.add(LIMIT // 2, SHIPPED, used_min=0)

    async def refuse():
        raise DiskError("full")

    store.cache.durable_now = refuse
    await looked_after(store)
    assert store.here() == {new}


async def test_a_disk_that_is_nearly_full_makes_room_and_refuses_writes(store):
    number = store.add(MIB, SHIPPED)
    store.free = DISK_RESERVE_BYTES - 1
    await looked_after(store)
    assert number not in store.here()
    with pytest.raises(NoSpace):
        store.cache.admit(1)
    store.free = 1 << 40
    await looked_after(store)
    assert store.cache.admit(1) == 0.0


async def test_writers_are_slowed_the_more_the_fuller_it_is(store):
    assert store.cache.admit(1) == 0.0
    waits = []
    for _ in range(9):
        store.add(LIMIT // 10, CLOSED)
        waits.append(store.cache.admit(1))
    assert waits[:5] == [0.0] * 5
    assert 0 < waits[6] < waits[7] < waits[8] < 0.25


async def test_no_space_only_when_hosts_stall(store):
    store.now_s = 3600.0  # nothing was shipped for an hour, because there was nothing
    full = [store.add(LIMIT // 4, CLOSED) for _ in range(4)]
    assert store.cache.admit(1) == 1.0, "the hosts get their time first"
    store.now_s += CACHE_STALL_S - 1
    assert store.cache.admit(1) == 1.0
    store.packs.set_local(full[0], LIMIT // 4, SHIPPED)
    store.add(LIMIT // 4, CLOSED)
    store.now_s += 2
    assert store.cache.admit(1) == 1.0, "something was shipped meanwhile"
    store.now_s += CACHE_STALL_S + 1
    with pytest.raises(NoSpace):
        store.cache.admit(1)
    for number in full:
        store.packs.set_local(number, LIMIT // 4, SHIPPED)
    store.cache.refresh()
    assert store.cache.admit(1) == 0.0


async def test_a_disk_that_fails_does_not_end_the_task(store, caplog):
    def broken():
        raise DiskError("gone")

    store.disk.free_bytes = broken
    await looked_after(store)
    assert "was not looked after" in caplog.text


async def test_what_is_pinned_stays_and_only_that_of_its_pack(store):
    """Two packs of which one is pinned in part: the other goes, then what is not pinned of the first."""
    size = LIMIT // 2 - MIB
    pinned, other = store.add(size, SHIPPED, 1), store.add(size, SHIPPED, 2)
    store.cache.refresh()
    kept = {pinned: [(4096, 3 * MIB)]}

    async def asked():
        return kept

    store.cache.pinned = asked
    for number in (pinned, other):
        store.disk.write(number, 0, [b"\1" * (8 * MIB)])
    await looked_after(store)
    assert store.here() == {pinned}, "the older one is pinned, so the newer one goes"
    third = store.add(size, SHIPPED, 3)
    fourth = store.add(MIB * 10, CLOSED)
    kept[third] = [(0, size)]
    store.cache.refresh()
    await looked_after(store)
    assert {pinned, third, fourth} <= store.here()
    assert store.packs.local(pinned)[0] == 3 * MIB - 4096
    assert store.disk.read(pinned, 4096, 10) == b"\1" * 10
    assert store.disk.read(pinned, 0, 10) == bytes(10)
    assert not store.disk.has(pinned, 4 * MIB), "it is fetched again when it is read"
