"""Debts are paid, lost copies made anew, sparse packs emptied."""

from pathlib import Path
from random import randbytes

import pytest
import trio

from megafs.crypto.keys import ident_pack
from megafs.errors import Unavailable
from megafs.model import ChunkId, ChunkPlace, HostId, Kind, Pack, PackNumber, Policy
from megafs.sync.compact import BATCH_BYTES, BATCH_CHUNKS, Compactor, Filling, batches, chosen
from megafs.sync.moves import Moves
from megafs.sync.repair import GIVE_UP_S, Repairer
from tests.sync.rig import Device, World, attached
from tests.sync.test_collect import collector, names
from tests.sync.test_recover import same_content


@pytest.fixture
def world() -> World:
    return World()


def repairer(device: Device) -> Repairer:
    return Repairer(
        objects=device.objects,
        ledger=device.ledger,
        care=device.care,
        packs=device.packs,
        disk=device.disk,
        landscape=device.world.landscape,
        claims=device.claims,
        clock=device.clock,
        moves=Moves(),
    )


class PlainFetcher:
    """Ranges of packs from the first host that has them right."""

    def __init__(self, device: Device) -> None:
        self._objects = device.objects
        self.asked = 0

    async def fetch(self, pack: Pack, start: int, stop: int, verify: object) -> bytes:
        self.asked += 1
        for host in self._objects.hosts:
            name = self._objects.name(host, Kind.PACK, ident_pack(pack.id))
            try:
                data = await self._objects.hosts[host].get(name, start, stop)
            except Exception:
                continue
            if verify(data):
                return data
        raise Unavailable("nobody has it")

    def reach_bytes(self, least_bytes=0) -> int:
        return 0


async def test_what_is_owed_is_paid_when_the_host_is_back(world: World, tmp_path: Path, autojump_clock: object) -> None:
    world.policy = Policy(copies=3)
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    dead = HostId(bytes([2]) * 16)
    world.dying[dead].die()
    async with one.shipping():
        await one.write(b"a", randbytes(20_000))
        await trio.sleep(60)
        (pack,) = one.packs.all()
        assert [debt.host for debt in one.ledger.owed()] == [dead]
        assert len(names(world, Kind.PACK, ident_pack(pack.id))) == 2
        repair = repairer(one)
        assert await repair.run_once() == 0
        world.dying[dead].revive()
        assert await repair.run_once() == 1
        assert not one.ledger.owed()
        assert len(names(world, Kind.PACK, ident_pack(pack.id))) == 3
        await one.sync()
    one.crash()


@pytest.mark.parametrize("policy", [Policy(copies=2), Policy(k=2, m=1)])
async def test_a_gone_host_is_replaced_without_the_local_file(
    tmp_path: Path, autojump_clock: object, policy: Policy
) -> None:
    world = World(4)
    world.policy = policy
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await one.write(b"a", randbytes(20_000))
        await one.sync()
        (pack,) = one.packs.all()
        one.disk.unlink(pack.number)
        one.packs.delete_local(pack.number)
        (victim, _, _), *_ = one.packs.copies(pack.number)
        world.memory[victim].objects.clear()
        world.dying[victim].die()
        from dataclasses import replace

        world.specs = [replace(s, state="gone") if s.id == victim else s for s in world.specs]
        assert await repairer(one).run_once() == 1
        copies = one.packs.copies(pack.number)
        assert len(copies) == policy.places
        assert victim not in {host for host, _, _ in copies}
        for host, number, _ in copies:
            assert host in names(world, Kind.PACK, ident_pack(pack.id, number))
    one.crash()


async def test_a_damaged_copy_is_made_anew(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await one.write(b"a", randbytes(20_000))
        await one.sync()
        (pack,) = one.packs.all()
        (first, _, _), _ = one.packs.copies(pack.number)
        name = one.objects.name(first, Kind.PACK, ident_pack(pack.id))
        good = world.memory[first].objects[name]
        world.memory[first].objects[name] = bytes(len(good))
        one.disk.unlink(pack.number)
        one.packs.delete_local(pack.number)
        repair = repairer(one)
        assert repair.due() == []
        repair.note_damage(pack, first)
        assert await repair.run_once() == 1
        assert world.memory[first].objects[name] == good
        assert repair.due() == []
    one.crash()


async def test_a_damaged_copy_that_is_made_elsewhere_is_forgotten(tmp_path: Path, autojump_clock: object) -> None:
    """Its row would make a damaged copy count again."""
    world = World(3)
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await one.write(b"a", randbytes(20_000))
        await one.sync()
        (pack,) = one.packs.all()
        (first, _, _), _ = one.packs.copies(pack.number)
        repair = repairer(one)
        repair.note_damage(pack, first)
        world.dying[first].die()
        assert await repair.run_once() == 1
        assert first not in {host for host, _, _ in one.packs.copies(pack.number)}
        assert not one.care.damaged()
        assert repair.due() == []
    one.crash()


async def test_a_silent_host_is_replaced_in_the_end(tmp_path: Path, autojump_clock: object) -> None:
    world = World(4)
    world.policy = Policy(copies=3)
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    for host in list(world.memory)[:2]:
        world.dying[host].die()
    async with one.shipping():
        await one.write(b"a", randbytes(20_000))
        await trio.sleep(60)
        assert len(one.ledger.owed()) == 1
        world.dying[next(iter(world.memory))].revive()
        repair = repairer(one)
        await trio.sleep(GIVE_UP_S + 60)
        assert await repair.run_once() == 1
        assert not one.ledger.owed()
    one.crash()


@pytest.mark.parametrize(
    ("fillings", "picked"),
    [
        ([(1, 16, 9), (2, 16, 8)], []),
        ([(1, 16, 7), (2, 16, 2), (3, 16, 16)], [2, 1]),
        ([(n, 3, 3) for n in range(1, 6)], []),
        ([(n, 3, 3) for n in range(1, 7)], [1, 2, 3, 4, 5, 6]),
        ([(1, 40, 19), (2, 40, 19)], [1]),  # one round moves a bounded amount
    ],
)
def test_which_packs_are_emptied(fillings: list[tuple[int, int, int]], picked: list[int]) -> None:
    mib = 1 << 20
    assert chosen([Filling(number=n, stored=s * mib, live=v * mib) for n, s, v in fillings]) == picked


@pytest.mark.parametrize(("sizes", "counts"), [([], [0]), ([5], [1]), ([BATCH_BYTES] * 3, [1, 1, 1])])
def test_what_one_trip_to_a_thread_takes(sizes, counts):
    places = [ChunkPlace(ChunkId(bytes(16)), PackNumber(1), 0, size, size, 0, b"") for size in sizes]
    assert [len(batch) for batch in batches(places)] == counts


def test_small_chunks_take_few_trips():
    """A pack of 16 MiB may hold fifty thousand of them."""
    places = [ChunkPlace(ChunkId(bytes(16)), PackNumber(1), n * 300, 300, 200, 0, b"") for n in range(50_000)]
    found = list(batches(places))
    assert [place for batch in found for place in batch] == places
    assert len(found) == len(places) / BATCH_CHUNKS


async def test_a_sparse_pack_is_emptied_and_goes(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        dead = await one.write(b"dead", randbytes(200_000))
        for n in range(3):
            await one.write(b"alive%d" % n, randbytes(20_000))
        await one.sync()
        (pack,) = one.packs.all()
        kept = sorted(place.chunk for place in one.packs.places(pack.number))
        await one.remove(dead)
        collect = collector(one)
        await collect.sweep()
        one.disk.unlink(pack.number)  # evicted meanwhile: the live chunks come from hosts
        fetcher = PlainFetcher(one)
        compact = Compactor(
            packs=one.packs,
            extents=one.extents,
            writer=one.writer,
            disk=one.disk,
            fetcher=fetcher,
            commits=one.commits,
            deep_epoch=lambda: 0,
            may_run=lambda: True,
        )
        assert await compact.run_once() == 3
        assert fetcher.asked == 3
        assert one.packs.is_empty(pack.number)
        await collect.tend()
        assert one.packs.get(pack.number).dead_since_s
        moved = [place.chunk for each in one.packs.all() for place in one.packs.places(each.number)]
        assert set(moved) < set(kept)
        await one.sync()
    two = await attached(world, tmp_path / "2")
    same_content(one, two)
    one.crash()
    two.crash()
