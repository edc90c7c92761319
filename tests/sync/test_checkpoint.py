"""Checkpoints: what is cut anew, what a new device does with them, what a crash leaves behind."""

from itertools import pairwise
from pathlib import Path
from random import randbytes

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from megafs.errors import Corrupt
from megafs.index.ledger import KnownPart
from megafs.index.replication import KEY_STOP, Range
from megafs.index.schema import REPLICATED
from megafs.sync.checkpoint import listed_part, stale
from megafs.sync.recover import check_tiles
from tests.sync.rig import Device, World, attached, checkpointer
from tests.sync.test_recover import same_content


@pytest.fixture
def world() -> World:
    return World()


def part(table: str, low: bytes, high: bytes) -> KnownPart:
    return KnownPart(
        id=(table.encode() + low + bytes(16))[:16],
        range=Range(table=table, low=low, high=high),
        digest=bytes(32),
        bytes=1,
        rows=1,
        changeset_bytes=1,
    )


CUTS = st.lists(st.binary(min_size=1, max_size=2).filter(lambda key: key < b"\xff"), unique=True, max_size=8).map(
    sorted
)


@given(CUTS, st.lists(st.binary(min_size=1, max_size=3).filter(lambda key: key < b"\xff"), max_size=6))
def test_kept_and_fresh_ranges_cover_everything_once(cuts: list[bytes], keys: list[bytes]) -> None:
    bounds = [b"", *cuts, KEY_STOP]
    known = [part("chunk", low, high) for low, high in pairwise(bounds)]
    known += [part(table, b"", KEY_STOP) for table in REPLICATED if table != "chunk"]
    good, ranges = stale(known, [("chunk", key) for key in keys])
    fresh = [part(each.table, each.low, each.high) for each in ranges]
    check_tiles([listed_part(each) for each in [*good, *fresh]])
    for each in good:
        assert not any(each.range.table == "chunk" and each.range.low <= key < each.range.high for key in keys)
    if not keys:
        assert not ranges


def test_a_gap_is_noticed() -> None:
    known = [part(table, b"", KEY_STOP) for table in REPLICATED]
    check_tiles([listed_part(each) for each in known])
    for broken in (known[1:], [part("inode", b"", b"1"), *known[1:]], [*known, part("inode", b"1", KEY_STOP)]):
        with pytest.raises(Corrupt):
            check_tiles([listed_part(each) for each in broken])


async def test_a_new_device_starts_from_it(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping():
        checkpoints = checkpointer(one)
        for n in range(3):
            await one.write(b"f%d" % n, randbytes(3000))
        assert await checkpoints.make()
        await one.sync()
        checkpoints.note_complete()
        assert not checkpoints.is_pending()
        await one.write(b"later", randbytes(3000))
        await one.sync()
        two = await attached(world, tmp_path / "2")
        assert two.survey.checkpoint is not None
        assert len(list(two.survey.after_checkpoint())) < one.stream.position.next_seq - 1
        same_content(one, two)
    one.crash()
    # The new device goes on with the old one's parts.
    async with two.shipping():
        again = checkpointer(two)
        old = {each.id for each in two.ledger.known_parts()}
        await two.write(b"more", randbytes(3000))
        assert await again.make()
        assert old & {each.id for each in two.ledger.known_parts()}
        await two.sync()
        again.note_complete()
        await two.write(b"still more", randbytes(3000))
        await two.sync()
    three = await attached(world, tmp_path / "3")
    assert three.survey.checkpoint.step.device == two.signer.device
    same_content(two, three)
    two.crash()
    three.crash()


async def test_writing_goes_on_meanwhile(world: World, tmp_path: Path, autojump_clock: object) -> None:
    one = Device(world, tmp_path / "1", world.identity.signer(1))
    async with one.shipping(), trio.open_nursery() as nursery:
        checkpoints = checkpointer(one)

        async def write() -> None:
            for n in range(30):
                await one.write(b"f%d" % n, randbytes(300))
                await trio.sleep(0.7)

        nursery.start_soon(write)
        for _ in range(3):
            await trio.sleep(2)
            await checkpoints.make()
            while checkpoints.is_pending():
                await trio.sleep(1)
                checkpoints.note_complete()
    async with one.shipping():
        await one.sync()
    two = await attached(world, tmp_path / "2")
    assert two.survey.checkpoint is not None
    same_content(one, two)
    one.crash()
    two.crash()


async def test_a_crash_in_the_middle_leaves_nothing_behind(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    signer = world.identity.signer(1)
    one = Device(world, tmp_path / "1", signer)
    for dying in world.dying.values():
        dying.die()
    async with one.shipping(), trio.open_nursery() as nursery:
        await one.write(b"a", randbytes(3000))
        nursery.start_soon(checkpointer(one).make)  # waits for hosts
        await trio.sleep(30)
        await one.commits.durable_now()
        parts = [ident for _, kind, ident in one.ledger.uploads() if kind == "part"]
        assert parts
        nursery.cancel_scope.cancel()
    one.crash()
    for dying in world.dying.values():
        dying.revive()
    one = Device(world, tmp_path / "1", signer)
    async with one.shipping():
        checkpoints = checkpointer(one)
        assert not [kind for _, kind, _ in one.ledger.uploads() if kind == "part"]
        host = world.specs[0].id
        assert sorted(ident for _, ident in one.ledger.expired(host, 1000)) == sorted(parts)
        assert await checkpoints.make()
        await one.sync()
    two = await attached(world, tmp_path / "2")
    same_content(one, two)
    one.crash()
    two.crash()
