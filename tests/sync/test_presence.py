"""A host that stays away: noticed, written off, made up for, and taken back as it is."""

from dataclasses import replace
from os import urandom
from pathlib import Path

import pytest
import trio

from megafs.crypto.keys import ident_pack
from megafs.model import HostId, Kind, Policy
from megafs.sync.presence import Presence
from megafs.sync.repair import Repairer
from tests.sync.rig import Device, World
from tests.sync.test_scrub import scrubber

GONE_S = 1200.0


class Place:
    """One device whose hosts come and go, with everything around presence."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        self.device = Device(world, root, world.identity.signer(1))
        states = world.states
        care = self.device.care
        world.states = lambda: [replace(s, written_off=s.spec.id in care.written_off()) for s in states()]

    async def ask(self, host: HostId) -> None:
        """The hosts of this world are known to be there or not."""

    def assemble(self, gone_s: float = GONE_S) -> Repairer:
        scrub = scrubber(self.device, list(self.world.memory))
        self.repairer = scrub.repairing
        self.presence = Presence(
            care=self.device.care,
            mirror=scrub._mirror,
            repairer=self.repairer,
            hosts=lambda: list(self.world.memory),
            answers=lambda host: self.world.dying[host].calls > 0,
            ask=self.ask,
            gone_s=gone_s,
            clock=self.device.clock,
        )
        return self.repairer


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(World(4), tmp_path / "1")


def puts(world: World) -> dict[HostId, set[str]]:
    return {host: set(memory.objects) for host, memory in world.memory.items()}


@pytest.mark.parametrize("policy", [Policy(copies=2), Policy(k=2, m=1)])
async def test_written_off_made_up_for_and_taken_back(place, autojump_clock, policy, caplog) -> None:
    place.world.policy = policy
    device = place.device
    async with device.shipping() as shipper:
        for n in range(6):
            await device.write(b"%d" % n, urandom(20_000))
            await device.sync()
        # The first of them: of two hosts with the same shard that one is kept, so what it has counts again.
        away = next(host for host in sorted(place.world.memory) if device.packs.copies_on(host))
        theirs = {number for number, _, _ in device.packs.copies_on(away)}
        kept = dict(place.world.memory[away].objects)
        place.world.dying[away].die()
        repairer = place.assemble()
        shipper.lanes.nursery.start_soon(place.presence.run)
        shipper.lanes.nursery.start_soon(repairer.run)
        await trio.sleep(GONE_S - 300)
        assert not device.care.written_off()
        assert repairer.made == 0
        await trio.sleep(600)
        assert device.care.written_off() == {away}
        for number in theirs:  # as many good ones as the policy wants, beside those that are away
            assert len({host for host, _, _ in device.packs.copies(number)} - {away}) == policy.places
        assert {number for number, _, _ in device.packs.copies_on(away)} == theirs
        await device.write(b"later", urandom(20_000))
        await device.sync()  # does not wait for who is written off

        made, sent = repairer.made, place.world.dying[away]
        place.world.dying[away].revive()
        await trio.sleep(300)
        assert not device.care.absences()
        assert repairer.made == made, "nothing that it has is sent to it again"
        assert set(kept) & {
            device.objects.name(away, Kind.PACK, ident_pack(device.packs.get(number).id, shard))
            for number, shard, _ in device.packs.copies_on(away)
        }, "what it has counts again"
        for pack in device.packs.all():
            assert len(device.packs.copies(pack.number)) == policy.places
        await device.sync()
        assert sent.calls > 0
    caplog.clear()  # that it was written off is a warning
    device.crash()


async def test_what_a_host_lost_while_away_does_not_count(place, autojump_clock, caplog) -> None:
    place.world.policy = Policy(copies=4)  # nobody can stand in
    device = place.device
    async with device.shipping() as shipper:
        await device.write(b"a", urandom(20_000))
        await device.sync()
        (pack,) = device.packs.all()
        away = HostId(bytes([2]) * 16)
        name = device.objects.name(away, Kind.PACK, ident_pack(pack.id))
        place.world.dying[away].die()
        repairer = place.assemble()
        shipper.lanes.nursery.start_soon(place.presence.run)
        shipper.lanes.nursery.start_soon(repairer.run)
        await trio.sleep(GONE_S + 300)
        assert device.care.written_off() == {away}
        before = puts(place.world)
        before[away].discard(name)
        place.world.memory[away].objects.clear()
        place.world.dying[away].revive()
        await trio.sleep(600)
        assert name in place.world.memory[away].objects
        assert before[away] <= set(place.world.memory[away].objects)
    caplog.clear()
    device.crash()


async def test_who_is_offline_writes_nobody_off(place, autojump_clock) -> None:
    """Not while away, and not in the minutes after, when hosts answer again one after the other."""
    device = place.device
    async with device.shipping(), trio.open_nursery() as nursery:
        place.assemble()
        nursery.start_soon(place.presence.run)
        hosts = list(place.world.memory)
        for host in hosts[:2]:
            place.world.dying[host].die()
        await trio.sleep(300)  # the breakers find out one after the other
        assert len(device.care.absences()) == 2
        for host in hosts:
            place.world.dying[host].die()
        await trio.sleep(3 * GONE_S)
        place.world.dying[hosts[3]].revive()
        await trio.sleep(600)
        for host in hosts:
            place.world.dying[host].revive()
        await trio.sleep(120)
        assert not device.care.absences()
        nursery.cancel_scope.cancel()
    device.crash()


async def test_never_means_never(place, autojump_clock) -> None:
    device = place.device
    async with device.shipping(), trio.open_nursery() as nursery:
        place.assemble(gone_s=0)
        nursery.start_soon(place.presence.run)
        place.world.dying[HostId(bytes([1]) * 16)].die()
        await trio.sleep(3 * GONE_S)
        assert len(device.care.absences()) == 1
        assert not device.care.written_off()
        nursery.cancel_scope.cancel()
    device.crash()
