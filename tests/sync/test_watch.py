"""What a device with state notices of its hosts and of other devices, and that it cries about nothing else: A36-A38."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from random import randbytes

import pytest
import trio

from megafs.crypto.keys import ident_head
from megafs.model import AlarmKind, HostId, Kind, Policy
from megafs.sync import watch as watching
from megafs.sync.survey import read_head, survey
from megafs.sync.told import sentence
from megafs.sync.watch import HEARTBEAT_S, STALE_S
from tests.sync.rig import Device, World, attached, checkpointer

FIRST, SECOND, THIRD = (HostId(bytes([n]) * 16) for n in (1, 2, 3))
HOUR_S = 3600


async def shipped(device: Device, count: int = 1) -> None:
    for _ in range(count):
        await device.write(b"f%d" % device.database.new_id(), randbytes(2000))
        await device.sync()


async def taken_over(folder: Path) -> tuple[World, Device, Device]:
    """The device that wrote first, at work again, and the one that attached then."""
    world = World()
    one = Device(world, folder / "1", world.identity.signer(1))
    async with one.shipping():
        await shipped(one)
    two = await attached(world, folder / "2")
    one.assemble()
    return world, one, two


def told(device: Device) -> list[str]:
    """The sentences of all alarms."""
    labels = {spec.id: spec.label for spec in device.world.specs}
    return [sentence(alarm, labels) for alarm in device.alarms.all()]


async def test_a_host_that_shows_less_is_named_with_both_numbers_and_hashes(tmp_path, autojump_clock, caplog):
    """A36."""
    world = World()
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await shipped(one)
        older = dict(world.memory[SECOND].objects)
        old_seq = one.stream.position.next_seq - 1
        old_hash = one.ledger.head(1).hash
        await shipped(one, 3)
        assert await one.watch().look() == []
        world.memory[SECOND].objects = older
        assert await one.watch().look() == [SECOND]
        (alarm,) = one.alarms.all()
        assert (alarm.kind, alarm.host, alarm.device) == (AlarmKind.BEHIND, SECOND, 1)
        assert (alarm.known_seq, alarm.known_hash) == (one.ledger.head(1).seq, one.ledger.head(1).hash)
        assert (alarm.shown_seq, alarm.shown_hash) == (old_seq, old_hash)
        (text,) = told(one)
        assert "host2" in text
        for part in (str(old_seq), old_hash.hex()[:16], str(alarm.known_seq), alarm.known_hash.hex()[:16]):
            assert part in text
        await one.watch().look()
        assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1, "the log has it once"
        assert one.alarms.acknowledge(alarm.n, 5)
        await one.watch().look()
        assert [each.acknowledged_s for each in one.alarms.all()] == [5], "the same evidence raises no other"
        world.memory[SECOND].objects = {}
        await one.watch().look()
        assert [each.acknowledged_s for each in one.alarms.all()] == [0], "worse evidence does"
    one.crash()


@pytest.mark.parametrize("is_watched", [True, False], ids=["watched", "control"])
async def test_a_host_put_back_between_two_looks_is_noticed_before_it_gets_more(tmp_path, autojump_clock, is_watched):
    """Otherwise it would have what is asked for: the newest head."""
    world = World()
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping() as shipper:
        watch = one.watch()
        if is_watched:
            shipper.lanes.check_former = watch.check_former
        await shipped(one)
        older = dict(world.memory[SECOND].objects)
        await shipped(one, 3)
        assert not watch.suspicion.is_set()
        world.memory[SECOND].objects = older
        await shipped(one, 3)
        assert watch.suspicion.is_set() == is_watched
        assert await watch.look() == ([SECOND] if is_watched else [])
        assert not watch.suspicion.is_set()
        assert [(alarm.kind, alarm.host) for alarm in one.alarms.all()] == [(AlarmKind.BEHIND, SECOND)] * is_watched
    one.crash()


async def test_a_host_that_is_behind_in_what_it_never_confirmed_is_not_blamed(tmp_path, autojump_clock):
    """Slow and absent hosts, collected heads, a host that comes back: no alarm (A25)."""
    world = World()
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await shipped(one, 2)
        world.dying[THIRD].calls = 0
        for _ in range(3):
            await one.write(b"g%d" % one.database.new_id(), randbytes(2000))
            with trio.move_on_after(40):
                await one.sync()
            assert await one.watch().look() == []
        checkpoints = checkpointer(one)
        assert await checkpoints.make()
        world.dying[THIRD].calls = 1 << 60
        await one.sync()
        checkpoints.note_complete()
        await shipped(one, 2)
        assert await one.watch().look() == []
        # What the collector took away is owed by nobody.
        one.ledger.set_stretch(1, 8, 0)
        seq = 3
        one.database.connection.execute("UPDATE witness SET seq = ?, hash = ? WHERE host = ?", (seq, bytes(32), THIRD))
        del world.memory[THIRD].objects[one.objects.name(THIRD, Kind.HEAD, ident_head(1, seq))]
        assert await one.watch().look() == []
        assert one.alarms.all() == []
        # The control: were it needed, it would be missed.
        one.ledger.set_stretch(1, 1, 0)
        one.database.connection.execute("UPDATE witness SET seq = 99, hash = ? WHERE host = ?", (bytes(32), THIRD))
        assert await one.watch().look() == [THIRD]
    one.crash()


async def test_two_histories_are_told_apart_at_first_contact(tmp_path, autojump_clock):
    """Fifty commits in two worlds, then one host of the other one answers (A37)."""
    world, other = World(count=1), World(count=1)
    other.identity, other.specs = world.identity, world.specs
    other.policy = world.policy = Policy(copies=1)
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await shipped(one)
    one.crash()
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    other.memory[FIRST].objects.update(world.memory[FIRST].objects)
    one, two = (Device(each, tmp_path / name, one.signer) for each, name in ((world, "1"), (other, "2")))
    for device in (one, two):
        async with device.shipping():
            await shipped(device, 50)
            assert await device.watch().look() == []
    one.assemble()
    assert await one.watch().look() == []
    assert one.alarms.all() == []
    world.memory[FIRST].objects, before = other.memory[FIRST].objects, world.memory[FIRST].objects
    tables = one.tables()
    await one.watch().look()
    (alarm,) = one.alarms.all()
    assert (alarm.kind, alarm.host) == (AlarmKind.FORK, FIRST)
    assert {alarm.known_hash, alarm.shown_hash} == {one.ledger.head(1).hash, two.ledger.head(1).hash}
    assert one.tables() == tables, "nothing is merged"
    assert "two histories" in told(one)[0]
    assert alarm.shown_hash.hex()[:16] in told(one)[0]
    # The control: a look that does not compare hashes has nothing to say.
    one.alarms.acknowledge(alarm.n, 1)
    world.memory[FIRST].objects = before
    await one.watch().look()
    assert len(one.alarms.all()) == 1
    one.crash()
    two.crash()


async def test_a_host_that_says_nothing_for_two_days(tmp_path, autojump_clock):
    """A38."""
    world = World()
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await shipped(one)
        world.dying[SECOND].calls = 0
        for _ in range(STALE_S // HOUR_S):
            await one.watch().look()
            assert one.alarms.all() == []
            await trio.sleep(HOUR_S)
        await one.watch().look()
        (alarm,) = one.alarms.all()
        assert (alarm.kind, alarm.host) == (AlarmKind.STALE, SECOND)
        assert "host2 has not answered since" in told(one)[0]
        world.dying[SECOND].calls = 1 << 60
        assert await one.watch().look() == []
        assert not any(witness.silent_since_s for witness in one.alarms.witnesses())
    one.crash()


async def test_a_machine_that_was_off_for_a_week_does_not_blame_its_hosts(tmp_path, autojump_clock):
    """A38."""
    world = World()
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await shipped(one)
    await trio.sleep(7 * 24 * HOUR_S)
    world.dying[SECOND].calls = 0
    async with one.shipping():
        await one.watch().look()
        assert one.alarms.all() == []
    one.crash()


async def test_heads_of_the_writing_device_withheld_for_two_days(tmp_path, autojump_clock):
    """Freeze (A38): the former device goes on looking; as long as heads come, once a day at least, nothing is said."""
    world, one, two = await taken_over(tmp_path)
    async with two.shipping():
        number = two.signer.device
        await shipped(two)
        for _ in range(4):  # four days on which nothing is written
            await trio.sleep(HEARTBEAT_S)
            await two.watch().beat()
            await trio.sleep(60)
            await one.watch().look_for_news(number)
            assert one.alarms.all() == []
        newest = one.ledger.head(number)
        assert newest.seq == two.stream.position.next_seq - 1 >= 4
        frozen = {host: dict(memory.objects) for host, memory in world.memory.items()}
        for hours in range(0, STALE_S // HOUR_S + 2, 6):
            await trio.sleep(6 * HOUR_S)
            if hours % 24 == 0:
                await shipped(two)  # it lives, and the hosts keep that to themselves
            for host, memory in world.memory.items():
                memory.objects, frozen[host] = frozen[host], memory.objects
            await one.watch().look_for_news(number)
            for host, memory in world.memory.items():
                memory.objects, frozen[host] = frozen[host], memory.objects
        (alarm,) = one.alarms.all()
        assert (alarm.kind, alarm.device, alarm.host) == (AlarmKind.STALE, number, b"")
        assert (alarm.known_seq, alarm.known_hash) == (newest.seq, newest.hash)
        assert f"device {number} was last seen at commit {newest.seq}" in told(one)[0]
        await one.watch().look_for_news(number)  # and once an honest host answers, it goes on
        assert one.ledger.head(number).seq > newest.seq
    one.crash()
    two.crash()


DAY_S = 24 * HOUR_S


@pytest.mark.parametrize("goes_by_the_date", [False, True], ids=["lasting", "control"])
async def test_a_date_that_somebody_sets_makes_nobody_stale(tmp_path, autojump_clock, goes_by_the_date):
    """Neither a host nor a device; forward or back. The control is a watch that believes the date (A38)."""
    world, one, two = await taken_over(tmp_path)
    if goes_by_the_date:
        one.lasting = one.clock
    async with two.shipping():
        await shipped(two)
    world.dying[SECOND].calls = 0
    await one.watch().look_for_news(two.signer.device)
    await one.watch().look()
    for one.date_wrong_by_s in (30 * DAY_S, -30 * DAY_S, 3650 * DAY_S, 0):
        await one.watch().look()
        await one.watch().look_for_news(two.signer.device)
    wrongly = {(alarm.host, alarm.device) for alarm in one.alarms.all()}
    assert wrongly == ({(SECOND, 1), (b"", two.signer.device)} if goes_by_the_date else set())
    if not goes_by_the_date:
        one.date_wrong_by_s = 30 * DAY_S
        await trio.sleep(STALE_S)
        await one.watch().look()
        (alarm,) = one.alarms.all()
        assert (alarm.kind, alarm.host) == (AlarmKind.STALE, SECOND)
        assert abs(one.clock() - STALE_S - alarm.since_s) < HOUR_S, "and the alarm speaks of dates as the machine does"
    one.crash()
    two.crash()


async def test_a_date_set_back_does_not_silence_a_device(tmp_path, autojump_clock):
    world = World()
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await shipped(one)
        one.date_wrong_by_s = -30 * DAY_S
        seq = one.stream.position.next_seq
        for _ in range(3):
            await one.watch().beat()
            await one.sync()
        assert one.stream.position.next_seq == seq + 1, "once, and then the date counts"
    one.crash()


async def test_control_without_a_heartbeat_a_quiet_device_would_be_missed(tmp_path, autojump_clock):
    """A38."""
    _, one, two = await taken_over(tmp_path)
    async with two.shipping():
        await shipped(two)
        await one.watch().look_for_news(two.signer.device)
        await trio.sleep(STALE_S + HOUR_S)
        await one.watch().look_for_news(two.signer.device)
        assert [alarm.kind for alarm in one.alarms.all()] == [AlarmKind.STALE]
    one.crash()
    two.crash()


async def test_heads_say_what_was_seen_and_what_each_host_had_confirmed(tmp_path, autojump_clock):
    world = World()
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await shipped(one, 3)
    known = one.ledger.head(1)
    one.crash()
    two = await attached(world, tmp_path / "2")
    async with two.shipping():
        await shipped(two, 2)
    head = await read_head(
        world.objects(), world.identity.trust, two.signer.device, two.ledger.head(two.signer.device).seq
    )
    assert [(step.device, step.seq, step.hash) for step in head.seen] == [(1, known.seq, known.hash)]
    assert [each.host for each in head.hosts] == [FIRST, SECOND, THIRD]
    assert all(each.seq >= 1 for each in head.hosts)
    # So a device without any state can name the host that hides what it had confirmed.
    older = {name: data for name, data in world.memory[THIRD].objects.items() if name in set(two_less(world, two))}
    world.memory[THIRD].objects = older
    found = await survey(world.objects(), world.identity.trust)
    assert any(damage.host == THIRD and "had confirmed" in damage.what for damage in found.damages)
    two.crash()


def two_less(world: World, device: Device) -> list[str]:
    """Names on the third host, without what the device wrote."""
    number, newest = device.signer.device, device.ledger.head(device.signer.device).seq
    hidden = {device.objects.name(THIRD, Kind.HEAD, ident_head(number, seq)) for seq in range(1, newest + 1)}
    return [name for name in world.memory[THIRD].objects if name not in hidden]


async def test_another_device_has_seen_more_of_us_than_we_have(tmp_path, autojump_clock):
    """A state directory put back after it had lost the vault: its successor's heads know better (A41)."""
    world = World()
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await shipped(one)
        await one.commits.durable_now()
    one.crash()
    shutil.copytree(tmp_path / "1", tmp_path / "old")
    one = Device(world, tmp_path / "1", one.signer)
    async with one.shipping():
        await shipped(one, 2)
    one.crash()
    two = await attached(world, tmp_path / "2")
    async with two.shipping():
        await shipped(two)
    old = Device(world, tmp_path / "old", one.signer)
    old.assemble()
    await old.watch().look_for_news(two.signer.device)
    (alarm,) = old.alarms.all()
    assert (alarm.kind, alarm.known_seq) == (AlarmKind.OWN_STATE, old.stream.position.next_seq - 1)
    assert alarm.shown_seq > alarm.known_seq
    assert "older copy" in told(old)[0]
    one = Device(world, tmp_path / "1", one.signer)  # the control: the state that is not old is not blamed
    one.assemble()
    await one.watch().look_for_news(two.signer.device)
    assert one.alarms.all() == []
    for device in (old, one, two):
        device.crash()


@pytest.mark.parametrize("kind", AlarmKind)
def test_no_alarm_says_to_delete_a_file(kind):
    """It says who, which numbers, both hashes, and a command or a question; never to remove what noticed it (A25)."""
    from megafs.model import Alarm

    alarm = Alarm(
        kind=kind, host=FIRST, device=1, known_seq=7, known_hash=b"k" * 32, shown_seq=3, shown_hash=b"s" * 32, since_s=5
    )
    for each in (alarm, replace(alarm, host=b"")):
        text = sentence(each, {FIRST: "nas"})
        assert "commit 7" in text
        assert (b"k" * 8).hex() in text
        assert not any(word in text for word in ("delete", "remove the", "rm "))
        assert "\n" not in text
    assert watching.STALE_S == 2 * watching.HEARTBEAT_S
