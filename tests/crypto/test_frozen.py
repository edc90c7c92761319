"""Format 1 as it was frozen in tests/vectors/crypto.json. That file is never regenerated: a change of it is format 2.

Names, contexts and subkeys are computed here once more from the written format, with the standard library alone.
"""

import json
from base64 import b32encode
from hashlib import sha256
from hmac import digest as hmac_digest
from pathlib import Path

import pytest

from megafs.canonical import encode, parse
from megafs.crypto import identity
from megafs.crypto.keys import Keyring, KeyringFields
from megafs.crypto.merkle import root
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.seal import context
from megafs.crypto.slot import open_slots
from megafs.model import ChunkId, ChunkPlace, DeviceId, HostId, Kind, PackNumber

FROZEN = json.loads((Path(__file__).parent.parent / "vectors" / "crypto.json").read_text())
KEYS = Keyring.from_fields(parse(KeyringFields, FROZEN["keyring"]["statement"].encode()))
SUBKEYS = FROZEN["keyring"]["subkeys"]
ROOT = identity.RootKey(bytes.fromhex(FROZEN["keyring"]["root_seed"]))


def expanded(secret, info):
    return hmac_digest(secret, info + b"\1", "sha512")[:32]


def test_keyring():
    assert encode(KEYS.to_fields()).decode() == FROZEN["keyring"]["statement"]
    assert KEYS.vault == ROOT.vault == sha256(ROOT.public).digest()
    assert KEYS.vault.hex() == FROZEN["keyring"]["vault"]
    assert ROOT.public.hex() == FROZEN["keyring"]["root_public"]


def test_subkeys():
    device = DeviceId(bytes.fromhex(SUBKEYS["device"]))
    by_hand = {epoch: expanded(expanded(KEYS.secrets[epoch], b"MegaFS/1 local-index"), device) for epoch in (1, 2)}
    assert KEYS.index_key(device).hex() == SUBKEYS["index"] == by_hand[2].hex()
    assert KEYS.index_key(device, 1).hex() == SUBKEYS["index_epoch_1"] == by_hand[1].hex()
    seed = expanded(KEYS.secrets[2], b"MegaFS/1 epoch-signing")
    assert KEYS.signing_seed(2).hex() == SUBKEYS["signing_seed"] == seed.hex()


@pytest.mark.parametrize("vector", FROZEN["contexts"])
def test_contexts(vector):
    kind, epoch, fields = vector["kind"], vector["epoch"], [bytes.fromhex(field) for field in vector["fields"]]
    by_hand = b"MegaFS/1" + bytes([len(kind)]) + kind.encode() + epoch.to_bytes(8, "big") + KEYS.vault
    by_hand += b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    assert context(Kind(kind), epoch, KEYS.vault, *fields).hex() == vector["context"] == by_hand.hex()


@pytest.mark.parametrize("vector", FROZEN["names"].values(), ids=FROZEN["names"].keys())
def test_names(vector):
    host, kind, ident = HostId(bytes.fromhex(SUBKEYS["host"])), vector["kind"], bytes.fromhex(vector["ident"])
    assert KEYS.object_name(host, Kind(kind), ident) == vector["name"]
    name_key = expanded(expanded(KEYS.secrets[1], b"MegaFS/1 name"), host)
    mac = hmac_digest(name_key, bytes([len(kind)]) + kind.encode() + ident, "sha256")
    assert b32encode(mac[:20]).decode().lower() == vector["name"]


@pytest.mark.parametrize("kind", FROZEN["sealed"])
def test_sealed_objects_of_every_kind(kind):
    vector = FROZEN["sealed"][kind]
    fields, sealed = [bytes.fromhex(field) for field in vector["fields"]], bytes.fromhex(vector["sealed"])
    assert KEYS.open(Kind(kind), fields, sealed).hex() == vector["body"]


def test_every_kind_has_a_frozen_object():
    elsewhere = {"epoch", "ticket", "secrets"}  # in tests/vectors/devices.json and statements.json
    assert {*FROZEN["sealed"], "chunk", "boot", "slot"} | elsewhere == set(Kind)


def test_chunk():
    vector = FROZEN["chunk"]
    sealed = bytes.fromhex(vector["sealed"])
    place = ChunkPlace(
        chunk=ChunkId(bytes.fromhex(vector["chunk"])),
        pack=PackNumber(1),
        offset=0,
        sealed_bytes=len(sealed),
        plain_bytes=vector["plain_bytes"],
        codec=vector["codec"],
        digest=bytes.fromhex(vector["digest"]),
    )
    assert KEYS.open_chunk(vector["epoch"], place, sealed).hex() == vector["data"]


def test_recovery():
    vector = FROZEN["recovery"]
    key = RecoveryKey.from_text(vector["words"])
    assert key.secret.hex() == vector["secret"]
    assert " ".join(key.words()) == vector["words"]
    assert key.boot_names() == vector["boot_names"]
    assert key.open_boot(bytes.fromhex(vector["boot"])).hex() == vector["boot_body"]


def test_words_of_another_bip39_implementation():
    assert len(FROZEN["bip39"]) == 16
    for secret, words in FROZEN["bip39"].items():
        assert " ".join(RecoveryKey(bytes.fromhex(secret)).words()) == words
        assert RecoveryKey.from_text(words).secret.hex() == secret


def test_words_of_the_bip39_reference():
    half = "legal winner thank year wave sausage worth useful "
    assert RecoveryKey.from_text("abandon " * 23 + "art").secret == bytes(32)
    assert RecoveryKey.from_text(half * 2 + half.replace("useful", "title")).secret == b"\x7f" * 32
    assert RecoveryKey.from_text("zoo " * 23 + "vote").secret == b"\xff" * 32


def test_slot():
    vector = FROZEN["slot"]
    assert open_slots(vector["passphrase"], bytes.fromhex(vector["slot"])).body.hex() == vector["body"]


def test_certificates_and_signatures():
    vector = FROZEN["identity"]
    epoch = parse(identity.EpochCertificate, vector["epoch_certificate"].encode())
    device = parse(identity.DeviceCertificate, vector["device_certificate"].encode())
    claims = identity.verify_device(identity.verify_epoch(ROOT.public, KEYS.vault, epoch), device)
    key = identity.DeviceKey(bytes.fromhex(vector["device_seed"]))
    assert claims.public_key == key.public
    body = bytes.fromhex(vector["commit_body"])
    assert key.sign(identity.Purpose.COMMIT, KEYS.vault, body).hex() == vector["commit_signature"]
    assert identity.issue_epoch(ROOT, KEYS, epoch.claims.revoked) == epoch, "Ed25519 signatures are deterministic"


@pytest.mark.parametrize("size", FROZEN["merkle"])
def test_merkle_roots(size):
    pattern = bytes(i * i >> 3 & 255 for i in range(256)) * (int(size) // 256 + 1)
    assert root(pattern[: int(size)]).hex() == FROZEN["merkle"][size]
