"""What is asked and told of hosts: the messages of control.messages that are only theirs."""

from dataclasses import dataclass, field
from typing import Annotated

from megafs import canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret of a host, on its way to the daemon that keeps it. The socket is its owner's alone."""

    name: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAsk:
    """Which host, and what a new one is like. Prices are decimal numbers as text: statements have no fractions."""

    name: str = ""  # label or URL; empty: all of them
    label: str = ""
    operator: str = ""
    region: str = ""
    price_storage: str = ""  # per GiB and month
    price_egress: str = ""  # per GiB
    limit_bytes: int = 0
    append_only: bool = False
    given: tuple[str, ...] = ()  # of set: which of the six above are to be changed
    force: bool = False
    secrets: tuple[Secret, ...] = ()
    secrets_typed: bool = False  # by a person: for the keyring if there is one
    recovery_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """One host as the daemon sees it now."""

    label: str
    url: str
    state: str  # ok, unreachable, refused, full, written off, draining, gone
    stored_bytes: int
    retained_bytes: int = 0  # of these; deleted, and kept until the retention is over
    free_bytes: Annotated[int, canonical.Between(-1, 1 << 62)] = -1  # -1: the host does not say
    objects: int
    newest_commit: int  # 0: none
    operator: str = ""
    region: str = ""
    price_storage: str = "0"  # per GiB and month
    price_egress: str = "0"  # per GiB
    limit_bytes: int = 0  # that the owner set; 0: none
    append_only: bool = False
    latency_ms: int = 0
    last_error: str = ""  # empty: none since the mount
    last_error_s: int = 0  # when
    is_over: bool = False  # it has answered since
    asks_again_s: int = 0  # when it is asked the next time; 0: it is asked all the time
    away_since_s: int = 0  # does not answer while others do; 0: it does
    scrubbed_s: int = 0  # when one of its objects was looked at last; 0: never
    scrub_checked: int = 0  # objects, since it joined; the following of them
    scrub_bad: int = 0
    scrub_repaired: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Answer to ``hosts``, asked of the hosts themselves."""

    hosts: tuple[HostReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTest:
    """What a probe of one host found; with ``error`` nothing else counts."""

    label: str
    url: str
    error: str = ""
    latency_us: int = 0
    upload_bytes_s: int = 0
    download_bytes_s: int = 0
    can_delete: bool = False
    can_list: bool = False
    free_bytes: Annotated[int, canonical.Between(-1, 1 << 62)] = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """Answer to ``test``."""

    hosts: tuple[HostTest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedHost:
    """What one host gets under a plan."""

    label: str
    obstacle: str  # why it gets nothing new; empty: it does
    reasons: str  # what decided, in the order in which it counts
    stored_bytes: int
    month_price: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Answer to ``plan``: placement's explanation."""

    hosts: tuple[PlannedHost, ...]
    copies: int
    k: int
    m: int
    plain_bytes: int
    stored_bytes: int
    places_wanted: int
    places_found: int
    month_price: str
    read_price: str
    survives_hosts: int
    survives_operators: int
    survives_regions: int
    remarks: tuple[str, ...]
