"""A host that was wiped gets everything again: index objects and packs."""

from dataclasses import replace
from pathlib import Path
from random import randbytes

import pytest

from megafs.errors import RolledBack
from megafs.model import HostId, Policy
from megafs.sync.mirror import Mirror
from tests.sync.rig import Device, World, attached, checkpointer
from tests.sync.test_recover import same_content
from tests.sync.test_repair import repairer


async def test_a_wiped_host_alone_is_enough_in_the_end(tmp_path: Path, autojump_clock: object) -> None:
    world = World()
    world.policy = Policy(copies=3)
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        checkpoints = checkpointer(one)
        for n in range(4):
            await one.write(b"f%d" % n, randbytes(3000))
            await one.sync()
        assert await checkpoints.make()
        await one.sync()
        checkpoints.note_complete()
        await one.write(b"later", randbytes(3000))
        await one.sync()
    one.crash()
    two = await attached(world, tmp_path / "2")
    async with two.shipping():
        await two.write(b"of another device", randbytes(3000))
        await two.sync()
        repair = repairer(two)
        mirror = Mirror(
            objects=two.objects,
            ledger=two.ledger,
            packs=two.packs,
            stream=two.stream,
            claims=two.claims,
            repairer=repair,
            trust=world.identity.trust,
        )
        assert await mirror.forgetful() == []
        wiped = HostId(bytes([2]) * 16)
        whole = set(world.memory[wiped].objects)
        world.memory[wiped].objects.clear()
        assert await mirror.forgetful() == [wiped]
        assert await mirror.complete(wiped) > 0
        assert await repair.run_once() == len([p for p in two.packs.all() if not two.packs.is_empty(p.number)])
        assert set(world.memory[wiped].objects) == whole
        assert await mirror.forgetful() == []
        assert await mirror.complete(wiped) == 0
    three = await attached_alone(world, tmp_path / "3", wiped)
    same_content(two, three)
    two.crash()
    three.crash()


async def attached_alone(world: World, root: Path, host: HostId) -> Device:
    """Attach with only this host left; the vault has no other."""
    for other in [other for other in world.dying if other != host]:
        del world.dying[other]
    return await attached(world, root)


async def test_two_histories_are_told_apart(tmp_path: Path, autojump_clock: object) -> None:
    world = World()
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        await one.write(b"f", randbytes(3000))
        await one.sync()
        mirror = Mirror(
            objects=one.objects,
            ledger=one.ledger,
            packs=one.packs,
            stream=one.stream,
            claims=one.claims,
            repairer=repairer(one),
            trust=world.identity.trust,
        )
        assert await mirror.forgetful() == []
        known = one.ledger.head(1)
        one.ledger.set_head(replace(known, hash=bytes(32)))
        with pytest.raises(RolledBack, match="two histories"):
            await mirror.forgetful()
    one.crash()
