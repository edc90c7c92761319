"""Every host that could still take a copy stays away: what there is to be had counts, and the rest is owed."""

from contextlib import suppress
from pathlib import Path
from random import randbytes

import pytest
import trio

from megafs.config import Settings
from megafs.errors import Incomplete
from megafs.model import Policy
from tests.sync.rig import Device, World, attached, checkpointer
from tests.sync.test_collect import collector
from tests.sync.test_mirror import mirror_of
from tests.sync.test_recover import same_content
from tests.sync.test_repair import repairer


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(("policy", "fewest"), [(Policy(copies=2), 1), (Policy(k=2, m=1), 2)])
async def test_what_waits_for_hosts_that_stay_away_leaves_without_them(
    world: World, tmp_path: Path, autojump_clock: object, policy: Policy, fewest: int
) -> None:
    world.policy, hosts = policy, list(world.memory)
    device = Device(world, tmp_path, world.identity.signer(1))
    for host in hosts[fewest:]:
        world.dying[host].die()
    async with device.shipping() as shipper:
        await device.write(b"a", randbytes(50_000))
        device.writer.retire()
        await trio.sleep(25)
        assert device.stream.position.next_seq == 1, "they may be back soon"
        await trio.sleep(35)
        assert [device.ledger.host_head(host, 1) > 0 for host in hosts] == [host in hosts[:fewest] for host in hosts]
        began = trio.current_time()
        await device.write(b"b", randbytes(50_000))
        with pytest.raises(Incomplete, match="host3 lacks"):
            await device.sync(patience_s=20)
        assert trio.current_time() - began < 25, "it is known that they are away"
        left = shipper.backlog()
        assert left.packs == left.commits == 0
        assert sum(left.owed.values()) == 2 * (policy.places - fewest)
        other = await attached(world, tmp_path / "other", least=1)
        assert {pack.id for pack in other.packs.all()} == {pack.id for pack in device.packs.all()}
        other.crash()
    device.crash()


async def test_without_any_host_nothing_counts_and_two_that_come_one_after_the_other_are_waited_for(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    device = Device(world, tmp_path, world.identity.signer(1))
    hosts = list(world.memory)
    for host in hosts:
        world.dying[host].die()
    async with device.shipping():
        await device.write(b"a", randbytes(50_000))
        device.writer.retire()
        await trio.sleep(3600)
        world.dying[hosts[0]].revive()
        device.shipper.try_now()
        await trio.sleep(10)
        assert device.stream.position.next_seq == 1, "the hour does not count: no host was there"
        world.dying[hosts[1]].revive()
        await trio.sleep(60)
        assert device.ledger.host_head(hosts[0], 1) > 0
        (pack,) = device.packs.all()
        assert len(device.packs.copies(pack.number)) == 2
    device.crash()


async def test_a_host_that_is_back_gets_all_and_nothing_old_goes_before(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    """Two copies on two hosts, one of them away for longer than deleted things are kept."""
    world = World(count=2)
    here, away = world.memory
    device = Device(world, tmp_path, world.identity.signer(1), settings=Settings(retention_s=1000))
    async with device.shipping() as shipper:
        checkpoints, collecting, repairing = checkpointer(device), collector(device), repairer(device)
        for turn in range(4):
            if turn == 1:
                world.dying[away].die()
                before = set(world.memory[away].objects)
            ino = await device.write(b"%d" % turn, randbytes(50_000))
            with suppress(Incomplete):
                await device.sync()
            assert await checkpoints.make()
            await trio.sleep(900)
            checkpoints.note_complete()
            with suppress(Incomplete):
                await device.sync()
            if turn == 2:
                await device.remove(ino)
            await collecting.sweep()
            await collecting.tend()
        kept = device.ledger.kept_checkpoints()
        assert [each.complete for each in kept] == [True] * 4, "also those that one host has"
        assert before <= world.memory[away].objects.keys()
        assert device.ledger.kept_checkpoints() == kept
        world.dying[away].revive()
        with suppress(Incomplete):
            await device.sync()
        await repairing.run_once()
        await device.sync()
        assert shipper.backlog().is_empty
        assert await device.watch().look() == []
        assert device.alarms.all() == []
        assert len(world.memory[away].objects) == len(world.memory[here].objects) - 1, "the pack that died meanwhile"
        await collecting.tend()
        assert len(device.ledger.kept_checkpoints()) < 4, "now what is old goes: the control"
    device.crash()


async def test_a_host_that_missed_the_end_of_a_lost_machine_gets_it_from_the_next_one(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = World(count=2)
    here, away = world.memory
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await one.write(b"before", randbytes(50_000))
        await one.sync()
        world.dying[away].die()
        for number in range(5):
            await one.write(b"alone %d" % number, randbytes(50_000))
            with pytest.raises(Incomplete):
                await one.sync(patience_s=40)
    two = await attached(world, tmp_path / "2", least=1)
    same_content(one, two)
    one.crash()
    async with two.shipping() as shipper:
        await two.write(b"after", randbytes(50_000))
        repairing = repairer(two)
        mirror = mirror_of(two, repairing)
        with pytest.raises(Incomplete):
            await two.sync()
        assert await mirror.watch.look() == []
        world.dying[away].revive()
        assert await mirror.watch.look() == [away]
        assert await mirror.complete(away) > 0
        await repairing.run_once()
        await two.sync()
        assert shipper.backlog().is_empty
        assert await mirror.watch.look() == []
        assert two.alarms.all() == []
    world.dying[here].die()
    three = await attached(world, tmp_path / "3", least=1)
    same_content(two, three)
    two.crash()
    three.crash()
