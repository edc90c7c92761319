"""What dies is removed, here and on hosts, and nothing else."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import randbytes

import pytest
import trio

from megafs.config import Settings
from megafs.crypto.keys import ident_commit, ident_pack, ident_part
from megafs.index.ledger import KeptCheckpoint
from megafs.model import ChunkId, HostId, Kind
from megafs.sync import recover
from megafs.sync.collect import SLICE_ROWS, Collector, removable
from megafs.sync.lasting import Lasting
from tests.sync.rig import Device, World, attached, checkpointer
from tests.sync.test_recover import same_content

QUICK = Settings(retention_s=0)
DAY = 86_400.0


@pytest.fixture
def world() -> World:
    return World()


def collector(
    device: Device,
    is_idle: Callable[[ChunkId], bool] = lambda chunk: True,
    clock: Callable[[], float] | None = None,
) -> Collector:
    return Collector(
        objects=device.objects,
        ledger=device.ledger,
        packs=device.packs,
        extents=device.extents,
        inodes=device.inodes,
        disk=device.disk,
        stream=device.stream,
        shipper=device.shipper,
        commits=device.commits,
        landscape=device.world.landscape,
        settings=device.settings,
        clock=clock or device.clock,
        lasting=Lasting(device.database, clock or device.clock, device.clock),
        is_idle=is_idle,
    )


def names(world: World, kind: Kind, ident: bytes) -> list[HostId]:
    keyring = world.identity.keyring
    return [host for host, memory in world.memory.items() if keyring.object_name(host, kind, ident) in memory.objects]


def checkpoint(upload: int, made_s: int, *, complete: bool = True) -> KeptCheckpoint:
    return KeptCheckpoint(
        upload=upload, device=1, seq=upload, hash=bytes(32), made_s=made_s, complete=complete, retired=b""
    )


@pytest.mark.parametrize(
    ("made", "now_s", "told", "gone"),
    [
        ([10, 20], 1000, 9, []),  # the newest two stay for ever
        ([10, 20, 30], 1000, 9, [1]),
        ([10, 20, 30, 40], 1000, 9, [1, 2]),
        ([10, 20, 30, 40], 115, 9, [1]),  # the second is younger than the retention
        ([10, 20, 30, 40], 1000, 2, [1]),  # heads still name the second
        ([10, 20, 30, 40], 1000, 0, []),  # no head names any yet
    ],
)
def test_which_checkpoints_go(made: list[int], now_s: int, told: int, gone: list[int]) -> None:
    kept = [checkpoint(upload, made_s) for upload, made_s in enumerate(made, 1)]
    found = removable(kept, now_s=now_s, retention_s=100, told_upload=told)
    assert [each.upload for each in found] == gone
    pending = [*kept, replace(checkpoint(9, 50, complete=False))]
    assert removable(pending, now_s=now_s, retention_s=100, told_upload=told) == found


async def test_deleted_data_leaves_the_cache_and_the_hosts(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1), settings=QUICK)
    foreign = "a" * 32
    for memory in world.memory.values():
        memory.objects[foreign] = b"not ours"
    async with one.shipping():
        collect = collector(one)
        ino = await one.write(b"dead", randbytes(200_000))
        await one.sync()
        (pack,) = one.packs.all()
        assert len(names(world, Kind.PACK, ident_pack(pack.id))) == 2
        await one.write(b"alive", randbytes(1000))
        await one.sync()
        await one.remove(ino)
        await collect.sweep()
        assert one.disk.blocks(pack.number) == 0
        assert len(names(world, Kind.PACK, ident_pack(pack.id))) == 2  # not before the next look at hosts
        await one.sync()
        await trio.sleep(5)
        await collect.tend()
        assert names(world, Kind.PACK, ident_pack(pack.id)) == []
        for memory in world.memory.values():
            assert memory.objects[foreign] == b"not ours"
        await one.sync()
    two = await attached(world, tmp_path / "2")
    same_content(one, two)
    one.crash()
    two.crash()


@pytest.mark.parametrize(
    ("jump_s", "passed_s", "stays"), [(30 * DAY, 0, True), (0, 8 * DAY, False), (-DAY, 8 * DAY, False)]
)
async def test_only_time_that_has_passed_deletes(
    world: World, tmp_path: Path, autojump_clock: object, jump_s: float, passed_s: float, stays: bool
) -> None:
    """The retention is a week. A date set forward by a month deletes nothing; a week that passed does, whatever the
    date says."""
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    jumped_s = 0.0
    async with one.shipping():
        collect = collector(one, clock=lambda: one.clock() + jumped_s)
        ino = await one.write(b"dead", randbytes(200_000))
        await one.sync()
        (pack,) = one.packs.all()
        await one.remove(ino)
        await collect.sweep()
        await one.sync()
        jumped_s = jump_s
        await trio.sleep(passed_s + 5)
        await collect.tend()
        assert bool(names(world, Kind.PACK, ident_pack(pack.id))) == stays
    one.crash()


async def test_many_chunks_die_in_one_sweep(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1), settings=QUICK)
    async with one.shipping():
        collect = collector(one)
        inodes = [await one.write(b"f%d" % n, b"x" * 100) for n in range(2)]
        (place, *_) = one.packs.places(one.packs.newest())
        for n in range(3 * SLICE_ROWS):  # as a file of many chunks leaves them behind
            chunk = ChunkId(b"%016d" % n)
            one.extents.add_chunk(place._replace(chunk=chunk))
            one.extents.suspect(chunk)
        await one.remove(inodes[0])
        await collect.sweep()
        assert not one.extents.suspects(1)
        assert len(one.packs.places(one.packs.newest())) == 1
    one.crash()


async def test_what_is_being_read_stays_for_now(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1), settings=QUICK)
    async with one.shipping():
        read: set[ChunkId] = set()
        collect = collector(one, lambda chunk: chunk not in read)
        ino = await one.write(b"f", randbytes(1000))
        await one.remove(ino)
        read.update(chunk for chunk, _ in one.extents.suspects(10))
        await collect.sweep()
        assert len(one.extents.suspects(10)) == 1
        read.clear()
        await collect.sweep()
        assert not one.extents.suspects(10)
    one.crash()


async def test_parts_of_shared_packs_are_punched(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1), settings=QUICK)
    async with one.shipping():
        collect = collector(one)
        dead = await one.write(b"dead", randbytes(200_000))
        await one.write(b"alive", randbytes(5000))
        await one.remove(dead)
        await collect.sweep()
        (pack,) = one.packs.all()
        assert one.disk.blocks(pack.number) > 200_000  # not shipped yet: it stays whole
        await one.sync()
        await collect.sweep()
        assert one.disk.blocks(pack.number) < 50_000
    one.crash()


async def test_a_tree_that_is_removed_takes_its_packs_along_whole(
    world: World, tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1), settings=QUICK)
    punched: list[int] = []
    monkeypatch.setattr(one.disk, "punch", lambda number, offset, size: punched.append(size))
    async with one.shipping():
        collect = collector(one)
        inodes = [await one.write(b"%d" % n, randbytes(1000)) for n in range(4)]
        await one.sync()
        (pack,) = one.packs.all()
        await one.remove(inodes[0])
        await collect.sweep()
        assert not punched, "more of it is dying, maybe"
        await collect.sweep()
        assert len(punched) == 1, "nothing more of it died"
        for ino in inodes[1:]:
            await one.remove(ino)
        await collect.sweep()
        assert len(punched) == 1
        assert not one.disk.blocks(pack.number)
    one.crash()


async def test_without_a_majority_nothing_is_deleted(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1), settings=QUICK)
    async with one.shipping():
        collect = collector(one)
        ino = await one.write(b"dead", randbytes(20_000))
        await one.sync()
        await one.remove(ino)
        await one.sync()
        await trio.sleep(100)
        before = {host: set(memory.objects) for host, memory in world.memory.items()}
        for host in list(world.memory)[1:]:
            world.dying[host].die()
        await collect.sweep()
        await trio.sleep(5)
        await collect.tend()
        assert collect.deleted_objects == 0
        for host, held in before.items():
            assert held <= set(world.memory[host].objects)
        for dying in world.dying.values():
            dying.revive()
        await collect.tend()
        assert collect.deleted_objects > 0
    one.crash()


async def test_a_pack_that_died_before_shipping_is_dropped(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1), settings=QUICK)
    for dying in world.dying.values():
        dying.die()
    async with one.shipping() as shipper:
        collect = collector(one)
        ino = await one.write(b"dead", randbytes(200_000))
        (pack,) = one.packs.all()
        await trio.sleep(25)  # closed, on no host
        await one.write(b"alive", randbytes(1000))
        await one.remove(ino)
        await collect.sweep()
        assert one.packs.get(pack.number) is None
        assert one.disk.blocks(pack.number) == 0
        # The commit that names the dropped pack must not end before the row that removed it.
        for dying in world.dying.values():
            dying.revive()
        await one.sync()
        assert shipper.backlog().is_empty
    assert names(world, Kind.PACK, ident_pack(pack.id)) == []
    two = await attached(world, tmp_path / "2")
    same_content(one, two)
    one.crash()
    two.crash()


async def test_old_checkpoints_and_commits_go(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1), settings=QUICK)
    counts = []

    async def beyond(device: Device) -> tuple[int, int]:
        position, confirmed = device.stream.position, device.ledger.newest_confirmed(1)
        ahead = await recover.steps_ahead(device.objects, world.identity.trust, position, 1)
        return ahead, await recover.steps_beyond(device.objects, world.identity.trust, position, 1, confirmed)

    async with one.shipping():
        collect, checkpoints = collector(one), checkpointer(one)
        for round_number in range(6):
            if round_number == 1:
                one.database.sync_wal()
                shutil.copytree(tmp_path / "1", tmp_path / "old")
            for n in range(3):
                await one.write(b"%d-%d" % (round_number, n), randbytes(300))
                await one.sync()
            assert await checkpoints.make()
            await one.sync()
            checkpoints.note_complete()
            await one.sync()
            await trio.sleep(5)
            await collect.tend()
            counts.append(len(next(iter(world.memory.values())).objects))
        assert len(one.ledger.kept_checkpoints()) <= 3
        assert names(world, Kind.COMMIT, ident_commit(1, 1)) == []
        two = await attached(world, tmp_path / "2")
        assert two.survey.checkpoint is not None
        same_content(one, two)
        assert await beyond(one) == (0, 0)
    old = Device(world, tmp_path / "old", world.identity.signer(1), settings=QUICK)
    old.assemble()
    # What follows its newest commit is collected, so that nothing but the newest heads tells that it is old.
    assert await beyond(old) == (0, one.stream.position.next_seq - old.stream.position.next_seq)
    for device in (one, two, old):
        device.crash()


async def test_what_former_writers_left_goes_too(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1), settings=QUICK)
    host = next(iter(world.memory))

    async def checkpoints_of(device: Device, count: int) -> None:
        collect, checkpoints = collector(device), checkpointer(device)
        for n in range(count):
            await device.write(b"%d of %d" % (n, device.signer.device), randbytes(300))
            await device.sync()
            assert await checkpoints.make()
            await device.sync()
            checkpoints.note_complete()
            await device.sync()
            await trio.sleep(5)
            await collect.tend()

    async with one.shipping():
        await checkpoints_of(one, 3)
    two = await attached(world, tmp_path / "2")
    two.settings = QUICK
    former = {each.id for listed in [two.survey.checkpoint, *two.survey.older] for each in listed.parts}
    assert two.survey.older
    async with two.shipping():
        await checkpoints_of(two, 4)
    present = {part for part in former if host in names(world, Kind.PART, ident_part(part))}
    assert present <= {part.id for part in two.ledger.known_parts()}
    assert names(world, Kind.COMMIT, ident_commit(1, 2)) == []
    three = await attached(world, tmp_path / "3")
    same_content(two, three)
    for device in (one, two, three):
        device.crash()
