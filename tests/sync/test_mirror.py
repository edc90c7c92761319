"""A host that was wiped gets everything again: index objects and packs."""

from pathlib import Path
from random import randbytes

from megafs.model import HostId, Policy
from megafs.sync.mirror import Mirror
from megafs.sync.repair import Repairer
from tests.sync.rig import Device, World, attached, checkpointer
from tests.sync.test_recover import same_content
from tests.sync.test_repair import repairer


def mirror_of(device: Device, repairing: Repairer) -> Mirror:
    return Mirror(
        objects=device.objects,
        ledger=device.ledger,
        packs=device.packs,
        stream=device.stream,
        claims=device.claims,
        repairer=repairing,
        watch=device.watch(),
    )


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
        mirror = mirror_of(two, repair)
        assert await mirror.watch.look() == []
        wiped = HostId(bytes([2]) * 16)
        whole = set(world.memory[wiped].objects)
        world.memory[wiped].objects.clear()
        assert await mirror.watch.look() == [wiped]
        assert await mirror.complete(wiped) > 0
        assert await repair.run_once() == len([p for p in two.packs.all() if not two.packs.is_empty(p.number)])
        assert set(world.memory[wiped].objects) == whole
        assert await mirror.watch.look() == []
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
