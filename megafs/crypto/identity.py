"""Who may speak for a vault: the root key signs an epoch's key, that signs devices, a device signs its commits.

``vault_id`` is the hash of the root public key and pinned on every device. The private root key is sealed only in boot
objects, so a new epoch (and with it every revocation) needs the recovery words; the epoch's signing key comes from the
epoch's secret (``Keyring.signing_seed``), so any present device can enrol another. A revoked device knows the secrets
of all epochs up to its end, and could sign certificates in them for ever: so each later epoch lists every device of
former ones with its public key, and a certificate of a former epoch holds only for a device on the newest list.

Everything signed is ``"MegaFS/1 signature" | purpose, length first | vault id | body``: a signature for one purpose or
vault is none for another. Signatures are Ed25519.
"""

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from os import urandom
from typing import Annotated, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from megafs.canonical import LATER, Size, encode
from megafs.crypto.keys import Keyring
from megafs.crypto.seal import Random, same
from megafs.errors import Unauthentic
from megafs.model import Bytes, VaultId
from megafs.wiping import KEY_BYTES, wipe

PublicKey = Annotated[bytes, Size(32)]
Signature = Annotated[bytes, Size(64)]


class Purpose(StrEnum):
    """What a signature is for."""

    EPOCH = "epoch"
    DEVICE = "device"
    COMMIT = "commit"
    HEAD = "head"
    CLAIM = "claim"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """A device that lost its rights: no commit of it after ``last_seq`` counts, no claim on a term after
    ``last_term``, and no checkpoint."""

    device: Annotated[bytes, Size(16)]
    last_seq: int
    last_term: Annotated[int, LATER] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A device that was enrolled in a former epoch; its certificates there may name this number and key, no others."""

    device: Annotated[bytes, Size(16)]
    number: int
    public_key: PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochClaims:
    """What the root key says about an epoch: its signing key, every device revoked so far, and every device of former
    epochs, revoked or not."""

    vault: Annotated[bytes, Size(32)]
    epoch: int
    public_key: PublicKey
    revoked: tuple[Revoked, ...] = ()
    devices: Annotated[tuple[Pinned, ...], LATER] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCertificate:
    """Claims and the root key's signature of them."""

    claims: EpochClaims
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClaims:
    """What an epoch's key says about a device; its commits count from ``first_seq`` on."""

    vault: Annotated[bytes, Size(32)]
    epoch: int
    device: Annotated[bytes, Size(16)]
    number: int
    public_key: PublicKey
    first_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCertificate:
    """Claims and the epoch key's signature of them."""

    claims: DeviceClaims
    signature: Signature


class SigningKey:
    """A private Ed25519 key. ``seed`` is the secret, for a slot or boot body."""

    __slots__ = ("_private", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, random: Random = urandom) -> Self:
        """A new one."""
        return cls(random(KEY_BYTES))

    def sign(self, purpose: Purpose, vault: VaultId, body: Bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(_signed_bytes(purpose, vault, body))

    def forget(self) -> None:
        """Let go of the secret, whoever still refers to this key; it signs nothing any more."""
        wipe(self.seed)
        self.seed = b""
        del self._private

    def __repr__(self) -> str:
        return f"{type(self).__name__}(public={self.public.hex()[:8]})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a signing key is not pickled")


class RootKey(SigningKey):
    """The vault's identity."""

    @property
    def vault(self) -> VaultId:
        return vault_id(self.public)


class DeviceKey(SigningKey):
    """Signs what one device writes."""


def vault_id(root_public: bytes) -> VaultId:
    """What the vault is, for ever."""
    return VaultId(sha256(root_public).digest())


def verify(public: bytes, purpose: Purpose, vault: VaultId, body: Bytes, signature: bytes) -> None:
    """Unauthentic unless the holder of ``public`` signed ``body`` for this purpose and vault."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _signed_bytes(purpose, vault, body))
    except (InvalidSignature, ValueError):
        # ValueError: 32 bytes that are no public key.
        raise Unauthentic("a signature does not hold") from None


def issue_epoch(
    root: RootKey, keyring: Keyring, revoked: tuple[Revoked, ...] = (), devices: tuple[Pinned, ...] = ()
) -> EpochCertificate:
    """The certificate of the keyring's newest epoch."""
    public_key = SigningKey(keyring.signing_seed(keyring.epoch)).public
    claims = EpochClaims(
        vault=keyring.vault, epoch=keyring.epoch, public_key=public_key, revoked=revoked, devices=devices
    )
    return EpochCertificate(claims=claims, signature=root.sign(Purpose.EPOCH, keyring.vault, encode(claims)))


def issue_device(
    keyring: Keyring, *, device: bytes, number: int, public_key: bytes, first_seq: int
) -> DeviceCertificate:
    """The certificate of a device in the keyring's newest epoch."""
    claims = DeviceClaims(
        vault=keyring.vault,
        epoch=keyring.epoch,
        device=device,
        number=number,
        public_key=public_key,
        first_seq=first_seq,
    )
    signer = SigningKey(keyring.signing_seed(keyring.epoch))
    return DeviceCertificate(claims=claims, signature=signer.sign(Purpose.DEVICE, keyring.vault, encode(claims)))


def verify_epoch(root_public: bytes, vault: VaultId, certificate: EpochCertificate) -> EpochClaims:
    """The claims, if the root key that ``vault`` names signed them; else Unauthentic."""
    claims = certificate.claims
    if not same(vault_id(root_public), vault) or not same(claims.vault, vault):
        raise Unauthentic("an epoch certificate is of another vault")
    verify(root_public, Purpose.EPOCH, vault, encode(claims), certificate.signature)
    return claims


def verify_device(epoch: EpochClaims, certificate: DeviceCertificate) -> DeviceClaims:
    """The claims, if the key of this (verified) epoch signed them; else Unauthentic."""
    claims = certificate.claims
    if claims.epoch != epoch.epoch or not same(claims.vault, epoch.vault):
        raise Unauthentic("a device certificate is of another epoch or vault")
    verify(epoch.public_key, Purpose.DEVICE, VaultId(epoch.vault), encode(claims), certificate.signature)
    return claims


def is_listed(newest: EpochClaims, device: DeviceClaims) -> bool:
    """Whether a (verified) certificate still holds: of the newest epoch, or of a device that the newest one lists."""
    pinned = Pinned(device=device.device, number=device.number, public_key=device.public_key)
    return device.epoch == newest.epoch or pinned in newest.devices


def counts(newest: EpochClaims, device: DeviceClaims, seq: int) -> bool:
    """Whether commit ``seq`` of a device with a verified certificate counts, by the newest epoch's lists."""
    ends = [entry.last_seq for entry in newest.revoked if entry.device == device.device]
    return is_listed(newest, device) and device.first_seq <= seq and all(seq <= end for end in ends)


def may_claim(newest: EpochClaims, device: DeviceClaims, term: int) -> bool:
    """The same of a claim on ``term``."""
    ends = [entry.last_term for entry in newest.revoked if entry.device == device.device]
    return is_listed(newest, device) and all(term <= end for end in ends)


def may_list(newest: EpochClaims, device: DeviceClaims) -> bool:
    """The same of a checkpoint: who can write one anew can change every row in it, so none of a revoked device."""
    return is_listed(newest, device) and all(entry.device != device.device for entry in newest.revoked)


def _signed_bytes(purpose: Purpose, vault: VaultId, body: Bytes) -> bytes:
    name = purpose.encode()
    return b"".join((b"MegaFS/1 signature", bytes((len(name),)), name, vault, body))
