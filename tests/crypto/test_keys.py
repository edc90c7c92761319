"""The keyring: what is sealed opens in its own place only, names tell nothing, secrets are not shown."""

import copy
import logging
import pickle
from base64 import b64encode
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.canonical import encode, parse
from megafs.crypto.keys import (
    Keyring,
    KeyringFields,
    ident_checkpoint,
    ident_claim,
    ident_commit,
    ident_head,
    ident_pack,
    ident_part,
)
from megafs.crypto.partial import cover, open_range
from megafs.crypto.seal import context, digest, open_sealed, seal
from megafs.errors import Corrupt, Unauthentic
from megafs.model import ChunkId, ChunkPlace, DeviceId, HostId, Kind, PackId, PackNumber, VaultId

VAULT = VaultId(b"v" * 32)
ONE, TWO = b"\1" * 32, b"\2" * 32
KEYS = Keyring(vault=VAULT, secrets={1: ONE, 2: TWO})
CHUNK = ChunkId(b"c" * 16)
HOST = HostId(b"h" * 16)
KINDS = [kind for kind in Kind if kind is not Kind.CHUNK]


def place_of(sealed, **other):
    values = {
        "chunk": CHUNK,
        "pack": PackNumber(1),
        "offset": 0,
        "sealed_bytes": len(sealed),
        "plain_bytes": 5,
        "codec": 0,
        "digest": digest(sealed),
    }
    return ChunkPlace(**values | other)


@given(st.binary(max_size=100), st.integers(0, 1), st.integers(0, 2**18))
def test_chunk_round_trip(data, codec, plain_bytes):
    sealed = KEYS.seal_chunk(CHUNK, codec, plain_bytes, data)
    assert KEYS.open_chunk(2, place_of(sealed, codec=codec, plain_bytes=plain_bytes), sealed) == data


def test_chunk_in_the_wrong_place():
    sealed = KEYS.seal_chunk(CHUNK, 0, 5, b"hello")
    assert KEYS.open_chunk(2, place_of(sealed), memoryview(sealed)) == b"hello"
    for epoch, wrong in [
        (2, {"chunk": ChunkId(b"d" * 16)}),
        (2, {"codec": 1}),
        (2, {"plain_bytes": 6}),
        (2, {"digest": bytes(32)}),
        (2, {"sealed_bytes": 78}),
        (1, {}),
        (3, {}),
        (0, {}),
    ]:
        with pytest.raises(Unauthentic):
            KEYS.open_chunk(epoch, place_of(sealed, **wrong), sealed)
    other_vault = Keyring(vault=VaultId(b"w" * 32), secrets=KEYS.secrets)
    with pytest.raises(Unauthentic):
        other_vault.open_chunk(2, place_of(sealed), sealed)


def test_a_holder_of_the_chunk_key_cannot_forge_the_chunk():
    """A03: shares hand out chunk keys; the digest in the index decides, not the key."""
    sealed = KEYS.seal_chunk(CHUNK, 0, 5, b"hello")
    key, where = KEYS.chunk_key(2, place_of(sealed))
    forged = seal(key, where, b"HELLO")
    assert open_sealed(key, where, forged) == b"HELLO", "the control: without the digest it would open"
    with pytest.raises(Unauthentic):
        KEYS.open_chunk(2, place_of(sealed), forged)


def test_older_versions_of_a_chunk_do_not_open():
    """A19: each version ever sealed under one id, but the pinned one, is refused."""
    versions = [KEYS.seal_chunk(CHUNK, 0, 5, b"hello") for _ in range(20)]
    place = place_of(versions[-1])
    for old in versions[:-1]:
        with pytest.raises(Unauthentic):
            KEYS.open_chunk(2, place, old)
    assert KEYS.open_chunk(2, place, versions[-1]) == b"hello"


def test_part_of_a_chunk():
    data = bytes(range(256)) * 200
    sealed = KEYS.seal_chunk(CHUNK, 0, len(data), data)
    key, where = KEYS.chunk_key(2, place_of(sealed, plain_bytes=len(data)))
    low, high = cover(len(data), 20_000, 20_010)
    part = open_range(
        key, where, total_bytes=len(data), start=20_000, stop=20_010, header=sealed[:56], part=sealed[low:high]
    )
    assert part == data[20_000:20_010]
    with pytest.raises(Unauthentic):
        KEYS.chunk_key(3, place_of(sealed))


def confusions(seal_as, open_as):
    """Every pair of kinds (and fields) where one thing opens as another."""
    names = list(product(KINDS, ([], [b"1"], [b"1", b"2"], [b"12"])))
    sealed = [seal_as(kind, fields) for kind, fields in names]
    found = []
    for (source, data), target in product(zip(names, sealed, strict=True), names):
        try:
            open_as(target[0], target[1], data)
        except Unauthentic:
            continue
        if source != target:
            found.append((source, target))
    return found


def test_no_kind_opens_as_another():
    """A02: every kind and fields against every other."""
    assert confusions(lambda kind, fields: KEYS.seal(kind, fields, b"body"), KEYS.open) == []
    kindless = lambda fields: context(Kind.HEAD, 1, VAULT, *fields)
    found = confusions(
        lambda _, fields: seal(ONE, kindless(fields), b"body"),
        lambda _, fields, data: open_sealed(ONE, kindless(fields), data),
    )
    assert len(found) == 4 * len(KINDS) * (len(KINDS) - 1), "the control: a context without kind"
    lengthless = lambda kind, fields: context(kind, 1, VAULT, b"".join(fields))
    found = confusions(
        lambda kind, fields: seal(ONE, lengthless(kind, fields), b"body"),
        lambda kind, fields, data: open_sealed(ONE, lengthless(kind, fields), data),
    )
    assert len(found) == 2 * len(KINDS), "the control: fields without lengths"


def test_chunks_and_the_rest_have_different_keys():
    sealed = KEYS.seal_chunk(CHUNK, 0, 5, b"hello")
    for kind in KINDS:
        with pytest.raises(Unauthentic):
            KEYS.open(kind, [CHUNK, b"\0\0\0\5\0"], sealed)
    with pytest.raises(AssertionError):
        KEYS.seal(Kind.CHUNK, [], b"")
    with pytest.raises(Unauthentic):
        KEYS.open_chunk(2, place_of(forged := KEYS.seal(Kind.COMMIT, [CHUNK], b"hello")), forged)


def test_epochs():
    """A18: an object opens in the epoch it was sealed in, also after a rotation, and in no other."""
    first = Keyring(vault=VAULT, secrets={1: ONE})
    old = first.seal(Kind.COMMIT, [b"7"], b"old")
    rotated = first.rotated()
    assert rotated.epoch == 2
    assert rotated.secrets[1] == ONE
    assert rotated.open(Kind.COMMIT, [b"7"], old) == b"old"
    assert rotated.open(Kind.COMMIT, [b"7"], old, epoch=1) == b"old"
    new = rotated.seal(Kind.COMMIT, [b"7"], b"new")
    assert rotated.open(Kind.COMMIT, [b"7"], new) == b"new"
    for keys, sealed, epoch in [(rotated, old, 2), (rotated, old, 3), (rotated, new, 1), (first, new, None)]:
        with pytest.raises(Unauthentic):
            keys.open(Kind.COMMIT, [b"7"], sealed, epoch=epoch)


def test_one_secret_in_two_epochs_is_two_keys():
    twice = Keyring(vault=VAULT, secrets={1: ONE, 2: ONE})
    with pytest.raises(Unauthentic):
        twice.open(Kind.HEAD, [], Keyring(vault=VAULT, secrets={1: ONE}).seal(Kind.HEAD, [], b""), epoch=2)


def test_names():
    idents = [ident_pack(PackId(b"p" * 16)), ident_pack(PackId(b"p" * 16), 0), ident_pack(PackId(b"p" * 16), 1)]
    idents += [ident_commit(1, 2), ident_commit(2, 1), ident_part(b"q" * 16), ident_claim(1, 2), ident_claim(2, 1)]
    idents += [ident_head(3, 2**40), ident_checkpoint(4, 2)]
    assert len(set(idents)) == len(idents)
    hosts = [HostId(bytes([n]) * 16) for n in range(3)]
    names = {KEYS.object_name(host, kind, ident) for host, kind, ident in product(hosts, Kind, idents)}
    assert len(names) == len(hosts) * len(Kind) * len(idents), "all different, also between hosts (A47)"
    assert all(len(name) == 32 and set(name) <= set("abcdefghijklmnopqrstuvwxyz234567") for name in names)


def test_names_and_rotation():
    rotated = KEYS.rotated()
    assert rotated.object_name(HOST, Kind.PACK, b"x") == KEYS.object_name(HOST, Kind.PACK, b"x")
    elsewhere = Keyring(vault=VAULT, secrets={1: TWO})
    assert elsewhere.object_name(HOST, Kind.PACK, b"x") != KEYS.object_name(HOST, Kind.PACK, b"x")


def test_index_and_signing_keys():
    device, other = DeviceId(b"d" * 16), DeviceId(b"e" * 16)
    keys = {KEYS.index_key(device), KEYS.index_key(other), KEYS.index_key(device, 1), KEYS.index_key(other, 1)}
    keys |= {KEYS.signing_seed(1), KEYS.signing_seed(2), ONE, TWO}
    assert len(keys) == 8
    assert KEYS.index_key(device, 2) == KEYS.index_key(device)


def test_create_and_fields():
    keys = Keyring.create(b"r" * 32)
    assert keys.epoch == 1
    again = Keyring.from_fields(parse(KeyringFields, encode(keys.rotated().to_fields())))
    assert again.vault == keys.vault
    assert again.epoch == 2
    assert again.secrets[1] == keys.secrets[1]
    assert Keyring.create(b"r" * 32).secrets[1] != keys.secrets[1]


@pytest.mark.parametrize("secrets", [{}, {2: ONE}, {1: ONE[:31]}, {1: b""}])
def test_keyrings_that_cannot_be(secrets):
    with pytest.raises(Corrupt):
        Keyring(vault=VAULT, secrets=secrets)


@pytest.mark.parametrize("epochs", [[], [2], [1, 1], [2, 1], [0, 1]])
def test_fields_that_cannot_be(epochs):
    entries = ",".join('{"epoch":%d,"secret":"%s"}' % (epoch, ONE.hex()) for epoch in epochs)  # noqa: UP031 braces
    statement = '{"secrets":[%s],"vault":"%s"}' % (entries, VAULT.hex())  # noqa: UP031 braces
    with pytest.raises(Corrupt):
        Keyring.from_fields(parse(KeyringFields, statement.encode()))


def shown(thing):
    """All the ways in which a value finds its way into a log."""
    logger = logging.getLogger("shown")
    record = logger.makeRecord("shown", logging.ERROR, "", 0, "%s %r", (thing, thing), None)
    return f"{thing} {thing!r} {[thing]} { {1: thing} } {record.getMessage()}"


def spellings(secret):
    """How a secret may look in text."""
    return [secret.hex(), repr(secret)[2:-1], b64encode(secret).decode(), str(list(secret))]


def test_secrets_are_not_shown():
    secret = bytes(range(100, 132))
    keys = Keyring(vault=VAULT, secrets={1: secret})
    for thing in (keys, keys.to_fields(), keys.to_fields().secrets[0], keys._keys[1]):
        said = shown(thing)
        for hidden in (secret, keys._keys[1].meta, keys._keys[1].chunk):
            assert not any(spelling in said for spelling in spellings(hidden))
    assert any(spelling in shown(secret) for spelling in spellings(secret)), "the control: the search finds secrets"
    assert not hasattr(keys, "__dict__")
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(keys)


def test_errors_do_not_show_secrets_or_bytes():
    with pytest.raises(Unauthentic) as caught:
        KEYS.open(Kind.HEAD, [b"secret field"], b"secret bytes" * 20)
    assert "secret" not in str(caught.value)


def test_a_keyring_does_not_change():
    with pytest.raises(TypeError):
        KEYS.secrets[3] = ONE
