"""Packs, then commits, then heads: order, delays, dead hosts."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import randbytes

import pytest
import trio

from megafs.config import Settings
from megafs.crypto.keys import ident_commit, ident_head, ident_pack
from megafs.errors import Incomplete, NoSpace
from megafs.hosts.wrappers import Wrapped
from megafs.model import HostId, Ino, Kind, Policy
from tests.support.hosts import DyingHost, SlowHost
from tests.sync.rig import Device, World


@pytest.fixture
def world() -> World:
    return World()


def has(world: World, host: HostId, kind: Kind, ident: bytes) -> bool:
    return world.identity.keyring.object_name(host, kind, ident) in world.memory[host].objects


async def test_sync_brings_everything_to_the_hosts(world: World, tmp_path: Path, autojump_clock: object) -> None:
    device = Device(world, tmp_path, world.identity.signer(1))
    async with device.shipping() as shipper:
        await device.write(b"a", randbytes(50_000))
        await device.sync()
        assert shipper.backlog().is_empty
        (pack,) = device.packs.all()
        held = [host for host in world.memory if has(world, host, Kind.PACK, ident_pack(pack.id))]
        assert len(held) == 2
        assert sorted(held) == sorted(host for host, _, _ in device.packs.copies(pack.number))
        seq = device.stream.position.next_seq - 1
        assert seq >= 1
        for host in world.memory:
            assert has(world, host, Kind.COMMIT, ident_commit(1, seq))
            assert has(world, host, Kind.HEAD, ident_head(1, seq))
    device.crash()


async def test_zeros_alone_need_no_pack(world: World, tmp_path: Path, autojump_clock: object) -> None:
    device = Device(world, tmp_path, world.identity.signer(1))
    async with device.shipping() as shipper:
        device.inodes.insert(0o100644, 0, 0, 0, 1, Ino(0), None)
        assert await device.writer.store([bytes(50_000)]) == [None]
        await device.sync()
        assert shipper.backlog().is_empty
        assert not list(device.packs.all())
    device.crash()


async def test_without_asking_it_ships_within_thirty_seconds(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    device = Device(world, tmp_path, world.identity.signer(1))
    async with device.shipping():
        start = trio.current_time()
        first_n = 0
        for n in range(60):  # an append a second
            await device.write(b"f%d" % n, randbytes(100))
            first_n = first_n or device.ledger.newest_outbox()
            await trio.sleep(1)
        shipped = device.ledger.waiting(device.commits.durable)
        oldest_s = min((row.made_s for row in shipped), default=0)
        assert oldest_s
        assert trio.current_time() - start >= 60
        head = device.ledger.host_head(next(iter(world.memory)), 1)
        assert head >= 2
        # Rows made in the first half of the minute are in commit objects.
        count = device.database.connection.execute("SELECT count(*) FROM outbox WHERE seq = 0").get
        assert count <= 35
    device.crash()


async def test_one_dead_host_blocks_nothing(world: World, tmp_path: Path, autojump_clock: object) -> None:
    device = Device(world, tmp_path, world.identity.signer(1))
    dead = next(iter(world.memory))
    world.dying[dead].die()
    async with device.shipping() as shipper:
        await device.write(b"a", randbytes(50_000))
        with pytest.raises(Incomplete, match="host1 lacks"):
            await device.sync()
        left = shipper.backlog()
        assert left.packs == left.commits == 0
        assert [host for host, count in left.lacking.items() if count] == [dead]
        world.dying[dead].revive()
        await device.sync()
        assert shipper.backlog().is_empty
        assert has(world, dead, Kind.HEAD, ident_head(1, 1))
    device.crash()


async def test_a_crash_repeats_the_same_bytes(world: World, tmp_path: Path, autojump_clock: object) -> None:
    signer = world.identity.signer(1)
    device = Device(world, tmp_path, signer)
    async with device.shipping():
        await device.write(b"a", randbytes(5000))
        for host in list(world.memory)[1:]:
            world.dying[host].die(after=1)
        with pytest.raises(Incomplete):
            await device.sync()
    device.crash()
    before = {host: dict(memory.objects) for host, memory in world.memory.items()}
    for dying in world.dying.values():
        dying.revive()
    device = Device(world, tmp_path, signer)
    async with device.shipping() as shipper:
        await device.sync()
        assert shipper.backlog().is_empty
    for host, objects in before.items():
        for name, data in objects.items():
            assert world.memory[host].objects[name] == data
    device.crash()


async def test_a_pack_that_is_tried_again_is_waited_for_in_peace(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    device = Device(world, tmp_path, world.identity.signer(1))
    for dying in world.dying.values():
        dying.die()
    slow = {host: SlowHost(dying, latency_s=30.0) for host, dying in world.dying.items()}
    device.objects.hosts.update(slow)
    async with device.shipping() as shipper:
        rounds = CountedCalls(shipper.packing.retire_due)
        shipper.packing.retire_due = rounds
        await device.write(b"a", randbytes(5000))
        await trio.sleep(60)
        rounds.count = 0
        await trio.sleep(100)
        assert rounds.count < 300  # about one a second
        assert shipper.packing.troubles
        (number,) = device.ledger.closed_packs()
        device.packs.delete(number)  # as the collector drops it
        await trio.sleep(61)
        rounds.count = 0
        await trio.sleep(100)
        assert not shipper.packing.troubles
        assert rounds.count < 300
    device.crash()


class CountedCalls:
    """Passes calls on."""

    def __init__(self, inner: Callable[[], None]) -> None:
        self._inner, self.count = inner, 0

    def __call__(self) -> None:
        self.count += 1
        self._inner()


async def test_a_disk_that_refuses_for_a_while_strands_nothing(tmp_path: Path, autojump_clock: object) -> None:
    for refusals in range(1, 8):
        world = World()
        device = Device(world, tmp_path / str(refusals), world.identity.signer(1))
        honest, left = device.commits.durable_now, refusals

        async def refuse(honest: Callable[[], Awaitable[None]] = honest) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise NoSpace("the disk of the state directory is full")
            await honest()

        async with device.shipping() as shipper:
            await device.write(b"a", randbytes(50_000))
            device.commits.durable_now = refuse
            for _ in range(60):
                await trio.sleep(10)
                if shipper.backlog().is_empty:
                    break
            assert left <= 0 or refusals > 4
            assert shipper.backlog().is_empty, refusals
        device.crash()


class LargePuts(Wrapped):
    """Counts shards under way at once; nothing else is as large."""

    running = peak = 0

    async def around(self, request, work):
        if request.sent_bytes < 80_000:
            return await work()
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            return await work()
        finally:
            self.running -= 1


@pytest.mark.parametrize("uploads", [2, 4])
async def test_no_more_packs_are_in_memory_than_may_travel(
    tmp_path: Path, autojump_clock: object, uploads: int
) -> None:
    """Each is read and sharded only when its turn has come; the control is that more do travel if they may."""
    world = World()
    world.policy = Policy(k=2, m=1)
    large = [LargePuts(SlowHost(memory, latency_s=5)) for memory in world.memory.values()]
    world.dying = {host: DyingHost(each, calls=1 << 60) for host, each in zip(world.memory, large, strict=True)}
    device = Device(world, tmp_path, world.identity.signer(1), settings=Settings(uploads=uploads))
    async with device.shipping():
        for n in range(4):
            await device.write(b"%d" % n, randbytes(200_000))
            device.writer.retire()
        await device.sync(patience_s=600)
    assert len(device.packs.all()) == 4
    assert [each.peak for each in large] == [uploads] * 3
    device.crash()
