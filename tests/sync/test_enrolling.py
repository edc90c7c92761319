"""Tickets and announced epochs on hosts that lie: who is let in and whose word of a new epoch counts."""

from dataclasses import replace
from os import urandom

import pytest

from megafs.canonical import encode
from megafs.crypto.identity import Pinned, Revoked, issue_epoch
from megafs.crypto.keys import Keyring, ident_epoch, ident_head
from megafs.crypto.ticket import TicketCode
from megafs.errors import Corrupt, ReadOnly, Unauthentic
from megafs.model import Kind
from megafs.sync import epochs, tickets
from megafs.sync.statements import NOTHING, Head, Signer, Step, Trust, framed
from megafs.sync.survey import newest_seq
from tests.sync.rig import Device, Identity, World

NOW_S = 1_700_000_000


async def put_ticket(world, identity=None, code=None):
    identity, code = identity or world.identity, code or TicketCode.generate()
    for spec in world.specs:
        await tickets.put(
            world.memory[spec.id], spec, world.specs, code=code, keyring=identity.keyring,
            root_public=identity.root.public, epochs=identity.epochs, expires_s=NOW_S,
        )  # fmt: skip
    return code


async def test_a_ticket_says_everything_but_the_root_key():
    world = World(2)
    code = await put_ticket(world)
    for spec in world.specs:
        ticket = await tickets.find(world.memory[spec.id], code)
        assert (ticket.host, ticket.expires_s) == (spec.id, NOW_S)
        assert Keyring.from_fields(ticket.keyring).secrets == world.identity.keyring.secrets
        assert [host.id for host in ticket.hosts] == [each.id for each in world.specs]
        sealed = await world.memory[spec.id].get(code.name())
        assert world.identity.root.seed.hex().encode() not in code.open(sealed)


async def test_a_ticket_goes_once():
    world = World(1)
    (host,) = world.memory.values()
    code = await put_ticket(world)
    assert await tickets.is_there(host, code)
    await tickets.take_back(host, code.name())
    await tickets.take_back(host, code.name())
    assert not await tickets.is_there(host, code)
    assert await tickets.find(host, code) is None


async def test_a_host_makes_no_ticket_and_changes_none():
    """A07, A08: what is let in is decided by the words, which no host sees; its own vault is refused there."""
    world, code = World(1), TicketCode.generate()
    (host,) = world.memory.values()
    await put_ticket(world, code=code)
    good = await host.get(code.name())
    theirs = await put_ticket(world, Identity(), TicketCode.generate())
    forged = await host.get(theirs.name())
    assert tickets.opened(theirs, forged), "the control: it is valid in itself"
    changed = [bytes([*good[:at], good[at] ^ 1, *good[at + 1 :]]) for at in range(0, len(good), 97)]
    for wrong in (forged, b"", good[:-1], good + b"x", *changed):
        host.objects[code.name()] = wrong
        assert await tickets.find(host, code) is None
    host.objects[code.name()] = good
    assert await tickets.find(host, code) is not None


async def test_a_ticket_that_contradicts_itself_is_refused():
    world, other = World(1), Identity()
    code = await put_ticket(world)
    (host,) = world.memory.values()
    ticket = await tickets.find(host, code)
    rotated = world.identity.keyring.rotated()
    for wrong in (
        replace(ticket, root_public=other.root.public),
        replace(ticket, keyring=other.keyring.to_fields()),
        replace(ticket, epochs=other.epochs),
        replace(ticket, epochs=()),
        replace(ticket, keyring=rotated.to_fields()),
    ):
        with pytest.raises((Corrupt, Unauthentic)):
            tickets.opened(code, code.seal(encode(wrong)))


async def announced(world, body, *, epoch=2, under=1):
    """Put bytes where the announcement of an epoch lies, on every host, as one who was enrolled can seal them."""
    keyring = world.identity.keyring
    for host, memory in world.memory.items():
        name = keyring.object_name(host, Kind.EPOCH, ident_epoch(epoch))
        memory.objects[name] = keyring.seal(Kind.EPOCH, [ident_epoch(2)], body, epoch=under)


def next_epoch(world, revoked=()):
    keyring = world.identity.keyring.rotated()
    return issue_epoch(world.identity.root, keyring, revoked)


async def test_a_device_that_was_left_behind_writes_no_more(tmp_path, autojump_clock):
    world = World(2)
    signer = world.identity.signer(1)
    device = Device(world, tmp_path / "1", signer)
    device.assemble()
    assert await device.claims.look() == 2
    await announced(world, encode(next_epoch(world)))
    with pytest.raises(ReadOnly, match=r"new epoch 2.*ticket"):
        await device.claims.look()
    assert device.claims.is_lost
    assert not await device.claims.may_delete()
    device.crash()


async def test_a_revoked_device_is_told_so_by_any_host(tmp_path, autojump_clock):
    world = World(2)
    signer = world.identity.signer(1)
    device = Device(world, tmp_path / "1", signer)
    device.assemble()
    revoked = Revoked(device=signer.certificate.claims.device, last_seq=0)
    await announced(world, encode(next_epoch(world, (revoked,))))
    next(iter(world.memory.values())).objects.clear()
    with pytest.raises(ReadOnly, match="this device was revoked"):
        await device.claims.look()
    device.crash()


async def test_nobody_but_the_root_key_announces(tmp_path, autojump_clock, caplog):
    """A17: sealed by one who knows the keys is not said by one who may say it."""
    world = World(2)
    device = Device(world, tmp_path / "1", world.identity.signer(1))
    device.assemble()
    stranger = Identity()
    right = next_epoch(world)
    for wrong in (
        encode(issue_epoch(stranger.root, stranger.keyring.rotated())),
        encode(replace(right, signature=world.identity.epochs[0].signature)),
        encode(replace(right, claims=replace(right.claims, revoked=(Revoked(device=bytes(16), last_seq=0),)))),
        encode(world.identity.epochs[0]),  # A18: a former epoch's
        b"{}",
        urandom(300),
    ):
        caplog.clear()
        await announced(world, wrong)
        assert await device.claims.look() == 2, "it goes on"
        assert "did not sign" in caplog.text
    caplog.clear()
    await announced(world, encode(right))
    with pytest.raises(ReadOnly):  # the control: the root key's own word
        await device.claims.look()
    device.crash()


async def test_heads_made_up_by_a_revoked_device_lead_no_search_astray():
    """A18: it can seal for ever in the epochs that it knew, so a seal alone proves nothing."""
    world = World(1)
    (host, memory), identity = next(iter(world.memory.items())), world.identity
    theirs = identity.signer(5)
    claims = theirs.certificate.claims
    pinned = Pinned(device=claims.device, number=5, public_key=claims.public_key)
    rotated = identity.keyring.rotated()
    newest = issue_epoch(identity.root, rotated, (Revoked(device=claims.device, last_seq=2),), (pinned,))
    trust = Trust.of(rotated.vault, identity.root.public, (*identity.epochs, newest))

    def put_head(signer: Signer, seq: int) -> None:
        step = Step(device=5, seq=seq, hash=bytes(32))
        certificate = signer.certificate
        head = Head(step=step, term=1, made_s=0, checkpoint=NOTHING, seen=(), certificate=certificate)
        sealed = identity.keyring.seal(Kind.HEAD, [ident_head(5, seq)], framed(signer, head))
        memory.objects[identity.keyring.object_name(host, Kind.HEAD, ident_head(5, seq))] = sealed

    for seq in range(1, 64):
        put_head(theirs, seq)
    objects = world.objects()
    assert await newest_seq(objects, identity.trust, 5) == 63, "the control: before the revocation they count"
    objects.damages.clear()
    assert await newest_seq(objects, trust, 5) == 2
    assert objects.damages, "and the host that shows them is named"


async def test_announcements_reach_hosts_once_and_none_of_the_first_epoch():
    world = World(2)
    objects = world.objects()
    certificates = (*world.identity.epochs, next_epoch(world))
    await epochs.announce(objects, certificates)
    before = {host: dict(memory.objects) for host, memory in world.memory.items()}
    assert all(len(there) == 1 for there in before.values())
    await epochs.announce(objects, certificates)
    assert {host: dict(memory.objects) for host, memory in world.memory.items()} == before
    assert (await epochs.look(objects, world.identity.trust)).epoch == 2
