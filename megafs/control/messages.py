"""What goes over the control socket, and its spelling: one line is one message, ``{"KIND":{…}}``. Pure.

Each kind is a statement in the sense of ``canonical``: exact fields, exact types, one spelling. So a client and a
daemon of different versions refuse each other with a sentence instead of misunderstanding each other.
"""

import errno
from dataclasses import dataclass, field
from typing import Annotated

from megafs import canonical, errors
from megafs.config import CONTROL_LINE_BYTES, OPENED_BYTES
from megafs.control.hostmessages import HostAsk, HostReport, Hosts, Planned, Tested
from megafs.control.scrubbed import Scrubbed
from megafs.crypto.opened import Opened
from megafs.errors import Corrupt, MegaFSError
from megafs.model import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the client wants: ``call`` names a handler of the daemon."""

    call: str  # status, hosts, devices, unshipped, sync, check, add, remove, drain, test, plan, policy, scrub, …
    local: bool = False  # of sync: only until this device has it on disk
    full: bool = False  # of check: everything, not samples; of scrub: every object whole
    repair: bool = False  # of check: mend what loses nothing
    host: HostAsk = field(default_factory=HostAsk)
    page: int = 0  # of unshipped
    copies: int = 0  # of policy and plan: what to change it to; all three 0: as it is
    k: int = 0
    m: int = 0
    words: str = field(default="", repr=False)  # of boots, rekey, retire: the 24 that hold now, or held
    new_words: str = field(default="", repr=False)  # of rekey and retire
    ino: int = 0  # of pin, unpin, fetch: which inode
    opened: Opened = field(default_factory=lambda: Opened(body=b""))  # of unlock: the slot file, opened by who asks;
    opened_bytes: Annotated[int, canonical.Between(0, OPENED_BYTES)] = 0  # not in the line, so many bytes follow it
    acknowledge: tuple[int, ...] = ()  # of alarms: the numbers of those that their owner has read


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmReport:
    """One alarm: the evidence for machines, a sentence for people."""

    n: int
    kind: str  # model.AlarmKind
    host: str  # label; empty: of no single host
    device: int
    known_seq: int
    known_hash: bytes
    shown_seq: int
    shown_hash: bytes
    since_s: int
    acknowledged_s: int  # 0: not yet
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarmed:
    """Answer to ``alarms``: all of them, the oldest first."""

    alarms: tuple[AlarmReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BootReport:
    """The boot object of one host."""

    label: str
    url: str
    generation: int  # 0: it has none, or did not say
    is_new: bool  # made by this call
    error: str  # why not; empty: it answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Boots:
    """Answer to ``boots``, ``rekey`` and ``retire``."""

    vault: Annotated[bytes, canonical.Size(32)]
    hosts: tuple[BootReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a long call is. ``total_bytes`` may grow while others write."""

    done_bytes: int
    total_bytes: int
    waiting_for: tuple[str, ...] = ()  # labels of hosts that do not answer now
    paths: tuple[bytes, ...] = ()  # of check: files that it found to be harmed; more may follow


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Answer to ``status``: one mounted vault."""

    vault: str
    mountpoint: str
    locked: bool = False  # then nothing else is known
    unknown: bool = False  # the index cannot be read: all but read_only
    read_only: str = ""  # why the vault takes no writes; empty: it does
    files: int = 0
    bytes: int = 0  # of content, as the files' sizes say
    copies: int = 0  # the policy: whole copies, or k + m shards
    k: int = 0
    m: int = 0
    unshipped_bytes: int = 0
    unshipped_commits: int = 0
    fsync_fails: str = ""  # why it always does, though durability asks for hosts; empty: it need not
    thin_bytes: int = 0  # of packs that are on fewer hosts than the policy wants
    newest_commit: int = 0
    cache_bytes: int = 0
    cache_limit_bytes: int = 0
    epoch: int = 1
    reseal_left_bytes: int = 0  # of earlier epochs, to be sealed anew (rotate --deep)
    pinned_bytes: int = 0  # when pins were looked at last
    pinned_here_bytes: int = 0
    offline: bool = False  # the last read of what is not here found too few hosts
    chunks_healed: int = 0  # damaged on this disk since the mount, and fetched again from a host
    hosts: tuple[HostReport, ...] = ()
    phrase: str = ""  # checkpoint phrase of the newest commit that a host has confirmed; empty: none has
    alarms: tuple[AlarmReport, ...] = ()  # not acknowledged
    background_from: str = ""  # when scrub, compaction and moving begin again; empty: they may run now
    shipping_from: str = ""  # and shipping


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Answer to a change: what was done and what its owner should know, a sentence each."""

    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """One device as this one knows it. Times are 0 if they are not known."""

    number: int
    label: str
    enrolled_s: int
    last_seq: int  # its newest commit that is in the vault; 0: none
    seen_s: int  # when that was made
    is_this: bool
    is_revoked: bool
    is_writing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHost:
    """A host as a ticket names it."""

    id: bytes
    url: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Answer to ``devices``."""

    epoch: int
    devices: tuple[DeviceReport, ...]
    hosts: tuple[KnownHost, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnshippedPath:
    """Below the mount."""

    path: bytes
    what: str  # new, changed, removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Unshipped:
    """Answer to ``unshipped``: a page of what changed in commits that the vault lacks. No paths: there are no more."""

    first_seq: int  # of the commits that the vault lacks; what is in no commit yet comes on top
    last_seq: int
    is_whole: bool  # else some of these commits are only in a checkpoint of this device, and are not in the list
    paths: tuple[UnshippedPath, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """Answer to ``sync``: everything accepted before the call is where it was asked to be."""

    bytes: int  # shipped by this call
    newest_commit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Answer to ``check``."""

    chunks: int  # looked at in local pack files
    copies: int  # looked at on hosts
    silent: tuple[str, ...]  # labels of hosts that did not answer
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinReport:
    """One pin: where it is in the mount, how much it is and how much of that is here."""

    path: bytes
    bytes: int
    here_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """Answer to ``pins``."""

    pins: tuple[PinReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The call failed: an error of ``errors`` as the daemon raised it."""

    kind: str  # the class
    sentence: str


Message = (
    Request
    | Progress
    | Status
    | Alarmed
    | Boots
    | Hosts
    | Devices
    | Unshipped
    | Done
    | Tested
    | Planned
    | Synced
    | Checked
    | Pinned
    | Scrubbed
    | Failure
)
KINDS: dict[str, type[Message]] = {
    "request": Request,
    "progress": Progress,
    "status": Status,
    "alarmed": Alarmed,
    "boots": Boots,
    "hosts": Hosts,
    "devices": Devices,
    "unshipped": Unshipped,
    "done": Done,
    "tested": Tested,
    "planned": Planned,
    "synced": Synced,
    "checked": Checked,
    "pinned": Pinned,
    "scrubbed": Scrubbed,
    "failure": Failure,
}
NAMES = {kind: name for name, kind in KINDS.items()}


def line(message: Message) -> bytes:
    """``message`` as one line, newline included."""
    return b'{"%b":%b}\n' % (NAMES[type(message)].encode(), canonical.encode(message))


def message(text: bytes) -> Message:
    """The message of a line without its newline; anything else raises Corrupt."""
    head, colon, rest = text.partition(b":")
    name = head[2:-1].decode("ascii", "replace")
    if not colon or name not in KINDS or head != b'{"%b"' % name.encode() or not rest.endswith(b"}"):
        raise Corrupt("control: a line that is not a message of this version")
    found = canonical.parse(KINDS[name], rest[:-1], limit_bytes=CONTROL_LINE_BYTES)
    assert isinstance(found, Message)
    return found


def failure(error: MegaFSError) -> Failure:
    """What to send for ``error``."""
    return Failure(kind=type(error).__name__, sentence=str(error))


def error_of(told: Failure) -> MegaFSError:
    """The error that the daemon told, to be raised again on this side."""
    if told.kind == errors.Refused.__name__:
        codes = {name: code for code, name in errno.errorcode.items()}
        return errors.Refused(codes.get(told.sentence, errno.EIO))
    kind = getattr(errors, told.kind, MegaFSError)
    if not (isinstance(kind, type) and issubclass(kind, MegaFSError)):
        kind = MegaFSError
    return kind(told.sentence)
