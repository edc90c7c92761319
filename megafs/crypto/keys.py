"""The keyring: the vault's secrets by epoch, and every key and object name that is derived from them.

| from the epoch's 32-byte secret, by HKDF-Expand | for |
|---|---|
| ``meta`` | the key of everything sealed but chunks; kind and place are in the context |
| ``chunk``, then the chunk id | the key of one chunk: nothing to store, and a share can hand out single ones |
| ``name``, then the host id | the names of objects on one host; always of epoch 1 |
| ``local-index``, then the device id | the SQLite index of one device |
| ``epoch-signing`` | the Ed25519 seed that signs the device certificates of the epoch |

Names use epoch 1 because a name must be known before the epoch of its object is, and a rotation must not move objects.
So epoch 1 is never dropped from a keyring. Names are pseudonyms, not protection: what an object holds is sealed.
"""

import struct
from base64 import b32encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest as hmac_digest
from os import urandom
from types import MappingProxyType
from typing import Annotated, Self

from megafs.canonical import Between, Size
from megafs.crypto.seal import Random, context, digest, expand, open_sealed, same, seal
from megafs.errors import Corrupt, Unauthentic
from megafs.model import Bytes, ChunkId, ChunkPlace, DeviceId, HostId, Kind, PackId, VaultId
from megafs.wiping import KEY_BYTES, own, wipe

FIRST_EPOCH = 1
CHUNK_FIELDS = struct.Struct(">IB")  # plain bytes, codec
PACK_IDENT = struct.Struct(">16sh")  # pack, shard (-1: the whole pack)
STEP_IDENT = struct.Struct(">QQ")  # device number, seq
EPOCH_IDENT = struct.Struct(">Q")
CLAIM_IDENT = struct.Struct(">QI")  # term, slot


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSecret:
    """One vault secret as it lies in slot and boot bodies."""

    epoch: Annotated[int, Between(FIRST_EPOCH, 1 << 32)]
    secret: Annotated[bytes, Size(KEY_BYTES)] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringFields:
    """A keyring as a part of a statement (``megafs.canonical``)."""

    vault: Annotated[bytes, Size(32)]
    secrets: tuple[EpochSecret, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochKeys:
    """What is derived once for an epoch, so that a chunk costs one derivation."""

    meta: bytes = field(repr=False)
    chunk: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> Self:
        return cls(meta=_subkey(secret, "meta"), chunk=_subkey(secret, "chunk"))


class Keyring:
    """Seals and opens for one vault. Immutable, so threads may share it."""

    __slots__ = ("_keys", "_name_keys", "_names", "epoch", "secrets", "vault")

    def __init__(self, *, vault: VaultId, secrets: Mapping[int, bytes]) -> None:
        if FIRST_EPOCH not in secrets or any(len(secret) != KEY_BYTES for secret in secrets.values()):
            raise Corrupt("keyring: the first epoch is missing, or a secret has the wrong length")
        self.vault = vault
        self.secrets = MappingProxyType(dict(secrets))
        self.epoch = max(secrets)  # the newest: what is sealed now is sealed in it
        self._keys = {epoch: EpochKeys.of(secret) for epoch, secret in secrets.items()}
        self._names = _subkey(secrets[FIRST_EPOCH], "name")
        self._name_keys: dict[HostId, bytes] = {}

    @classmethod
    def create(cls, root_public: bytes, random: Random = urandom) -> Self:
        """The keyring of a new vault, whose identity is the hash of its root public key."""
        return cls(vault=VaultId(sha256(root_public).digest()), secrets={FIRST_EPOCH: random(KEY_BYTES)})

    @classmethod
    def from_fields(cls, fields: KeyringFields) -> Self:
        """Back from ``to_fields``; Corrupt if no writer of ours can have written it."""
        epochs = [entry.epoch for entry in fields.secrets]
        if epochs != sorted(set(epochs)):
            raise Corrupt("keyring: epochs out of order")
        return cls(vault=VaultId(fields.vault), secrets={entry.epoch: entry.secret for entry in fields.secrets})

    def to_fields(self) -> KeyringFields:
        """For the slot and boot bodies; holds the secrets."""
        entries = (EpochSecret(epoch=epoch, secret=self.secrets[epoch]) for epoch in sorted(self.secrets))
        return KeyringFields(vault=self.vault, secrets=tuple(entries))

    def keys(self) -> list[bytes]:
        """Copies of every key here that opens something, for who looks for what is left of them."""
        derived = (key for keys in self._keys.values() for key in (keys.meta, keys.chunk))
        return [own(key) for key in (*self.secrets.values(), *derived)]

    def forget(self) -> None:
        """Let go of every secret, whoever still refers to this keyring; it opens nothing any more."""
        for keys in self._keys.values():
            wipe(keys.meta, keys.chunk)
        wipe(*self.secrets.values(), self._names, *self._name_keys.values())
        self._keys, self._names, self._name_keys = {}, b"", {}
        self.secrets = MappingProxyType({})

    def rotated(self, random: Random = urandom) -> "Keyring":
        """This keyring with a new epoch."""
        return Keyring(vault=self.vault, secrets={**self.secrets, self.epoch + 1: random(KEY_BYTES)})

    def __repr__(self) -> str:
        return f"Keyring(vault={self.vault.hex()[:8]}, epochs={sorted(self.secrets)})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a keyring is not pickled")

    def seal_chunk(self, chunk: ChunkId, codec: int, plain_bytes: int, data: Bytes) -> bytes:
        """Seal ``data`` (``plain_bytes`` long once the codec is undone) in the newest epoch."""
        key = expand(self._keys[self.epoch].chunk, chunk)
        return seal(key, self._chunk_context(self.epoch, chunk, plain_bytes, codec), data)

    def open_chunk(self, epoch: int, place: ChunkPlace, sealed: Bytes) -> bytes:
        """``data`` as given to seal_chunk; Unauthentic unless ``sealed`` is exactly what the index pinned."""
        keys = self._keys.get(epoch)
        # The digest first: who was given this chunk's key in a share can seal other bytes under it.
        if keys is None or len(sealed) != place.sealed_bytes or not same(digest(sealed), place.digest):
            raise Unauthentic("a chunk is not what the index says")
        where = self._chunk_context(epoch, place.chunk, place.plain_bytes, place.codec)
        return open_sealed(expand(keys.chunk, place.chunk), where, sealed)

    def chunk_key(self, epoch: int, place: ChunkPlace) -> tuple[bytes, bytes]:
        """Key and context of one chunk, for a share or a range reader."""
        keys = self._keys.get(epoch)
        if keys is None:
            raise Unauthentic("a chunk is of an epoch that this device has no secret of")
        where = self._chunk_context(epoch, place.chunk, place.plain_bytes, place.codec)
        return expand(keys.chunk, place.chunk), where

    def _chunk_context(self, epoch: int, chunk: ChunkId, plain_bytes: int, codec: int) -> bytes:
        return context(Kind.CHUNK, epoch, self.vault, chunk, CHUNK_FIELDS.pack(plain_bytes, codec))

    def seal(self, kind: Kind, fields: Sequence[bytes], body: Bytes, epoch: int | None = None) -> bytes:
        """Seal anything but a chunk, in the newest epoch (or in ``epoch``, for devices that have no newer one);
        ``fields`` say which one of its kind it is."""
        assert kind is not Kind.CHUNK, "chunks have keys of their own"
        epoch = self.epoch if epoch is None else epoch
        return seal(self._keys[epoch].meta, context(kind, epoch, self.vault, *fields), body)

    def open(self, kind: Kind, fields: Sequence[bytes], sealed: Bytes, epoch: int | None = None) -> bytes:
        """Open what ``seal`` made. Without ``epoch`` every epoch is tried, the newest first."""
        for candidate in sorted(self._keys, reverse=True) if epoch is None else [epoch]:
            keys = self._keys.get(candidate)
            try:
                if keys is not None:
                    return open_sealed(keys.meta, context(kind, candidate, self.vault, *fields), sealed)
            except Unauthentic:
                continue
        raise Unauthentic("sealed bytes do not open here")

    def object_name(self, host: HostId, kind: Kind, ident: bytes) -> str:
        """What the object is called on this host: 32 characters that say nothing and differ from host to host."""
        key = self._name_keys.get(host)
        if key is None:
            key = self._name_keys[host] = expand(self._names, host)
        return object_name(key, kind, ident)

    def index_key(self, device: DeviceId, epoch: int | None = None) -> bytes:
        """The key of a device's index: of the newest epoch, or of ``epoch`` to open one not yet re-keyed."""
        return expand(_subkey(self.secrets[self.epoch if epoch is None else epoch], "local-index"), device)

    def signing_seed(self, epoch: int) -> bytes:
        """The Ed25519 seed that signs device certificates in ``epoch`` (``crypto.identity``)."""
        return _subkey(self.secrets[epoch], "epoch-signing")


def object_name(name_key: bytes, kind: Kind, ident: bytes) -> str:
    """Base32 of the first 20 bytes of HMAC-SHA-256 over the kind (length first) and the ident."""
    name = kind.encode()
    mac = hmac_digest(name_key, bytes((len(name),)) + name + ident, "sha256")
    return b32encode(mac[:20]).decode().lower()


def ident_pack(pack: PackId, shard: int = -1) -> bytes:
    """A whole pack, or one shard of it."""
    return PACK_IDENT.pack(pack, shard)


def ident_commit(device: int, seq: int) -> bytes:
    """The commit ``seq`` of the device with this number."""
    return STEP_IDENT.pack(device, seq)


def ident_head(device: int, seq: int) -> bytes:
    """The head that was shipped with commit ``seq``."""
    return STEP_IDENT.pack(device, seq)


def ident_checkpoint(device: int, seq: int) -> bytes:
    """The checkpoint that this device made as of its commit ``seq``."""
    return STEP_IDENT.pack(device, seq)


def ident_part(part: bytes) -> bytes:
    """A part of checkpoints, by its random 16 bytes."""
    assert len(part) == 16
    return part


def ident_claim(term: int, slot: int) -> bytes:
    """The claim number ``slot`` on ``term``: two devices may claim the same one at once."""
    return CLAIM_IDENT.pack(term, slot)


def ident_epoch(epoch: int) -> bytes:
    """The announcement of an epoch, for devices of the one before."""
    return EPOCH_IDENT.pack(epoch)


def _subkey(secret: bytes, purpose: str) -> bytes:
    return expand(secret, b"MegaFS/1 " + purpose.encode())
