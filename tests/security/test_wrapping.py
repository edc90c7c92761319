"""What seals keys seals nothing that others choose (A06): a wrapping key is no oracle for bytes of a file or a host.

Every sealing of a vault's life is recorded, with its key and its plain bytes, while who writes files and who runs a
host put marks of theirs into all that they can choose.
"""

import os
import sys
from dataclasses import dataclass, replace

import pytest

from megafs.crypto import seal as sealing
from megafs.crypto import slot as slots
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.seal import expand
from megafs.crypto.slot import SlotKey, new_file
from megafs.crypto.ticket import TicketCode
from megafs.errors import MegaFSError
from megafs.model import Kind
from megafs.sync import boot, tickets
from megafs.sync.survey import survey
from tests.security.rig import Rig
from tests.support.slots import LEAST

WRAPPING = {Kind.SLOT, Kind.BOOT, Kind.TICKET}
AUTHOR, HOST = (os.urandom(16).hex().encode() for _ in range(2))  # spelled so that a name or a label keeps them
WINDOW_BYTES = 12


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """One call of ``seal``."""

    key: bytes
    context: bytes
    plain: bytes

    @property
    def kind(self) -> Kind:
        start = len(sealing.FORMAT) + 1
        return Kind(self.context[start : start + self.context[start - 1]].decode())


@pytest.fixture
def recorded(monkeypatch):
    """All sealings from now on, and what ``crypto.slot`` drew at random."""
    found, drawn, real = [], [], sealing.seal

    def seal(key, context, plain):
        found.append(Sealing(key=bytes(key), context=bytes(context), plain=bytes(plain)))
        return real(key, context, plain)

    def urandom(size):
        drawn.append(os.urandom(size))
        return drawn[-1]

    for name, module in list(sys.modules.items()):  # wherever it was imported, so that no caller is missed
        if name.startswith("megafs.") and vars(module).get("seal") is real:
            monkeypatch.setattr(module, "seal", seal)
    monkeypatch.setattr(slots, "urandom", urandom)
    return found, drawn


def has_part_of(mark, plain):
    windows = [mark[at : at + WINDOW_BYTES] for at in range(len(mark) - WINDOW_BYTES + 1)]
    return any(window in plain or window.hex().encode() in plain for window in windows)


def complaints(found, drawn):
    """What a wrapping key sealed that it must not, and whether it is a key of anything else."""
    wrapped = [each for each in found if each.kind in WRAPPING]
    said = [
        f"a mark under the key of a {each.kind}"
        for each in wrapped
        if has_part_of(AUTHOR, each.plain) or has_part_of(HOST, each.plain)
    ]
    keys = [each.plain for each in wrapped if each.kind is Kind.SLOT and b"\0\0\0\3key" in each.context]
    if not {*keys} <= {*drawn}:
        said.append("a slot wraps what was not drawn here")
    if {each.key for each in wrapped} & {each.key for each in found if each.kind not in WRAPPING}:
        said.append("a wrapping key seals other things")
    return said


async def whole_life(base):
    """A slot file, boot objects, a ticket, files, commits, heads; then again, after lies of a host were read."""
    rig = Rig(base, 2)
    honest = rig.specs[1]
    await rig.put_boots()
    async with rig.running() as drive:
        await drive.write(AUTHOR, AUTHOR * 1000)
        await drive.sync()
    rig.evil.deed = lambda name, data: HOST * 20 if data is None else data[:56] + HOST * 20
    assert await boot.find(rig.evil, rig.recovery) is None
    assert await tickets.find(rig.evil, TicketCode.generate()) is None
    with pytest.raises(MegaFSError):
        await survey(rig.objects(rig.specs[0].id), rig.device.trust)
    found = await boot.find(rig.puppets[honest.id], rig.recovery)
    await survey(rig.objects(), rig.device.trust)
    specs = [replace(spec, label=host.label, url=host.url) for spec, host in zip(rig.specs, found.hosts, strict=True)]
    await again(rig, specs)
    return rig, specs


async def again(rig, specs):
    """What wraps keys, made anew for the honest host."""
    keyring, honest = rig.keyring.rotated(), rig.specs[1]
    put = {"keyring": keyring, "epochs": rig.device.epochs}
    await boot.put(rig.puppets[honest.id], honest, specs, generation=2, recovery=rig.recovery, root=rig.root, **put)
    await tickets.put(
        rig.puppets[honest.id],
        honest,
        specs,
        code=TicketCode.generate(),
        root_public=rig.root.public,
        expires_s=0,
        **put,
    )
    secrets = {"passphrase": "correct horse", "file": SlotKey.generate(), "recovery": rig.recovery}
    new_file(rig.device.body(), secrets, cost=LEAST)


async def test_wrapping_keys_seal_nothing_that_others_choose(tmp_path, recorded):
    """A06."""
    found, drawn = recorded
    await whole_life(tmp_path)
    assert {each.kind for each in found} >= WRAPPING | {Kind.CHUNK, Kind.COMMIT, Kind.HEAD}
    assert any(AUTHOR in each.plain for each in found)  # the marks do reach what is recorded
    assert complaints(found, drawn) == []


async def label_of_a_listing(rig, specs):
    """A host's own word for a name goes into the boot objects."""
    said = HOST.decode()
    await again(rig, [replace(spec, label=said) for spec in specs])


async def name_of_a_file(rig, specs):
    rig.recovery.seal_boot(b"last file: " + AUTHOR)


async def key_from_outside(rig, specs):
    slots.new_slot(RecoveryKey.generate(), HOST[:32], "recovery")


async def one_key_for_all(rig, specs):
    sealing_of = sys.modules["megafs.crypto.keys"].seal
    sealing_of(expand(rig.recovery.secret, b"MegaFS/1 boot"), rig.keyring._chunk_context(1, b"i" * 16, 1, 0), b"x")


@pytest.mark.parametrize("flaw", [label_of_a_listing, name_of_a_file, key_from_outside, one_key_for_all])
async def test_control_a_program_that_does_is_seen(tmp_path, recorded, flaw):
    """The negative controls (A06)."""
    found, drawn = recorded
    rig, specs = await whole_life(tmp_path)
    await flaw(rig, specs)
    assert complaints(found, drawn) != []
