"""Who writes: the greatest (term, device) wins, also when two claim in the same moment."""

from contextlib import suppress

import pytest
import trio

from megafs.crypto.keys import ident_claim
from megafs.errors import ReadOnly, Unavailable
from megafs.model import DeviceId, Kind
from megafs.sync.claims import FRESH_S, Claims, Standing, is_majority, winners
from megafs.sync.statements import NOTHING, Signer
from tests.sync.rig import World


@pytest.fixture
def world() -> World:
    return World()


def claims_of(world: World, signer: Signer, term: int | None) -> Claims:
    device = DeviceId(signer.certificate.claims.device)
    standing = None if term is None else Standing(term=term, device=device)
    return Claims(world.objects(), world.identity.trust, standing, trio.current_time)


async def test_a_claim_is_found_by_the_former_writer(world: World, autojump_clock: object) -> None:
    former, newcomer = world.identity.signer(1), world.identity.signer(2)
    one = claims_of(world, former, 1)
    assert await one.look() == 3
    two = claims_of(world, newcomer, None)
    found = await two.claim(newcomer, NOTHING, 5)
    assert found.claim.term == 2
    with pytest.raises(ReadOnly, match="device 2"):
        await one.look()
    for host in world.memory:
        with pytest.raises(ReadOnly):
            await one.look_on(host)
        await two.look_on(host)
    assert await two.may_delete()
    assert not await one.may_delete()


async def test_no_answer_no_delete(world: World, autojump_clock: object) -> None:
    signer = world.identity.signer(1)
    one = claims_of(world, signer, 1)
    hosts = list(world.memory)
    world.dying[hosts[0]].die()
    assert await one.may_delete()
    world.dying[hosts[1]].die()
    assert await one.may_delete()  # a majority was asked within the last minute
    await trio.sleep(FRESH_S + 1)
    assert not await one.may_delete()
    world.dying[hosts[1]].revive()
    assert await one.may_delete()


async def test_a_minority_cannot_be_claimed(world: World, autojump_clock: object) -> None:
    signer = world.identity.signer(2)
    for host in list(world.memory)[1:]:
        world.dying[host].die()
    with pytest.raises(Unavailable):
        await claims_of(world, signer, None).claim(signer, NOTHING, 5)


@pytest.mark.parametrize("delay", range(0, 40, 3))
async def test_two_that_claim_at_once_agree_on_one(world: World, autojump_clock: object, delay: int) -> None:
    signers = [world.identity.signer(number) for number in (2, 3)]
    outcomes: dict[int, Claims] = {}

    async def claim(signer: Signer, after: int) -> None:
        for _ in range(after):
            await trio.lowlevel.checkpoint()
        mine = outcomes[signer.device] = claims_of(world, signer, None)
        try:
            await mine.claim(signer, NOTHING, 5)
        except ReadOnly:
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(claim, signers[0], 0)
        nursery.start_soon(claim, signers[1], delay)
    for claims in outcomes.values():  # before its first commit each looks again
        with suppress(ReadOnly):
            await claims.look()
    writers = [number for number, claims in outcomes.items() if claims.lost_to is None]
    assert len(writers) == 1
    third = claims_of(world, world.identity.signer(4), None)
    found = [each for answers in (await third.all()).said.values() for each in answers]
    assert winners(found)[-1].claim.number == writers[0]


async def test_claims_that_a_host_missed_are_put_there_by_the_next(world: World, autojump_clock: object) -> None:
    hosts = list(world.memory)
    one = claims_of(world, world.identity.signer(1), 1)
    for number, dead in ((2, hosts[0]), (3, hosts[1]), (4, hosts[2])):
        signer = world.identity.signer(number)
        world.dying[dead].die()
        await claims_of(world, signer, None).claim(signer, NOTHING, 5)
        world.dying[dead].revive()
    # The first host missed term 2, the last one term 4; both tell the first device enough to stop.
    for host in hosts:
        fresh = claims_of(world, world.identity.signer(1), 1)
        with pytest.raises(ReadOnly):
            await fresh.look_on(host)
    with pytest.raises(ReadOnly, match="device 4"):
        await one.look()


async def test_noise_and_strangers_under_a_claims_name_stop_nobody(world: World, autojump_clock: object) -> None:
    signer = world.identity.signer(1)
    one = claims_of(world, signer, 1)
    stranger = World()
    await claims_of(stranger, stranger.identity.signer(2), None).claim(stranger.identity.signer(2), NOTHING, 5)
    keyring = world.identity.keyring
    for host, memory in world.memory.items():
        memory.objects[keyring.object_name(host, Kind.CLAIM, ident_claim(2, 0))] = b"noise"
        foreign = stranger.memory[host].objects.values()
        memory.objects[keyring.object_name(host, Kind.CLAIM, ident_claim(2, 1))] = next(iter(foreign))
    assert await one.look() == 3
    one.check_writable()
    newcomer = world.identity.signer(2)
    await claims_of(world, newcomer, None).claim(newcomer, NOTHING, 5)
    with pytest.raises(ReadOnly):
        await one.look()


@pytest.mark.parametrize(
    ("answered", "hosts", "result"),
    [(0, 1, False), (1, 1, True), (1, 2, False), (2, 2, True), (2, 3, True), (2, 4, False)],
)
def test_majority(answered: int, hosts: int, result: bool) -> None:
    assert is_majority(answered, hosts) is result
