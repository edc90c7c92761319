"""What fsync may promise of hosts: nothing before packs, commits and heads are on as many as were asked for."""

from pathlib import Path

import pytest
import trio

from megafs.errors import Incomplete
from megafs.model import HostId, Policy
from megafs.sync.reach import Reach
from megafs.sync.survey import survey
from tests.sync.rig import Device, World, attached


@pytest.fixture
def world():
    return World(3)


def reach_of(device: Device) -> Reach:
    made = Reach(device.database, device.ledger, device.shipper, device.commits, device.world.landscape)

    def durable() -> None:
        made.note()
        device.shipper.wake()

    device.commits.on_durable = durable
    return made


@pytest.mark.parametrize("hosts", [1, 2, 3])
async def test_what_is_on_so_many_hosts_is_there_for_an_attach(world, tmp_path: Path, autojump_clock, hosts):
    world.policy = Policy(copies=3)
    device = Device(world, tmp_path / "1", world.identity.signer(1))
    async with device.shipping():
        reach = reach_of(device)
        ino = await device.write(b"promised", b"x" * 100_000)
        assert not reach.has(ino), "not yet"
        await reach.until_on(hosts, 60)
        assert reach.first_row(hosts) is None
        having = [host for host, memory in world.memory.items() if len(memory.objects) >= 3]  # pack, commit, head
        assert len(having) >= hosts
        await device.sync()
        assert reach.has(ino)
        assert not reach.has(device.database.device << 40 | device.database.committed_counter + 1)
    found = await survey(device.objects, world.identity.trust)
    assert found.newest[1] > 0
    device.crash()
    other = await attached(world, tmp_path / "2")
    assert other.inodes.get(ino) is not None
    other.crash()


async def test_hosts_that_stay_away_are_told_in_time_and_nothing_is_lost(world, tmp_path: Path, autojump_clock):
    world.policy = Policy(copies=3)
    device = Device(world, tmp_path / "1", world.identity.signer(1))
    dead = HostId(bytes([2]) * 16)
    async with device.shipping():
        reach = reach_of(device)
        world.dying[dead].die()
        ino = await device.write(b"promised", b"x" * 100_000)
        await reach.until_on(2, 60)
        assert reach.has(ino), "on as many as count"
        began = trio.current_time()
        with pytest.raises(Incomplete, match="3 hosts"):
            await reach.until_on(3, 20)
        assert 20 <= trio.current_time() - began < 200
        world.dying[dead].revive()
        await reach.until_on(3, 600)
        assert len(world.memory[dead].objects) >= 3
    device.crash()


async def test_more_hosts_than_the_policy_has_are_refused(world, tmp_path: Path, autojump_clock):
    device = Device(world, tmp_path / "1", world.identity.signer(1))
    async with device.shipping():
        with pytest.raises(Incomplete, match="the policy has 2"):
            await reach_of(device).until_on(3, 20)
    device.crash()


async def test_what_was_known_to_be_shipped_is_known_after_the_next_start(world, tmp_path: Path, autojump_clock):
    device = Device(world, tmp_path / "1", world.identity.signer(1))
    async with device.shipping():
        reach = reach_of(device)
        ino = await device.write(b"a", b"x" * 1000)
        await device.sync()
        assert reach.has(ino)
        await device.commits.durable_now()
        later = await device.write(b"b", b"y" * 1000)
    device.crash()
    again = Device(world, tmp_path / "1", device.signer)
    again.assemble()
    reach = reach_of(again)
    assert reach.has(ino)
    assert not reach.has(later)
    again.crash()


async def test_one_host_is_one_host_while_the_other_stays_away(tmp_path: Path, autojump_clock):
    """Two copies on two hosts: what is promised of one host needs no other."""
    world = World(2)
    device = Device(world, tmp_path / "1", world.identity.signer(1))
    world.dying[HostId(bytes([2]) * 16)].die()
    async with device.shipping():
        reach = reach_of(device)
        for number in range(2):
            ino = await device.write(b"promised %d" % number, b"x" * 100_000)
            await reach.until_on(1, 60)
            assert reach.has(ino)
            with pytest.raises(Incomplete, match="2 hosts"):
                await reach.until_on(2, 20)
        other = await attached(world, tmp_path / "2", least=1)
        assert other.inodes.get(ino) is not None
        other.crash()
    device.crash()
