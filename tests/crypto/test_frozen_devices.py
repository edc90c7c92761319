"""Tickets and announcements of epochs as they were frozen in tests/vectors/devices.json, which is never regenerated.

Keys, names and contexts are computed here once more from the written format, with the standard library alone.
"""

import json
from base64 import b32encode
from hmac import digest as hmac_digest
from pathlib import Path

import pytest

from megafs.canonical import encode, parse
from megafs.crypto import identity
from megafs.crypto.keys import ident_epoch
from megafs.crypto.seal import context, open_sealed
from megafs.crypto.ticket import TicketCode
from megafs.errors import Unauthentic, WrongKey
from megafs.model import HostId, Kind
from megafs.sync import epochs, tickets
from megafs.sync.statements import Trust
from tests.crypto.test_frozen import KEYS, ROOT, SUBKEYS, expanded

FROZEN = json.loads((Path(__file__).parent.parent / "vectors" / "devices.json").read_text())
TICKET, EPOCH = FROZEN["ticket"], FROZEN["epoch"]
CODE = TicketCode(bytes.fromhex(TICKET["code"]))


def test_a_ticket():
    assert TicketCode.from_text(TICKET["words"]).secret == CODE.secret
    assert " ".join(CODE.words()) == TICKET["words"]
    mac = hmac_digest(expanded(CODE.secret, b"MegaFS/1 ticket-name"), b"\6ticket", "sha256")
    assert CODE.name() == TICKET["name"] == b32encode(mac[:20]).decode().lower()
    sealed = bytes.fromhex(TICKET["sealed"])
    where = b"MegaFS/1\6ticket" + bytes(8) + bytes(32)
    assert open_sealed(expanded(CODE.secret, b"MegaFS/1 ticket"), where, sealed).decode() == TICKET["body"]
    ticket = tickets.opened(CODE, sealed)
    assert encode(ticket).decode() == TICKET["body"]
    assert (ticket.root_public, ticket.keyring) == (ROOT.public, KEYS.to_fields())


@pytest.mark.parametrize("secret", FROZEN["bip39"])
def test_words_of_the_bip39_reference(secret):
    assert " ".join(TicketCode(bytes.fromhex(secret)).words()) == FROZEN["bip39"][secret]
    assert TicketCode.from_text(FROZEN["bip39"][secret]).secret.hex() == secret


@pytest.mark.parametrize("words", ["about " * 12, "zoo " * 12, "zoo " * 11 + "zebrafish", "zoo " * 11, "zoo " * 24])
def test_words_that_are_no_ticket(words):
    with pytest.raises(WrongKey) as caught:
        TicketCode.from_text(words)
    assert "zoo" not in str(caught.value)


def test_an_announcement():
    certificate = parse(identity.EpochCertificate, EPOCH["certificate"].encode())
    newest = certificate.claims
    assert identity.issue_epoch(ROOT, KEYS, newest.revoked, newest.devices) == certificate
    assert ident_epoch(2).hex() == EPOCH["ident"] == "0000000000000002"
    name = KEYS.object_name(HostId(bytes.fromhex(SUBKEYS["host"])), Kind.EPOCH, ident_epoch(2))
    assert name == EPOCH["name"]
    first = identity.issue_epoch(ROOT, type(KEYS)(vault=KEYS.vault, secrets={1: KEYS.secrets[1]}))
    trust = Trust.of(KEYS.vault, ROOT.public, [first])
    sealed = bytes.fromhex(EPOCH["sealed"])
    assert epochs.understood(KEYS, trust, 2, sealed) == newest
    meta = expanded(KEYS.secrets[1], b"MegaFS/1 meta")
    where = context(Kind.EPOCH, 1, KEYS.vault, ident_epoch(2))
    assert open_sealed(meta, where, sealed).decode() == EPOCH["certificate"]
    with pytest.raises(Unauthentic):
        epochs.understood(KEYS, trust, 3, sealed)
