"""A host with the shorter one of two histories of a device has not lost anything: it has something else (A37)."""

import shutil
from pathlib import Path
from random import randbytes

import pytest

from megafs.model import AlarmKind, HostId
from tests.sync.rig import Device, World, attached
from tests.sync.test_recover import grown
from tests.sync.test_watch import told

FIRST, SECOND = (HostId(bytes([n]) * 16) for n in (1, 2))


async def meeting(folder: Path, *, is_fork: bool, hosts: int = 2) -> tuple[World, Device]:
    """A device that wrote three commits after a copy of its state was made. The first host has what the copy wrote
    then: one commit. Or (not ``is_fork``) it was put back to what it had after the first of the three."""
    world = World(count=hosts)
    signer = world.identity.signer(1)
    await grown(Device(world, folder / "1", signer), [b"base"])
    shutil.copytree(folder / "1", folder / "copy")
    base = {host: dict(memory.objects) for host, memory in world.memory.items()}
    await grown(Device(world, folder / ("copy" if is_fork else "1"), signer), [b"one more"])
    shown = dict(world.memory[FIRST].objects)
    if is_fork:
        for host, objects in base.items():
            world.memory[host].objects = objects
    await grown(Device(world, folder / "1", signer), [b"a", b"b", b"c"])
    world.memory[FIRST].objects = shown
    one = Device(world, folder / "1", signer)
    one.assemble()
    return world, one


@pytest.mark.parametrize("is_fork", [True, False], ids=["fork", "control"])
async def test_a_host_with_a_shorter_history_is_a_fork_and_one_put_back_is_behind(tmp_path, autojump_clock, is_fork):
    """The control is a host that lost data (A37)."""
    world, one = await meeting(tmp_path, is_fork=is_fork)
    before = dict(world.memory[FIRST].objects)
    assert await one.watch().look() == ([] if is_fork else [FIRST]), "the mirror puts nothing on top of another history"
    (alarm,) = one.alarms.all()
    assert (alarm.kind, alarm.host) == (AlarmKind.FORK if is_fork else AlarmKind.BEHIND, FIRST)
    (text,) = told(one)
    assert ("two histories" in text) == is_fork
    assert ("is put there again" in text) != is_fork
    assert (alarm.known_seq == alarm.shown_seq) == is_fork
    for digest in (alarm.known_hash, alarm.shown_hash):
        assert digest.hex()[:16] in text
    assert alarm.known_hash != alarm.shown_hash
    assert world.memory[FIRST].objects == before
    await one.watch().look()
    assert len(one.alarms.all()) == 1
    one.crash()


async def test_it_is_told_before_a_newer_head_goes_there(tmp_path, autojump_clock):
    _, one = await meeting(tmp_path, is_fork=True)
    async with one.shipping() as shipper:
        watch = one.watch()
        shipper.lanes.check_former = watch.check_former
        await one.write(b"d", randbytes(300))
        await one.sync()
        assert [(alarm.kind, alarm.host) for alarm in one.alarms.all()] == [(AlarmKind.FORK, FIRST)]
        assert not watch.suspicion.is_set()
    one.crash()


async def test_while_nobody_shows_ours_a_host_is_only_behind(tmp_path, autojump_clock):
    """And once the other host answers it is a fork."""
    world, one = await meeting(tmp_path, is_fork=True)
    world.dying[SECOND].calls = 0
    await one.watch().look()
    assert [alarm.kind for alarm in one.alarms.all()] == [AlarmKind.BEHIND]
    world.dying[SECOND].calls = 1 << 60
    assert await one.watch().look() == []
    assert [alarm.kind for alarm in one.alarms.all()] == [AlarmKind.BEHIND, AlarmKind.FORK]
    one.crash()


@pytest.mark.parametrize("is_fork", [True, False], ids=["fork", "control"])
async def test_a_device_that_attached_since_notices_it_as_well(tmp_path, autojump_clock, is_fork):
    """The host never confirmed anything to it."""
    world, one = await meeting(tmp_path, is_fork=is_fork, hosts=3)
    one.crash()
    two = await attached(world, tmp_path / "2")
    two.assemble()
    assert await two.watch().look() == ([] if is_fork else [FIRST])
    assert [(alarm.kind, alarm.host) for alarm in two.alarms.all()] == [(AlarmKind.FORK, FIRST)] * is_fork
    two.crash()
