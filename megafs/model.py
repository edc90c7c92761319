"""The words of DESIGN.md section 1 as types. Pure values, no behaviour beyond checks of themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, NewType

Ino = NewType("Ino", int)  # device << 40 | counter; the root is 1
ChunkId = NewType("ChunkId", bytes)  # 16 bytes: 4 of the pack's id (locality in the index), 12 random
PackId = NewType("PackId", bytes)  # 16 random bytes; what names are derived from
PackNumber = NewType("PackNumber", int)  # device << 40 | counter; what rows refer to
HostId = NewType("HostId", bytes)  # 16 random bytes
DeviceId = NewType("DeviceId", bytes)  # 16 random bytes
VaultId = NewType("VaultId", bytes)  # SHA-256 of the root public key
Bytes = bytes | bytearray | memoryview  # read only; a memoryview spares a copy

ROOT_INO = Ino(1)
COUNTER_BITS = 40  # ids of replicated tables: device number above, counter below


class Kind(StrEnum):
    """What a sealed object is; part of every context, so that none can stand in for another."""

    CHUNK = "chunk"
    DIRECTORY = "directory"  # of a pack
    FOOTER = "footer"  # of a pack
    PACK = "pack"
    COMMIT = "commit"
    CHECKPOINT = "checkpoint"
    PART = "part"  # of a checkpoint
    HEAD = "head"
    CLAIM = "claim"
    BOOT = "boot"
    SLOT = "slot"
    EPOCH = "epoch"  # the root key's word that there is a new one
    TICKET = "ticket"  # for one new device
    SECRETS = "secrets"  # of hosts, on this device


class AlarmKind(StrEnum):
    """What a device has to tell its owner about hosts and histories."""

    BEHIND = "behind"  # a host shows less than it had confirmed
    FORK = "fork"  # a host shows another commit under a number that is taken
    STALE = "stale"  # nothing new for two days, from a host or of a device
    OWN_STATE = "own-state"  # the state of this device was older than the hosts'


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One of them, with its evidence. ``host`` is empty if it is of no single host."""

    n: int = 0  # what it is acknowledged by; 0: not stored yet
    kind: AlarmKind
    host: bytes = b""
    device: int
    known_seq: int
    known_hash: bytes
    shown_seq: int = 0
    shown_hash: bytes = b""
    since_s: int
    acknowledged_s: int = 0


WHOLE = -1  # the shard of a copy that is the whole pack
SHARD_BITS = 5  # liberasurecode makes 32 shards at most


def shard_of(k: int, number: int) -> int:
    """What stands for shard ``number`` of ``k`` data shards in rows, statements and names. How many shards there are
    beyond the first k changes none of them; another k does, so it is part of the name: 64 is the first of 2 + m."""
    assert 0 < k < 1 << SHARD_BITS
    assert 0 <= number < 1 << SHARD_BITS
    return k << SHARD_BITS | number


def shard_parts(shard: int) -> tuple[int, int]:
    """(k, number) of a shard that is not WHOLE."""
    return shard >> SHARD_BITS, shard & (1 << SHARD_BITS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the owner wants: ``copies`` whole packs, or ``k`` + ``m`` shards (k = 0: copies)."""

    copies: int = 2
    k: int = 0
    m: int = 0

    @property
    def places(self) -> int:
        """How many hosts hold a part of one pack."""
        return self.k + self.m if self.k else self.copies

    @property
    def shards(self) -> tuple[int, ...]:
        """Which parts a pack should have, each on a host of its own; WHOLE may be on several."""
        return tuple(shard_of(self.k, number) for number in range(self.places)) if self.k else (WHOLE,)

    @property
    def enough(self) -> int:
        """On how many hosts a pack must be before a commit that names it may ship."""
        return self.k + 1 if self.k and self.m else self.k or min(self.copies, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpec:
    """A host as the index knows it. ``url`` holds no secret."""

    id: HostId
    url: str
    label: str
    operator: str = ""
    region: str = ""
    price_storage: float = 0.0  # per GiB and month
    price_egress: float = 0.0  # per GiB
    limit_bytes: int = 0  # 0: none
    state: str = "active"  # active, draining, gone
    append_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenSecrets:
    """What a command line was given for its hosts, by URL. ``typed``: by a person, not from a file."""

    by_url: Mapping[str, Mapping[str, str]] = field(repr=False)
    typed: bool = False


NO_SECRETS = GivenSecrets(by_url={})


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """What placement decides on: the spec and what was measured."""

    spec: HostSpec
    answers: bool = True  # neither silent nor refusing whatever it is asked
    failing: float = 0.0  # the share of recent requests that it did not answer
    written_off: bool = False  # away for so long that its copies do not count; they do again once it is back
    full: bool = False
    used_bytes: int = 0
    free_bytes: int | None = None  # None: the host does not say
    latency_s: float = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether requests to it have a chance now."""
        return self.answers and not self.written_off


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a host says about itself; None where it does not say."""

    free_bytes: int | None
    used_bytes: int | None


class Attributes(NamedTuple):
    """One inode as stat(2) shows it; times in ns since the epoch, ``stored`` in bytes of content held.

    A tuple, because every request makes one or more: 0.3 µs from a row, a frozen dataclass takes 3.
    """

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    stored: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class ChunkPlace(NamedTuple):
    """Where a chunk lies and what it must hash to. ``offset`` and sizes in bytes within the pack."""

    chunk: ChunkId
    pack: PackNumber
    offset: int
    sealed_bytes: int
    plain_bytes: int
    codec: int  # 0 as is, 1 zstd
    digest: bytes  # SHA-256 of the sealed chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A pack row. ``stored_bytes`` 0 and ``root`` empty while it is open."""

    number: PackNumber
    id: PackId
    epoch: int
    stored_bytes: int
    root: bytes  # Merkle root over 64 KiB leaves of the whole pack
    dead_since_s: int  # 0: has live chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong in a vault. Names ids and hosts, never files."""

    where: str  # index, local, hosts, or a host's label
    rule: str
    subject: str
    sentence: str
    repaired: bool = False


Statistics = Mapping[str, int | float | str]
