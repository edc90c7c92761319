"""The power goes at every step of shipping: nothing is lost, no name ever gets two contents."""

import shutil
from pathlib import Path
from random import Random

import pytest

from megafs.hosts.protocol import Bytes
from megafs.hosts.wrappers import Request, Wrapped
from tests.sync.rig import Device, PlainCommits, World, attached
from tests.sync.test_recover import same_content

# More than a run has, also where slow threads make it look again and again; one that ends before its step has met all.
STEPS = 600


class PowerCut(BaseException):
    """Not an Exception: nothing may catch it."""


class Fuse:
    """Blows at the given step."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.blown = False

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.blown = True
        if self.blown:
            raise PowerCut


class FusedHost(Wrapped):
    """A host that sees the power go before or after each request, and that notices a second content for a name."""

    def __init__(self, inner: object, fuse: Fuse, seen: dict[str, bytes]) -> None:
        super().__init__(inner)
        self._fuse, self._seen = fuse, seen

    async def put(self, name: str, data: Bytes) -> None:
        await super().put(name, data)
        assert self._seen.setdefault(name, bytes(data)) == data, "two contents under one name"

    async def around(self, request: Request, work: object) -> object:
        self._fuse.step()
        result = await work()
        if request.verb == "put":
            self._fuse.step()
        return result


class FusedCommits(PlainCommits):
    """A committer whose WAL keeps, when the power goes, only what was synced: the state is copied after each sync."""

    def __init__(self, device: Device, fuse: Fuse, durable: Path, syncs: int) -> None:
        """Only the first ``syncs`` syncs are real: a disk that lies must be noticed by the tests."""
        super().__init__(device.database, device.writer, device.packs)
        self._device, self._fuse, self._copy, self._syncs = device, fuse, durable, syncs

    async def durable_now(self) -> None:
        self._fuse.step()
        await super().durable_now()
        self._syncs -= 1
        if self._syncs >= 0:
            shutil.rmtree(self._copy, ignore_errors=True)
            shutil.copytree(self._device.root, self._copy)
        self._fuse.step()


def blew(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(blew(each) for each in error.exceptions)
    return isinstance(error, PowerCut)


async def run(
    world: World, root: Path, signer: object, fuse: Fuse, seen: dict, names: list[bytes], syncs: int = 1 << 30
) -> list[bytes]:
    """Write these files and ship; what was durable when the power went or all was done."""
    random = Random(1)
    device = Device(world, root, signer)
    device.objects.hosts = {
        host: FusedHost(dying, fuse, seen.setdefault(host, {})) for host, dying in world.dying.items()
    }
    device.commits = FusedCommits(device, fuse, root.with_name("durable"), syncs)
    durable: list[bytes] = []
    try:
        async with device.shipping():
            for name in names:
                await device.write(name, random.randbytes(2000))
                durable.append(name)
                await device.sync()
    except BaseException as error:
        if not blew(error):
            raise
    finally:
        device.crash()
    return durable


async def test_power_cuts(memory_disk: Path, autojump_clock: object) -> None:
    blown = 0
    for step in range(1, STEPS, 4):
        world, seen = World(), {}
        signer = world.identity.signer(1)
        root = memory_disk / str(step) / "1"
        fuse = Fuse(step)
        durable = await run(world, root, signer, fuse, seen, [b"a", b"b"])
        copy = root.with_name("durable")
        blown += fuse.blown
        if fuse.blown:
            shutil.rmtree(root)
            if copy.exists():
                copy.rename(root)
        if not fuse.blown:
            break
        await run(world, root, signer, Fuse(0), seen, [b"c"])
        one = Device(world, root, signer)
        rows = {row[0] for row in one.database.connection.execute("SELECT name FROM dirent")}
        assert {*durable, b"c"} <= rows, f"step {step}"
        two = await attached(world, root.with_name("2"))
        same_content(one, two)
        one.crash()
        two.crash()
        shutil.rmtree(root.parent)
    else:
        pytest.fail("the run has more steps than were tried")
    assert blown > 10


async def test_control_a_disk_that_lies_is_noticed(tmp_path: Path, autojump_clock: object) -> None:
    world, seen = World(), {}
    signer = world.identity.signer(1)
    await run(world, tmp_path / "1", signer, Fuse(0), seen, [b"a", b"b"], syncs=2)
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "durable").rename(tmp_path / "1")
    with pytest.raises(BaseExceptionGroup) as caught:
        await run(world, tmp_path / "1", signer, Fuse(0), seen, [b"c"])
    assert caught.group_contains(AssertionError, match="two contents")


async def test_control_a_second_content_is_noticed(autojump_clock: object) -> None:
    world = World(1)
    (dying,) = world.dying.values()
    host = FusedHost(dying, Fuse(0), {})
    await host.put("a" * 32, b"one")
    await host.put("a" * 32, b"one")
    with pytest.raises(AssertionError):
        await host.put("a" * 32, b"two")
