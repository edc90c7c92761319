"""Where the parts of a pack go, and what must be copied or removed to get there. Pure and deterministic.

States of hosts, a policy and a pack id in; hosts, parts and steps out. Never two parts of one pack on one host. Order:

1. as many parts as the policy wants, on hosts that can take one now. A host that is gone, draining, written off, full
   (no room for a part), silent or refusing cannot; only if there are too few others a part goes to a silent one and is
   owed until it is back (else a commit would wait for it). What lies on a host that is written off does not count, and
   stays for the day when it is back;
2. spread over operators, evenly, then over regions, evenly, before anything else; an empty name counts as one operator
   or region, because two hosts of which nothing is known may be the same company. When a silent host is back and the
   spread is better with it, parts move there;
3. what is already in place stays: nothing moves unless 1 or 2 get better by it;
4. then health (the share of recent requests that failed), ample room, the lower price of storage, the lower class of
   latency; among equals a rendezvous hash of the pack id weighted by room, so that load follows free space and a new
   host draws only its share.

Exact, as a flow of least cost: one unit for each part from a source over its operator, its host and its region to a
sink; the n-th unit of an operator or region costs more than the one before.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import log
from typing import NamedTuple

from megafs.config import GIB, PACK_BYTES
from megafs.model import WHOLE, HostId, HostSpec, HostState, PackId, Policy, shard_parts

__all__ = [
    "WHOLE",
    "HostPlan",
    "Part",
    "Plan",
    "Steps",
    "can_be_read",
    "choose",
    "explain",
    "obstacle",
    "steps",
    "wanted",
]

PLACES_MAX = 32  # liberasurecode takes no more; copies neither
AMPLE_PARTS = 64  # room for 1 GiB of packs; with less, others go first, since what a host says is minutes old
UNKNOWN_ROOM_BYTES = 1 << 40  # what a host that does not say is taken to have
LATENCY_CLASSES_S = (0.1, 0.5)  # measured latency wavers: only these steps count
FAILING_CLASSES = (0.05, 0.25)  # likewise the share of requests that fail
SAMPLE_PACKS = 256  # explain() tries this many pack ids


class Part(NamedTuple):
    """One part of a pack on one host."""

    host: HostId
    shard: int  # WHOLE, or as model.shard_of says


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """From what a pack has to what it should have. ``remove`` only after everything in ``make`` is there."""

    make: tuple[Part, ...]
    remove: tuple[Part, ...]
    forget: tuple[Part, ...]  # on hosts that are gone: rows to delete, nothing to send


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """What one host gets under a plan."""

    host: HostId
    label: str
    obstacle: str  # why it gets nothing new: "gone", "draining", "written off", "full", "unreachable", or ""
    reasons: str  # what decided, in the order in which it counts
    stored_bytes: int
    month_price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a policy means with these hosts: the answer of ``hosts plan``."""

    hosts: tuple[HostPlan, ...]
    places_wanted: int
    places_found: int
    stored_bytes: int
    month_price: float
    read_price: float  # of reading everything once, from the cheapest hosts that suffice
    survives_hosts: int  # any so many may be lost at once and everything still reads
    survives_operators: int
    survives_regions: int
    remarks: tuple[str, ...]


def part_bytes(policy: Policy) -> int:
    """The most that one part of a pack takes on a host."""
    return -(-PACK_BYTES // policy.k) + 80 if policy.k else PACK_BYTES  # 80: the header of a shard


def can_be_read(parts: Collection[Part]) -> bool:
    """Whether these are the whole pack, or as many different shards of one kind as make it."""
    shards = {part.shard for part in parts}
    kinds = Counter(shard_parts(shard)[0] for shard in shards - {WHOLE})
    return WHOLE in shards or any(count >= k for k, count in kinds.items())


def room_bytes(state: HostState) -> int | None:
    """What still fits, by the host's own word and the owner's limit; None: nobody says."""
    known = [] if state.free_bytes is None else [state.free_bytes]
    if state.spec.limit_bytes:
        known.append(state.spec.limit_bytes - state.used_bytes)
    return max(0, min(known)) if known else None


def obstacle(state: HostState, policy: Policy) -> str:
    """Why the host gets no new part: "gone", "draining", "written off", "full", "unreachable"; "" if it does."""
    if state.spec.state != "active":
        return state.spec.state
    if state.written_off:
        return "written off"
    room = room_bytes(state)
    if state.full or (room is not None and room < part_bytes(policy)):
        return "full"
    return "" if state.answers else "unreachable"


def choose(states: Sequence[HostState], policy: Policy, pack: PackId, have: Collection[HostId] = ()) -> list[HostId]:
    """The hosts for one pack, at most ``policy.places``, best for reading first: shard i of a new one goes to the i-th.

    ``have``: hosts that hold a part that still counts. They may be full or silent, but not draining or gone.
    """
    kept = [state for state in states if state.spec.id in have and _counts(state)]
    others = [s for s in states if s.spec.id not in have and obstacle(s, policy) in ("", "unreachable")]
    ranked = sorted(kept + others, key=lambda state: _preference(state, policy, pack))
    costs = [(state.spec.id not in have and not state.answers, state.spec.id not in have) for state in ranked]
    domains = tuple((state.spec.operator, state.spec.region) for state in ranked)
    chosen = [ranked[i] for i in _spread(domains, tuple(costs), policy.places)]
    chosen.sort(key=lambda s: (not s.answers, _latency_class(s), s.spec.price_egress))  # stable: preference decides
    return [state.spec.id for state in chosen]


def wanted(states: Sequence[HostState], policy: Policy, pack: PackId, have: Collection[Part] = ()) -> list[Part]:
    """The parts that the pack should have, and where; what exists and fits the policy keeps its place."""
    by_id = {state.spec.id: state for state in states}
    kept = _kept(by_id, policy, have)
    if len(kept) == policy.places and _is_best_spread(states, policy, [by_id[host].spec for host in kept]):
        return [Part(host, shard) for host, shard in kept.items()]  # the usual case, a hundred times faster
    hosts = choose(states, policy, pack, kept)
    if not policy.k:
        return [Part(host, WHOLE) for host in hosts]
    taken = {kept[host] for host in hosts if host in kept}
    # A shard on a host that is draining is made again last: while hosts are few, distinct shards are worth more.
    leaving = {part.shard for part in have if part.host in by_id and by_id[part.host].spec.state != "gone"}
    free = iter(sorted(set(policy.shards) - taken, key=lambda shard: (shard in leaving, shard)))
    return [Part(host, kept[host] if host in kept else next(free)) for host in hosts]


def steps(states: Sequence[HostState], policy: Policy, pack: PackId, have: Collection[Part]) -> Steps:
    """What to do for one pack. Nothing is removed while the pack cannot reach its full number of parts without it, and
    nothing ever from an append-only host. A part to make on a host that does not answer is owed."""
    by_id = {state.spec.id: state.spec for state in states}
    held = set(have)
    forget = {part for part in held if part.host not in by_id or by_id[part.host].state == "gone"}
    away = {part for part in held - forget if part.host in {s.spec.id for s in states if s.written_off}}
    want = wanted(states, policy, pack, have)
    surplus = held - forget - away - set(want) if len(want) == policy.places else set()
    return Steps(
        make=tuple(part for part in want if part not in held),
        remove=tuple(sorted(part for part in surplus if not by_id[part.host].append_only)),
        forget=tuple(sorted(forget)),
    )


def explain(states: Sequence[HostState], policy: Policy, plain_bytes: int) -> Plan:
    """What goes where if ``plain_bytes`` were stored now, what it costs, and which losses it survives."""
    samples = [choose(states, policy, PackId(sha256(b"%d" % i).digest()[:16])) for i in range(SAMPLE_PACKS)]
    counts = Counter(host for hosts in samples for host in hosts)
    one_part = plain_bytes / (policy.k or 1)  # on one host, of everything
    specs = {state.spec.id: state.spec for state in states}
    hosts = []
    for state in states:
        stored = round(one_part * counts[state.spec.id] / SAMPLE_PACKS)
        hosts.append(
            HostPlan(
                host=state.spec.id,
                label=state.spec.label,
                obstacle=obstacle(state, policy),
                reasons=_reasons(state),
                stored_bytes=stored,
                month_price=stored / GIB * state.spec.price_storage,
            )
        )
    needed = policy.k or 1
    found = min(map(len, samples))
    operators = {host: spec.operator for host, spec in specs.items()}
    regions = {host: spec.region for host, spec in specs.items()}
    reading = sum(sum(sorted(specs[host].price_egress for host in chosen)[:needed]) for chosen in samples)
    return Plan(
        hosts=tuple(hosts),
        places_wanted=policy.places,
        places_found=found,
        stored_bytes=sum(host.stored_bytes for host in hosts),
        month_price=sum(host.month_price for host in hosts),
        read_price=one_part / GIB * reading / SAMPLE_PACKS,
        survives_hosts=max(0, found - needed),
        survives_operators=min(_survives(operators, chosen, needed) for chosen in samples),
        survives_regions=min(_survives(regions, chosen, needed) for chosen in samples),
        remarks=tuple(_remarks(states, policy, found, [room for room in hosts if room.stored_bytes])),
    )


def _reasons(state: HostState) -> str:
    """What placement looks at, in its order: names for the spread, then health, room, price and latency."""
    spec, room = state.spec, room_bytes(state)
    told = [f"operator {spec.operator or '?'}, region {spec.region or '?'}", f"{state.failing:.0%} of requests fail"]
    told.append("room unknown" if room is None else f"room for {room / GIB:.1f} GiB")
    told.append(f"{spec.price_storage:g} a GiB and month")
    told.append(f"{state.latency_s * 1000:.0f} ms" if state.latency_s else "latency unknown")
    return ", ".join(told)


def _remarks(states: Sequence[HostState], policy: Policy, found: int, used: Sequence[HostPlan]) -> Iterable[str]:
    """What the owner should know about a plan, a sentence each."""
    if found < (policy.k or 1):
        yield f"{found} hosts can be used, and reading needs {policy.k or 1}: nothing can be stored safely."
    elif found < policy.places:
        yield f"{found} of {policy.places} parts have a host; the others are owed until there is one."
    for name in ("operator", "region"):
        unnamed = [state.spec.label for state in states if not getattr(state.spec, name)]
        if unnamed and len(states) > 1:
            yield f"No {name} is set for {', '.join(unnamed)}; together they count as one."
    rooms = {state.spec.id: room_bytes(state) for state in states}
    for host in used:
        room = rooms[host.host]
        if room is not None and room < host.stored_bytes:
            yield f"{host.label} would get {host.stored_bytes / GIB:.1f} GiB and has room for {room / GIB:.1f} GiB."


def _survives(names: Mapping[HostId, str], chosen: Sequence[HostId], needed: int) -> int:
    """How many groups of the same name, the largest ones, may be lost while ``needed`` parts are left."""
    left = len(chosen)
    for survived, size in enumerate(sorted(Counter(names[host] for host in chosen).values(), reverse=True)):
        left -= size
        if left < needed:
            return survived
    return 0


def _counts(state: HostState) -> bool:
    """Whether what lies on the host counts as a copy."""
    return state.spec.state == "active" and not state.written_off


def _latency_class(state: HostState) -> int:
    return sum(state.latency_s >= limit for limit in LATENCY_CLASSES_S)


def _failing_class(state: HostState) -> int:
    return sum(state.failing >= limit for limit in FAILING_CLASSES)


def _preference(state: HostState, policy: Policy, pack: PackId) -> tuple[int, bool, float, int, float, HostId]:
    """Rule 4 as a sort key. The last number is the weighted rendezvous hash: -ln(u) / weight, u in (0, 1)."""
    room = room_bytes(state)
    tight = room is not None and room < AMPLE_PARTS * part_bytes(policy)
    u = (int.from_bytes(sha256(pack + state.spec.id).digest()[:6], "big") + 0.5) / (1 << 48)
    weight = UNKNOWN_ROOM_BYTES if room is None else max(room, 1)
    price, latency = state.spec.price_storage, _latency_class(state)
    return _failing_class(state), tight, price, latency, -log(u) / weight, state.spec.id


def _kept(by_id: Mapping[HostId, HostState], policy: Policy, have: Collection[Part]) -> dict[HostId, int]:
    """Host -> shard of the parts that can stay: the right kind, one a host, each shard once, healthy hosts first."""
    parts = [part for part in have if part.host in by_id and part.shard in policy.shards]
    parts = [part for part in parts if _counts(by_id[part.host])]
    kept: dict[HostId, int] = {}
    taken: set[int] = set()
    for host, shard in sorted(parts, key=lambda part: (not by_id[part.host].answers, part.shard, part.host)):
        if host not in kept and shard not in taken:
            kept[host] = shard
            if policy.k:
                taken.add(shard)
    return kept


def _is_best_spread(states: Sequence[HostState], policy: Policy, kept: Sequence[HostSpec]) -> bool:
    """Whether no choice among all active hosts, full and silent ones as well, is spread better."""
    active = sorted((s.spec.operator, s.spec.region) for s in states if _counts(s))
    return _unevenness([(spec.operator, spec.region) for spec in kept]) == _least(tuple(active), policy.places)


def _unevenness(domains: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Sums of squares of parts for each operator and for each region: least where they are many and even."""
    operators, regions = Counter(d[0] for d in domains), Counter(d[1] for d in domains)
    return sum(n * n for n in operators.values()), sum(n * n for n in regions.values())


@lru_cache(maxsize=64)
def _least(domains: tuple[tuple[str, str], ...], places: int) -> tuple[int, int]:
    chosen = _spread(domains, ((False, False),) * len(domains), places)
    return _unevenness([domains[i] for i in chosen])


def _spread(domains: Sequence[tuple[str, str]], costs: Sequence[tuple[bool, bool]], places: int) -> list[int]:
    """Which of the hosts, given in order of preference with (operator, region) and (is owed, is a move), take a part.

    Least by number of owed parts, unevenness of operators, of regions, moves, and the preferred hosts first. The five
    are digits of one integer cost, each wide enough never to carry into the next.
    """
    assert 0 < places <= PLACES_MAX
    move = 1 << (len(domains) + 1)  # above all preferences together: host i is worth a bit of its own
    region = move << 6  # above 32 moves
    operator = region << 11  # above the squares of 32 parts in one region
    owed = operator << 11
    flow = _Flow()
    for name, size in Counter(d[0] for d in domains).items():
        for n in range(min(size, places)):
            flow.arc("source", ("operator", name), (2 * n + 1) * operator)
    for i, (one, other) in enumerate(domains):
        is_owed, is_move = costs[i]
        worth = 1 << (len(domains) - i)
        flow.arc(("operator", one), ("region", other), is_owed * owed + is_move * move - worth, host=i)
    for name, size in Counter(d[1] for d in domains).items():
        for n in range(min(size, places)):
            flow.arc(("region", name), "sink", (2 * n + 1) * region)
    for _ in range(min(places, len(domains))):
        flow.push("source", "sink")
    return flow.hosts()


class _Flow:
    """Arcs of capacity one and a flow of least cost over them; each push adds a unit along the cheapest path
    (Bellman-Ford, as used arcs are open backwards at their negative cost)."""

    def __init__(self) -> None:
        self._arcs: list[tuple[object, object, int, int]] = []  # from, to, cost, host or -1
        self._used: list[bool] = []

    def arc(self, start: object, end: object, cost: int, host: int = -1) -> None:
        self._arcs.append((start, end, cost, host))
        self._used.append(False)

    def push(self, source: object, sink: object) -> None:
        """One unit more; there is always a path, because places never exceed hosts."""
        reach: dict[object, int] = {source: 0}
        by: dict[object, int] = {}
        changed = True
        while changed:
            changed = False
            for i, (start, end, cost, _) in enumerate(self._arcs):
                if self._used[i]:
                    start, end, cost = end, start, -cost
                if start in reach and (end not in reach or reach[start] + cost < reach[end]):
                    reach[end], by[end] = reach[start] + cost, i
                    changed = True
        node = sink
        while node != source:
            i = by[node]
            start, end = self._arcs[i][:2]
            node = end if self._used[i] else start
            self._used[i] = not self._used[i]

    def hosts(self) -> list[int]:
        return [host for (_, _, _, host), used in zip(self._arcs, self._used, strict=True) if used and host >= 0]
