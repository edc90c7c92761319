"""What a device says to its future self and to others: commits, heads, claims, checkpoint lists, boot bodies. Pure.

| sealed body | |
|---|---|
| 4 bytes | length of the statement, big endian |
| 64 bytes | Ed25519 signature of the statement by the device |
| statement | canonical JSON of one of the classes below (boot bodies are only this) |
| rest | of a commit: its changeset, zstd, then zeros (padding); of all others: nothing |

The seal binds kind, place and vault before anything is parsed, the signature says which device wrote it, and the
statement holds the digest of the rest. A commit names the one before it by its hash: SHA-256 of the sealed object.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, TypeVar

import zstandard

from megafs.canonical import LATER, Between, Size, encode, parse
from megafs.crypto.identity import (
    DeviceCertificate,
    DeviceClaims,
    DeviceKey,
    EpochCertificate,
    EpochClaims,
    Purpose,
    counts,
    may_claim,
    may_list,
    verify,
    verify_device,
    verify_epoch,
)
from megafs.crypto.keys import KeyringFields
from megafs.errors import Corrupt, Unauthentic
from megafs.model import Bytes, VaultId
from megafs.packs.sizes import object_bytes

FRAME = struct.Struct(">I64s")  # length of the statement, signature
assert FRAME.size == 68
CHANGESET_BYTES = 1 << 30  # of one commit object, decompressed; 20,000 rows take 2 to 4 MiB
STORED_DESCRIPTOR = 0b1110_0000  # of a zstd frame: eight bytes of content size, one segment, no checksum
STORED_BLOCK_BYTES = 128 << 10  # the most that RFC 8878 allows
COMPRESSION_LEVEL = 3  # changesets shrink to a third; level 1 saves little of the 20 ms per MiB
NUMBER_STOP = 1 << 23  # device numbers: ids are number << 40 | counter, within 63 bits

Device = Annotated[int, Between(1, NUMBER_STOP - 1)]
Hash = Annotated[bytes, Size(32)]
Id = Annotated[bytes, Size(16)]
Said = TypeVar("Said", bound="CommitHeader | Head | Claim | CheckpointList")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One commit, by place and hash. Sequence 0 (device 0, 32 zero bytes) stands for "before the first"."""

    device: Annotated[int, Between(0, NUMBER_STOP - 1)]
    seq: int
    hash: Hash


NOTHING = Step(device=0, seq=0, hash=bytes(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFact:
    """A copy that a host had acknowledged when the statement was made."""

    host: Id
    shard: Annotated[int, Between(-1, 1023)]
    root: Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFact:
    """Where a pack lies. Its copy rows are written after it was shipped, so behind the commits that name it; with this
    they need not wait for one another."""

    number: int
    copies: tuple[CopyFact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitHeader:
    """One durable step of the index."""

    schema: int
    device: Device
    seq: int
    previous: Step
    term: int
    first: int  # outbox rows of the device that are in it; only for the curious
    last: int
    made_s: int
    changes: int
    changeset_bytes: int
    digest: Hash  # SHA-256 of the rest
    packs: tuple[PackFact, ...]
    certificate: DeviceCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """The newest head of the device that a host had confirmed."""

    host: Id
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A commit is on enough hosts; what the device had seen by then, and what each host had confirmed."""

    step: Step
    term: int
    made_s: int
    checkpoint: Step  # the newest that is complete on enough hosts
    seen: tuple[Step, ...]  # newest step known of every other device
    certificate: DeviceCertificate
    hosts: Annotated[tuple[Acknowledged, ...], LATER] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A device makes itself the writing one, going on from ``base``. The greatest (term, device id) wins."""

    term: int
    number: Device
    base: Step
    made_s: int
    certificate: DeviceCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPart:
    """One part of a checkpoint: rows of a table with low <= key < high."""

    id: Id
    table: Annotated[str, Size(1, 64)]
    low: Annotated[bytes, Size(0, 64)]
    high: Annotated[bytes, Size(1, 64)]
    digest: Hash  # SHA-256 of the sealed part
    bytes: int  # of the sealed part
    rows: int
    changeset_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointList:
    """The whole index as of one commit."""

    schema: int
    step: Step
    term: int
    made_s: int
    parts: tuple[ListedPart, ...]
    packs: tuple[PackFact, ...]
    certificate: DeviceCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class BootHost:
    """A host as a new device must know it."""

    id: Id
    url: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What the recovery key opens: everything a new device needs to find and read the vault."""

    generation: int
    host: Id  # the host on which this one lies
    hosts: tuple[BootHost, ...]
    keyring: KeyringFields
    root_seed: Annotated[bytes, Size(32)]
    root_public: Annotated[bytes, Size(32)]
    epochs: tuple[EpochCertificate, ...]

    @property
    def rank(self) -> tuple[int, int]:
        """The greatest counts. Epochs first: who has more of them can read all that who has fewer can."""
        return len(self.epochs), self.generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a ticket's code opens: what Boot holds, less the root key; good until ``expires_s``."""

    expires_s: int
    host: Id  # the host on which this one lies
    hosts: tuple[BootHost, ...]
    keyring: KeyringFields
    root_public: Annotated[bytes, Size(32)]
    epochs: tuple[EpochCertificate, ...]


PURPOSES: Mapping[type, Purpose] = {
    CommitHeader: Purpose.COMMIT,
    Head: Purpose.HEAD,
    Claim: Purpose.CLAIM,
    CheckpointList: Purpose.CHECKPOINT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """This device, able to sign."""

    vault: VaultId
    key: DeviceKey
    certificate: DeviceCertificate

    @property
    def device(self) -> int:
        return self.certificate.claims.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose word counts: the vault's epochs, each certified by its root key."""

    vault: VaultId
    root_public: bytes
    epochs: Mapping[int, EpochClaims]

    @classmethod
    def of(cls, vault: VaultId, root_public: bytes, certificates: Sequence[EpochCertificate]) -> "Trust":
        """Raises Unauthentic unless the root key that ``vault`` names signed every epoch."""
        verified = [verify_epoch(root_public, vault, certificate) for certificate in certificates]
        return cls(vault=vault, root_public=root_public, epochs={claims.epoch: claims for claims in verified})

    @property
    def newest(self) -> EpochClaims:
        """The epoch whose lists of devices count."""
        return self.epochs[max(self.epochs)]

    def check(self, said: "CommitHeader | Head | Claim | CheckpointList", body: bytes, signature: bytes) -> None:
        """Raises Unauthentic unless an enrolled, not revoked device signed these bytes."""
        epoch = self.epochs.get(said.certificate.claims.epoch)
        if epoch is None:
            raise Unauthentic("a statement is of an epoch that the vault does not have")
        claims = verify_device(epoch, said.certificate)
        if author(said, claims) != claims.number:
            raise Unauthentic("a statement speaks for another device")
        if not still_counts(said, self.newest, claims):
            raise Unauthentic("a statement is of a device that was revoked before it")
        verify(claims.public_key, PURPOSES[type(said)], self.vault, body, signature)


def author(said: CommitHeader | Head | Claim | CheckpointList, signer: DeviceClaims) -> int:
    """The number of the device that the statement speaks for."""
    match said:
        case CommitHeader():
            return said.device
        case Claim():
            return said.number
        case Head():
            return said.step.device
        case CheckpointList():
            # A checkpoint made just after an attach is of the base's device but signed by the new one.
            return signer.number


def still_counts(said: CommitHeader | Head | Claim | CheckpointList, newest: EpochClaims, signer: DeviceClaims) -> bool:
    """Whether the newest epoch lets a device with these (verified) claims say so."""
    match said:
        case CommitHeader():
            return counts(newest, signer, said.seq)
        case Claim():
            return may_claim(newest, signer, said.term)
        case Head():
            return counts(newest, signer, said.step.seq)
        case CheckpointList():
            return may_list(newest, signer)


def step_hash(sealed: Bytes) -> bytes:
    """What the next commit calls this one."""
    return sha256(sealed).digest()


def framed(signer: Signer, said: CommitHeader | Head | Claim | CheckpointList, rest: Bytes = b"") -> bytes:
    """The body to be sealed."""
    statement = encode(said)
    signature = signer.key.sign(PURPOSES[type(said)], signer.vault, statement)
    return b"".join((FRAME.pack(len(statement), signature), statement, rest))


def unframed(make: type[Said], body: bytes, trust: Trust) -> tuple[Said, memoryview]:
    """The statement, whose author and signature hold, and the rest. Raises Corrupt or Unauthentic."""
    if len(body) < FRAME.size:
        raise Corrupt(f"{make.__name__}: {len(body)} bytes, need {FRAME.size}")
    length, signature = FRAME.unpack_from(body)
    statement = body[FRAME.size : FRAME.size + length]
    if len(statement) != length:
        raise Corrupt(f"{make.__name__}: the statement is cut off")
    said = parse(make, statement)
    trust.check(said, statement, signature)
    rest = memoryview(body)[FRAME.size + length :]
    if make is not CommitHeader and len(rest):
        raise Corrupt(f"{make.__name__}: {len(rest)} bytes too many")
    return said, rest


def own_head(body: bytes) -> Head:
    """A head that this device has just written, from its body; its signature need not be looked at."""
    length, _ = FRAME.unpack_from(body)
    return parse(Head, body[FRAME.size : FRAME.size + length])


def packed(changeset: bytes, *, coarse: bool = False) -> bytes:
    """A changeset or part as it travels, not yet padded. ``coarse``: its size is that of the changeset, whatever stands
    in it beside what."""
    if coarse:
        return stored_frame(changeset)
    return zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compress(changeset)


def stored_frame(data: bytes) -> bytes:
    """A zstd frame (RFC 8878) of raw blocks: every decoder reads it, and nothing in it was compressed."""
    parts = [zstandard.FRAME_HEADER, bytes([STORED_DESCRIPTOR]), struct.pack("<Q", len(data))]
    starts = range(0, len(data), STORED_BLOCK_BYTES) or [0]
    for start in starts:
        block = data[start : start + STORED_BLOCK_BYTES]
        is_last = start + STORED_BLOCK_BYTES >= len(data)
        parts += [(len(block) << 3 | is_last).to_bytes(3, "little"), block]
    return b"".join(parts)


def padded(frame: bytes, beside: int, *, coarse: bool) -> bytes:
    """A packed changeset with zeros behind it, so that it and ``beside`` bytes of other things have a size that tells
    little."""
    return frame + bytes(object_bytes(beside + len(frame), coarse=coarse) - beside - len(frame))


def unpacked(data: Bytes, size: int) -> bytes:
    """The ``size`` bytes that ``packed`` was given. Raises Corrupt, also for a bomb."""
    if not 0 <= size <= CHANGESET_BYTES:
        raise Corrupt(f"changeset: {size} bytes are too many")
    try:
        stream = zstandard.ZstdDecompressor().decompressobj()
        if zstandard.get_frame_parameters(bytes(data[:18])).content_size != size:
            raise Corrupt("changeset: not of the size announced")
        plain = stream.decompress(bytes(data))
    except zstandard.ZstdError as error:
        raise Corrupt(f"changeset: {error}") from error
    if len(plain) != size or stream.unused_data.strip(b"\0"):  # zeros are padding
        raise Corrupt("changeset: not of the size announced")
    return plain


def commit_body(signer: Signer, header: CommitHeader, rest: bytes) -> bytes:
    """The body of a commit object; ``rest`` is the packed changeset."""
    assert header.digest == sha256(rest).digest()
    return framed(signer, header, rest)


def parse_commit(body: bytes, trust: Trust) -> tuple[CommitHeader, bytes]:
    """The header and the changeset. Raises Corrupt or Unauthentic."""
    header, rest = unframed(CommitHeader, body, trust)
    if sha256(rest).digest() != header.digest:
        raise Corrupt("commit: its changeset is not the one it was signed with")
    return header, unpacked(rest, header.changeset_bytes)
