"""Bodies of commits, heads, claims, checkpoint lists, boot objects and slots as they were frozen in
tests/vectors/statements.json, which is never regenerated: what is in the field must open for ever.

Keys are those of tests/vectors/crypto.json. Each body is read, written again to the same bytes (Ed25519 signatures have
one spelling), and refused with any bit turned over.
"""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from megafs.canonical import encode, parse
from megafs.crypto.identity import DeviceKey, issue_device, issue_epoch
from megafs.crypto.opened import Opened
from megafs.crypto.phrase import Phrase
from megafs.daemon import secrets
from megafs.daemon.device import Device, DeviceBody
from megafs.errors import MegaFSError
from megafs.hosts.secretfile import table_text
from megafs.index import replication, schema
from megafs.sync.statements import (
    Boot,
    CheckpointList,
    Claim,
    Head,
    Signer,
    Trust,
    commit_body,
    framed,
    packed,
    padded,
    parse_commit,
    unframed,
)
from tests.crypto.test_frozen import KEYS, ROOT
from tests.security.parsers import sample_changeset

FROZEN = json.loads((Path(__file__).parent.parent / "vectors" / "statements.json").read_text())
KEY = DeviceKey(bytes.fromhex(FROZEN["device_seed"]))
CERTIFICATE = issue_device(KEYS, device=bytes(range(16)), number=3, public_key=KEY.public, first_seq=1)
SIGNER = Signer(vault=KEYS.vault, key=KEY, certificate=CERTIFICATE)
TRUST = Trust.of(KEYS.vault, ROOT.public, (issue_epoch(ROOT, KEYS),))
MADE = {"head": Head, "head with hosts": Head, "claim": Claim, "checkpoint": CheckpointList}


@pytest.mark.parametrize("name", MADE)
def test_statements(name):
    body = bytes.fromhex(FROZEN[name])
    said, rest = unframed(MADE[name], body, TRUST)
    assert (framed(SIGNER, said), bytes(rest)) == (body, b"")
    assert said.certificate == CERTIFICATE
    if MADE[name] is Head:
        assert [each.seq for each in said.hosts] == ([6, 2] if "hosts" in name else [])
        assert (said.step.seq, said.seen[0].seq, said.checkpoint.seq) == (7, 40, 30)


def test_a_commit():
    body = bytes.fromhex(FROZEN["commit"])
    header, changeset = parse_commit(body, TRUST)
    assert changeset == bytes.fromhex(FROZEN["changeset"])
    rest = padded(packed(changeset, coarse=True), 0, coarse=False)
    assert commit_body(SIGNER, header, rest) == body
    assert header.digest == sha256(rest).digest()
    assert (header.seq, header.previous.seq, header.packs[0].copies[1].shard) == (7, 40, 65)
    assert zstandard.ZstdDecompressor().decompress(rest) == changeset
    _, empty = sample_changeset()
    replication.apply(empty, changeset, header.changes)
    assert list(empty.execute("SELECT * FROM dirent")) == [(7, 1, b"ab", 9)]
    assert schema.VERSION == header.schema == 1


@pytest.mark.parametrize(("name", "make"), [("boot", Boot), ("device", DeviceBody)])
def test_bodies_without_a_frame(name, make):
    text = FROZEN[name].encode()
    assert encode(parse(make, text)) == text
    if make is DeviceBody:
        device = Device.of(Opened(body=text))
        assert (device.number, device.body()) == (3, text)


def test_secrets_of_hosts():
    sealed = bytes.fromhex(FROZEN["sealed secrets"])
    assert secrets.opened(KEYS, sealed) == {"s3://K@s3.example.org/b": {"secret_key": "hunter2"}}
    assert table_text(secrets.opened(KEYS, sealed)) == FROZEN["secrets"]


def test_a_phrase():
    phrase = Phrase.of(KEYS.vault, 3, 7, bytes(range(32)))
    assert phrase.text() == FROZEN["phrase"]
    assert Phrase.from_text("  " + FROZEN["phrase"].upper().replace(" ", ",\n")) == phrase
    others = [
        Phrase.of(KEYS.vault, 3, 8, bytes(range(32))),
        Phrase.of(KEYS.vault, 4, 7, bytes(range(32))),
        Phrase.of(type(KEYS.vault)(bytes(32)), 3, 7, bytes(range(32))),
        Phrase.of(KEYS.vault, 3, 7, bytes(32)),
    ]
    assert len({each.words for each in [phrase, *others]}) == 5


@pytest.mark.parametrize("name", [*MADE, "commit"])
def test_no_bit_of_a_body_is_free(name):
    body = bytes.fromhex(FROZEN[name])
    for at in range(0, len(body), 13):
        wrong = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        with pytest.raises(MegaFSError):
            parse_commit(wrong, TRUST) if name == "commit" else unframed(MADE[name], wrong, TRUST)
