"""A new device from the hosts, an old state brought forward, two that want to write."""

import shutil
from pathlib import Path
from random import randbytes

import pytest
import trio

from megafs.errors import Corrupt, MegaFSError, ReadOnly, RolledBack, Unavailable
from megafs.index.invariants import faults
from megafs.model import HostId
from megafs.sync import recover
from megafs.sync.survey import survey
from tests.support.hosts import Evil, EvilHost
from tests.support.keys import raw
from tests.sync.rig import Device, World, attached

CONTENT = ("inode", "dirent", "xattr", "extent", "chunk", "pack", "host", "setting", "doomed")


@pytest.fixture
def world() -> World:
    return World()


def same_content(one: Device, other: Device) -> None:
    first, second = one.tables(), other.tables()
    for table in CONTENT:
        assert first[table] == second[table], table
    where = [sorted(row[1:] for row in tables["copy"]) for tables in (first, second)]
    assert where[0] == where[1]


async def test_a_new_device_has_everything(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        inodes = [await one.write(b"f%d" % n, randbytes(3000)) for n in range(5)]
        await one.sync()
        await one.remove(inodes[0])
        await one.sync()
    world.dying[HostId(bytes([1]) * 16)].die()
    two = await attached(world, tmp_path / "2")
    same_content(one, two)
    assert two.signer.device > 1
    world.dying[HostId(bytes([1]) * 16)].revive()
    async with two.shipping():
        await two.write(b"new", randbytes(100))
        await two.sync()
    three = await attached(world, tmp_path / "3")
    same_content(two, three)
    assert [segment.device for segment in three.survey.segments] == [1, two.signer.device]
    for device in (one, two, three):
        device.crash()


async def test_what_was_removed_and_not_collected_is_collected(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    """That a chunk is dead is told in a later commit than that its last extent is gone: the machine is lost between."""
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        ino = await one.write(b"file", randbytes(3000))
        await one.sync()
        await one.remove(ino)
        await one.sync()
    assert one.tables()["chunk"]
    two = await attached(world, tmp_path / "2")
    assert not [fault for fault in faults(two.database.connection) if fault.rule == "chunk-leaked"]
    assert len(two.extents.suspects(10)) == 1
    two.database.connection.execute("DELETE FROM candidate")
    assert [fault.rule for fault in faults(two.database.connection)] == ["chunk-leaked"], "the control"
    for device in (one, two):
        device.crash()


async def test_copies_are_known_even_if_their_rows_were_never_shipped(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        for n in range(45):  # the machine is lost in the middle of a trickle
            await one.write(b"f%d" % n, randbytes(100))
            await trio.sleep(1)
    two = await attached(world, tmp_path / "2")
    files = two.database.connection.execute("SELECT count(*) FROM dirent").get
    assert files >= 14  # all but the last thirty seconds
    for pack in two.packs.all():
        if not two.packs.is_empty(pack.number):
            assert len(two.packs.copies(pack.number)) == 2
    one.crash()
    two.crash()


async def test_the_former_writer_goes_read_only(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await one.write(b"a", randbytes(3000))
        await one.sync()
        two = await attached(world, tmp_path / "2")
        before = {host: set(memory.objects) for host, memory in world.memory.items()}
        await one.write(b"b", randbytes(3000))
        with pytest.raises(ReadOnly, match="took the vault over"):
            await one.sync()
        assert one.claims.read_only_reason
        assert not await one.claims.may_delete()
        await trio.sleep(100)
        # What it had not shipped is kept; at most a pack and one unseen commit went out, nothing was deleted.
        assert one.ledger.uploads()
        for host, names in before.items():
            assert names <= set(world.memory[host].objects)
    async with two.shipping():
        await two.write(b"c", randbytes(10))
        await two.sync()
    three = await attached(world, tmp_path / "3")
    same_content(two, three)
    for device in (one, two, three):
        device.crash()


async def test_an_old_state_is_brought_forward(world: World, tmp_path: Path, autojump_clock: object) -> None:
    signer = world.identity.signer(1)
    one = Device(world, tmp_path / "1", signer)
    async with one.shipping():
        await one.write(b"a", randbytes(3000))
        await one.sync()
        kept = await one.write(b"b", randbytes(3000))  # in the copy, committed and not shipped
        one.database.sync_wal()
        shutil.copytree(tmp_path / "1", tmp_path / "old")
        await one.sync()
        await one.remove(kept)
        await one.write(b"c", randbytes(3000))
        await one.sync()
    old = Device(world, tmp_path / "old", signer)
    old.assemble()
    ahead = await recover.steps_ahead(old.objects, world.identity.trust, old.stream.position, 1)
    assert ahead > 0
    await recover.fast_forward(old.database, old.objects, world.identity.trust, signer, ahead, b"folder")
    await old.commits.durable_now()
    same_content(one, old)
    assert old.stream.position.next_seq == one.stream.position.next_seq
    assert await recover.steps_ahead(old.objects, world.identity.trust, old.stream.position, 1) == 0
    old.crash()
    old = Device(world, tmp_path / "old", signer)
    async with old.shipping():
        await old.write(b"d", randbytes(3000))
        await old.sync()
    two = await attached(world, tmp_path / "2")
    same_content(old, two)
    for device in (one, old, two):
        device.crash()


@pytest.mark.parametrize("deed", list(Evil))
async def test_one_evil_host_changes_nothing(world: World, tmp_path: Path, autojump_clock: object, deed: Evil) -> None:
    """A34."""
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        for n in range(3):
            await one.write(b"f%d" % n, randbytes(3000))
            await one.sync()
    evil = HostId(bytes([1]) * 16)
    liar = EvilHost(world.dying[evil])
    liar.everything = deed
    world.dying[evil] = liar
    objects = world.objects()
    found = await survey(objects, world.identity.trust)
    (tmp_path / "2").mkdir()
    from megafs.index.database import Database

    database = Database(tmp_path / "2" / "index.db", raw(bytes(32)), create=True)
    await recover.rebuild(database, objects, world.identity.trust, found)
    rows = sorted(database.connection.execute("SELECT * FROM dirent"))
    assert rows == one.tables()["dirent"]
    if deed is not Evil.WITHHOLD:
        assert {damage.host for damage in objects.damages} == {evil}
    database.close()
    # With this host alone nothing wrong is ever taken for right.
    alone = world.objects()
    alone.hosts = {evil: liar}
    database = Database(tmp_path / "3.db", raw(bytes(32)), create=True)
    try:
        found = await survey(alone, world.identity.trust)
        await recover.rebuild(database, alone, world.identity.trust, found)
    except (Unavailable, Corrupt, RolledBack, MegaFSError):
        pass
    else:
        assert deed in (Evil.WITHHOLD, Evil.OLD)
        assert database.connection.execute("SELECT count(*) FROM dirent").get == 0
    database.close()
    one.crash()


async def test_a_state_that_is_mounted_twice_is_found_out(world: World, tmp_path: Path, autojump_clock: object) -> None:
    signer = world.identity.signer(1)
    one = Device(world, tmp_path / "1", signer)
    async with one.shipping():
        await one.write(b"a", randbytes(3000))
        await one.sync()
        one.database.sync_wal()
        shutil.copytree(tmp_path / "1", tmp_path / "twin")
        twin = Device(world, tmp_path / "twin", signer)
        async with twin.shipping():
            await one.write(b"of one", randbytes(3000))
            await one.sync()
            before = {host: dict(memory.objects) for host, memory in world.memory.items()}
            await twin.write(b"of the twin", randbytes(3000))
            with pytest.raises(ReadOnly, match="exists twice"):
                await twin.sync()
            for host, objects in before.items():
                for name, data in objects.items():
                    assert world.memory[host].objects[name] == data
        await one.write(b"more", randbytes(3000))
        await one.sync()
    two = await attached(world, tmp_path / "2")
    same_content(one, two)
    for device in (one, twin, two):
        device.crash()


async def grown(device: Device, names: list[bytes]) -> None:
    """Each name a commit of its own, shipped; the device is closed then."""
    async with device.shipping():
        for name in names:
            await device.write(name, randbytes(300))
            await device.sync()
    device.crash()


async def forked(world: World, tmp_path: Path, of_the_copy: int) -> Device:
    """A state directory and its copy, ``old``, both wrote on; the first host has what the copy did, and what followed
    in the other history, put above it. Returns the device whose history the other hosts have."""
    signer = world.identity.signer(1)
    await grown(Device(world, tmp_path / "1", signer), [b"base"])
    for name in ("old", "copy"):
        shutil.copytree(tmp_path / "1", tmp_path / name)
    before = {host: dict(memory.objects) for host, memory in world.memory.items()}
    await grown(Device(world, tmp_path / "copy", signer), [b"c%d" % n for n in range(of_the_copy)])
    first = next(iter(world.memory))
    of_copy = world.memory[first].objects
    for host, objects in before.items():
        world.memory[host].objects = objects
    await grown(Device(world, tmp_path / "1", signer), [b"f%d" % n for n in range(12)])
    world.memory[first].objects = world.memory[first].objects | of_copy
    return Device(world, tmp_path / "1", signer)


def turned(world: World, is_turned: bool) -> None:
    """Which host is asked first."""
    if is_turned:
        world.dying = dict(reversed(world.dying.items()))


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("of_the_copy", [1, 10])  # ten: the first window of commits is applied before it shows
async def test_another_history_on_one_host_does_not_hide_the_one_of_the_others(
    world: World, tmp_path: Path, autojump_clock: object, of_the_copy: int, is_turned: bool
) -> None:
    """A37: whatever the order of the hosts; the control is that host alone."""
    one = await forked(world, tmp_path, of_the_copy)
    turned(world, is_turned)
    everyone, first = world.dying, next(iter(world.memory))
    world.dying = {first: everyone[first]}
    with pytest.raises(RolledBack, match="does not follow the one before it"):
        await attached(world, tmp_path / "alone")
    world.dying = everyone
    two = await attached(world, tmp_path / "2")
    same_content(one, two)
    assert not list(faults(two.database.connection))
    one.crash()
    two.crash()


@pytest.mark.parametrize("is_turned", [False, True])
async def test_an_old_state_is_brought_forward_along_one_history(
    world: World, tmp_path: Path, autojump_clock: object, is_turned: bool
) -> None:
    one = await forked(world, tmp_path, 10)
    turned(world, is_turned)
    old = Device(world, tmp_path / "old", one.signer)
    old.assemble()
    trust, before = world.identity.trust, old.tables()
    ahead = await recover.steps_ahead(old.objects, trust, old.stream.position, 1)
    first = next(iter(world.memory))
    alone = world.objects()
    alone.hosts = {first: world.dying[first]}
    with pytest.raises(RolledBack, match="does not follow the one before it"):
        await recover.fast_forward(old.database, alone, trust, one.signer, ahead, b"folder")
    assert old.tables() == before, "the control: nothing of it is taken"
    await recover.fast_forward(old.database, old.objects, trust, one.signer, ahead, b"folder")
    same_content(one, old)
    assert recover.stream.load(old.database).previous == recover.stream.load(one.database).previous
    one.crash()
    old.crash()
