"""Every limit with its unit, where files live, and the vault's settings (TOML, checked). Reads no clock."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from megafs.errors import Usage
from megafs.hours import spans

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

CHUNK_BYTES = 256 * KIB  # plaintext of a chunk written sequentially
SMALL_CHUNK_BYTES = 64 * KIB  # of a file written at random or opened O_DIRECT; also small runs packed together
PACK_BYTES = 16 * MIB
MERKLE_LEAF_BYTES = 64 * KIB
CHANGED_ROWS_PER_COMMIT = 20_000
DIRENTS_PER_PAGE = 200
ROWS_PER_REQUEST = 2_000  # more is marked doomed and collected in slices
WAL_CHECKPOINT_BYTES = 64 * MIB
CHECKPOINT_PART_BYTES = 4 * MIB
DISK_RESERVE_BYTES = 64 * MIB  # of the state directory's disk: below, nothing is accepted, so that commits still fit
CACHE_LEAST_BYTES = 4 * PACK_BYTES  # less holds not even the packs that are being written, shipped and read
CACHE_STALL_S = 10.0  # a full cache waits this long for hosts to take something, then says ENOSPC
CONTROL_LINE_BYTES = 1 * MIB
OPENED_BYTES = 1 * MIB  # an opened slot file on its way to the daemon
CONTROL_CLIENTS = 16  # connections served at once; more wait
CONTROL_REQUEST_S = 10.0  # a client that connects says within this time what it wants
CONTROL_SEND_S = 30.0  # and takes each line of the answer within this time
CONTROL_REPLY_S = 60.0  # how long the CLI waits for the next line; a long call shows progress far more often
MOUNT_READY_S = 180.0  # from the start of the daemon to its first answer, a catch-up from the hosts included
UNMOUNT_S = 300.0  # from the kernel's unmount to the end of the daemon
LOG_BYTES = 4 * MIB  # of one log file; LOG_FILES older ones are kept
LOG_FILES = 3
NAME_BYTES = 255
SYMLINK_BYTES = 4095
XATTR_VALUE_BYTES = 65_536
XATTR_NAME_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the owner can set for one vault on this device; written as ``vault.toml``."""

    cache_bytes: int = 0  # 0: a tenth of the free disk, 20 GiB at most
    compression: bool = True
    coarse_sizes: bool = False  # nothing compressed, objects of few sizes: what hosts see says still less
    commit_s: float = 1.0
    pack_idle_s: float = 10.0  # a pack closes this long after its last byte
    pack_age_s: float = 20.0  # or this long after its first
    retention_s: int = 7 * 86_400  # dead packs and old checkpoints stay on hosts this long
    dirty_bytes: int = 64 * MIB  # accepted and not yet sealed, in RAM
    chunk_cache_bytes: int = 64 * MIB  # decrypted, in RAM
    host_reply_s: float = 60.0
    host_patience_s: float = 60.0  # how long sync waits for a host that stays away
    uploads: int = 4  # packs in flight
    connections: int = 4  # to one host at a time
    upload_bytes_s: int = 0  # to all hosts together; 0: as fast as it goes
    download_bytes_s: int = 0
    host_gone_s: float = 3 * 86_400.0  # a host away for longer is written off: its packs are made anew; 0: never
    background_hours: str = ""  # of the day, for scrub, compaction and moving (megafs.hours); empty: all
    ship_hours: str = ""  # of the day, for shipping; a cache half full of what no host has is shipped at any hour
    lock_idle_s: float = 0.0  # lock after so long without a request; 0: never
    lock_with_screen: bool = False  # lock when the desktop session does
    entry_timeout_s: float = 3600.0  # how long the kernel may keep names and attributes
    read_patience_s: float = 30.0  # what is not here and no host gives fails with EIO after this long
    durability: str = "local"  # what fsync waits for; or "remote=N": so many hosts

    def __post_init__(self) -> None:
        """Raises Usage for a value out of bounds."""
        for name, low, high in BOUNDS:
            value = getattr(self, name)
            if not low <= value <= high:
                raise Usage(f"{name} must be between {low} and {high}, not {value}")
        checked_cache_bytes(self.cache_bytes)
        durability_hosts(self.durability)
        for hours in (self.background_hours, self.ship_hours):
            list(spans(hours))


BOUNDS = (
    ("cache_bytes", 0, 1 << 60),
    ("commit_s", 0.05, 60),
    ("pack_idle_s", 0.05, 3600),
    ("pack_age_s", 0.05, 3600),
    ("retention_s", 0, 10 * 365 * 86_400),
    ("dirty_bytes", MIB, 4 * GIB),
    ("chunk_cache_bytes", MIB, 16 * GIB),
    ("host_reply_s", 0.1, 3600),
    ("host_patience_s", 0.1, 86_400),
    ("uploads", 1, 64),
    ("connections", 1, 64),
    ("upload_bytes_s", 0, 1 << 40),
    ("download_bytes_s", 0, 1 << 40),
    ("host_gone_s", 0, 10 * 365 * 86_400),
    ("lock_idle_s", 0, 30 * 86_400),
    ("entry_timeout_s", 0, 86_400),
    ("read_patience_s", 0.1, 3600),
)


def checked_cache_bytes(count: int) -> None:
    """Raises Usage for a cache that could not work."""
    if 0 < count < CACHE_LEAST_BYTES:
        raise Usage(
            f"the cache is at least {CACHE_LEAST_BYTES // MIB} MiB ({CACHE_LEAST_BYTES} bytes), not {count} bytes"
        )


def durability_hosts(text: str) -> int:
    """On how many hosts something must be before fsync returns; 0: this device is enough. Raises Usage."""
    kind, _, count = text.partition("=")
    if text == "local":
        return 0
    if kind != "remote" or not (count.isdecimal() and count.isascii() and 1 <= int(count[:3]) <= 32):
        raise Usage(f"durability is local or remote=N with N from 1 to 32, not {text!r}")
    return int(count)


def settings_from(text: str) -> Settings:
    """Parse ``vault.toml``; unknown keys and wrong types raise Usage."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of tomllib; plain ones of numbers with thousands of digits
        raise Usage(f"vault.toml is not valid TOML: {error}") from error
    known = {field.name: field.type for field in fields(Settings)}
    for key, value in table.items():
        if key not in known:
            raise Usage(f"vault.toml has an unknown setting: {key}")
        wanted = type(getattr(Settings(), key))
        if not isinstance(value, wanted) and not (wanted is float and isinstance(value, int)):
            raise Usage(f"vault.toml: {key} must be of type {wanted.__name__}")
        if isinstance(value, bool) is not (wanted is bool):
            raise Usage(f"vault.toml: {key} must be of type {wanted.__name__}")
    return Settings(**table)


def settings_text(settings: Settings) -> str:
    """The TOML of every setting that differs from its default."""
    lines = []
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if value != field.default:
            quoted = f'"{value}"' if isinstance(value, str) else value
            lines.append(f"{field.name} = {str(value).lower() if isinstance(value, bool) else quoted}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """What one mount asks for, beyond the vault's settings."""

    allow_other: bool = False
    read_only: bool = False
    cache_bytes: int = 0  # 0: as the settings say
    upload_bytes_s: int = 0  # 0: as the settings say
    download_bytes_s: int = 0
    durability: str = ""  # empty: as the settings say
    flags: tuple[str, ...] = ()  # from MOUNT_FLAGS, handed to the kernel as they are

    def __post_init__(self) -> None:
        """Raises Usage."""
        checked_cache_bytes(self.cache_bytes)


MOUNT_FLAGS = ("nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "nodiratime", "sync", "dirsync")


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultPaths:
    """Where one vault lives on this device: ``STATE_DIR/NAME/``, mode 0700."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "vault.toml"

    @property
    def slot(self) -> Path:
        return self.root / "slot"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"  # given while the vault was locked; the next mount seals them

    @property
    def sealed_secrets(self) -> Path:
        return self.root / "secrets.sealed"

    @property
    def index(self) -> Path:
        return self.root / "index.db"

    @property
    def packs(self) -> Path:
        return self.root / "packs"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def ticket(self) -> Path:
        """Names the object of a ticket that is on the hosts, so that one whose issuer was killed is taken back."""
        return self.root / "ticket"

    @property
    def aside(self) -> Path:
        """Packs that only an older copy of the state had."""
        return self.root / "aside"

    @property
    def log(self) -> Path:
        return self.root / "log"
