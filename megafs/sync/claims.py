"""Which device writes: signed claims on every host; the greatest (term, device id) wins, all others stop.

A device looks before each upload of a commit (on the host it uploads to) and, on a majority of hosts within the last
minute, before anything is deleted. Claims lie under (term, slot): a claimer takes the first free slot, reads back, and
moves to the next one if another claim is there; so two that claim at once see each other. Claims are never deleted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from megafs.crypto.identity import EpochClaims
from megafs.crypto.keys import ident_claim
from megafs.errors import Corrupt, ObjectMissing, ReadOnly, Unauthentic, Unavailable
from megafs.model import DeviceId, HostId, Kind
from megafs.sync import epochs
from megafs.sync.objects import Answers, Objects
from megafs.sync.statements import Claim, Signer, Step, Trust, framed, parse_commit, unframed

SLOTS = 16  # claims on one term; more devices never claim at once
TERMS_AHEAD = 3  # terms that may be unknown to a host that was away while they were claimed
FRESH_S = 60.0  # how old the look at a majority may be when something is deleted
FIRST_TERM = 1  # of the creating device, which claims nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """By what right a device writes."""

    term: int
    device: DeviceId

    @property
    def rank(self) -> tuple[int, bytes]:
        return self.term, self.device


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A claim as it lies on a host."""

    claim: Claim
    slot: int
    sealed: bytes

    @property
    def standing(self) -> Standing:
        return Standing(term=self.claim.term, device=DeviceId(self.claim.certificate.claims.device))


def winner(found: Iterable[Found]) -> Found | None:
    """The claim that counts."""
    return max(found, key=lambda each: each.standing.rank, default=None)


def winners(found: Iterable[Found]) -> list[Found]:
    """The claim that counts of each term, the oldest first."""
    by_term: dict[int, Found] = {}
    for each in sorted(found, key=lambda each: each.standing.rank):
        by_term[each.claim.term] = each
    return list(by_term.values())


def is_majority(answered: int, hosts: int) -> bool:
    """More than half; of two hosts, both."""
    return answered * 2 > hosts


class Claims:
    """Owner of this device's standing, of whether it was lost, and of when a majority was last asked."""

    def __init__(self, objects: Objects, trust: Trust, standing: Standing | None, clock: Callable[[], float]) -> None:
        """``standing`` None: the device is only about to claim."""
        self._objects, self._trust, self._clock = objects, trust, clock
        self.standing = standing
        self.lost_to: Found | None = None
        self.newer: EpochClaims | None = None  # an epoch that this device has no secret of
        self._mine: Found | None = None
        self._majority_s = float("-inf")

    @property
    def is_lost(self) -> bool:
        """Whether this device may write no more."""
        return self.lost_to is not None or self.newer is not None

    @property
    def read_only_reason(self) -> str:
        """Why this device may not write; empty while it may."""
        if self.newer is not None and self.standing is not None:
            return epochs.told(self.newer, self.standing.device)
        if self.lost_to is None:
            return ""
        if self.standing is not None and self.lost_to.standing == self.standing:
            return "the state of this device exists twice and the other copy has written; attach the vault here anew"
        number = self.lost_to.claim.number
        return f"device {number} took the vault over; what was not shipped is kept here: copy it from this mount"

    def check_writable(self) -> None:
        """Raises ReadOnly once another device has won, or went on without this one."""
        if self.is_lost:
            raise ReadOnly(self.read_only_reason)

    async def look_on(self, host: HostId) -> None:
        """Look for a better claim on one host. Raises HostError, or ReadOnly if there is one."""
        assert self.standing is not None
        await self._scan_host(host, self.standing.term, self.standing.term + TERMS_AHEAD, self._note)
        await self._scan_epoch(host)
        self.check_writable()

    async def look_for_twin(self, host: HostId, ident: bytes, body: bytes) -> None:
        """Before a commit is put: nothing else of ours may lie under its name. A state directory that was copied and
        mounted twice writes the same numbers. Raises HostError, or ReadOnly if there is another one."""
        try:
            there = await self._objects.get(host, Kind.COMMIT, ident)
        except ObjectMissing:
            return
        if there == body:
            return  # put before a crash
        try:
            header, _ = parse_commit(self._objects.keyring.open(Kind.COMMIT, [ident], there), self._trust)
        except (Corrupt, Unauthentic):
            return  # damage, no reason to stop
        twin = Claim(
            term=header.term,
            number=header.device,
            base=header.previous,
            made_s=header.made_s,
            certificate=header.certificate,
        )
        self.lost_to = Found(claim=twin, slot=0, sealed=b"")
        self.check_writable()

    async def look(self) -> int:
        """Look on all hosts; how many answered. Raises ReadOnly if there is a better claim."""
        assert self.standing is not None
        term = self.standing.term

        async def one(host: HostId) -> None:
            there: list[Found] = []
            await self._scan_host(host, term, term + TERMS_AHEAD, there.append)
            for each in there:
                self._note(each)
            await self._scan_epoch(host)
            # Another device that claimed in the same second may have overwritten ours: it must see ours to give way.
            if self._mine is not None and self._mine.claim not in {each.claim for each in there}:
                await self._place(host, self._mine)

        began_s = self._clock()  # an answer may be as old as its question
        answers = await self._objects.everywhere(one)
        if is_majority(len(answers.said), len(self._objects.hosts)):
            self._majority_s = began_s
        self.check_writable()
        return len(answers.said)

    async def may_delete(self) -> bool:
        """Whether a majority said within the last minute that this device is the writing one: no answer, no delete."""
        if not self.is_lost and self._clock() - self._majority_s > FRESH_S:
            try:
                await self.look()
            except ReadOnly:
                return False
        return not self.is_lost and self._clock() - self._majority_s <= FRESH_S

    async def all(self) -> Answers[list[Found]]:
        """Every claim there is, by host."""

        async def one(host: HostId) -> list[Found]:
            found: list[Found] = []
            term = last = FIRST_TERM
            while term <= last + TERMS_AHEAD:
                before = len(found)
                await self._scan_host(host, term, term, found.append)
                last = term if len(found) > before else last
                term += 1
            return found

        return await self._objects.everywhere(one)

    async def claim(self, signer: Signer, base: Step, made_s: int, *, least: int | None = None) -> Found:
        """Claim the next term for the device of ``signer``, going on from ``base``; returns once a majority (or
        ``least`` hosts) has the claim and it has been read back. Claims that some hosts lack are put there too, so
        that no term has a gap.
        Raises Unavailable, or ReadOnly if another device claimed the same term at the same time and wins."""
        answers = await self.all()
        known = {each.claim: each for found in answers.said.values() for each in found}
        top = max((each.claim.term for each in known.values()), default=FIRST_TERM)
        claim = Claim(term=top + 1, number=signer.device, base=base, made_s=made_s, certificate=signer.certificate)
        body = framed(signer, claim)
        self.standing = Standing(term=claim.term, device=DeviceId(signer.certificate.claims.device))

        sealed = self._objects.keyring.seal(Kind.CLAIM, [ident_claim(claim.term, 0)], body)
        self._mine = Found(claim=claim, slot=0, sealed=sealed)

        async def one(host: HostId) -> Found:
            for each in known.values():
                if each.claim not in {there.claim for there in answers.said.get(host, ())}:
                    await self._place(host, each)
            assert self._mine is not None
            return await self._place(host, self._mine)

        placed = await self._objects.everywhere(one)
        count = len(placed.said)
        if not (is_majority(count, len(self._objects.hosts)) if least is None else count >= least):
            raise Unavailable(f"only {len(placed.said)} of {len(self._objects.hosts)} hosts took the claim")
        await self.look()
        return next(iter(placed.said.values()))

    async def spread(self, host: HostId) -> int:
        """Put every claim that other hosts have on this one, too; how many it lacked. Raises HostError or
        Unavailable."""
        answers = await self.all()
        if host in answers.failed:
            raise answers.failed[host]
        there = {each.claim for each in answers.said.get(host, ())}
        known = {each.claim: each for found in answers.said.values() for each in found}
        lacking = [found for claim, found in sorted(known.items(), key=lambda item: item[0].term) if claim not in there]
        for found in lacking:
            await self._place(host, found)
        return len(lacking)

    async def _place(self, host: HostId, mine: Found) -> Found:
        """Put a claim into the first slot of its term that is free on this host, and read it back."""
        for slot in range(SLOTS):
            ident = ident_claim(mine.claim.term, slot)
            if not await self._objects.has(host, Kind.CLAIM, ident):
                placed = mine
                if slot != mine.slot:
                    sealed = self._objects.keyring.seal(Kind.CLAIM, [ident], self._body(mine))
                    placed = replace(mine, slot=slot, sealed=sealed)
                await self._objects.put(host, Kind.CLAIM, ident, placed.sealed)
            there = self._understood(mine.claim.term, slot, await self._objects.get(host, Kind.CLAIM, ident))
            if there is not None and there.claim == mine.claim:
                return there
        raise Unavailable("all claim slots of this term are taken")

    def _body(self, found: Found) -> bytes:
        return self._objects.keyring.open(Kind.CLAIM, [ident_claim(found.claim.term, found.slot)], found.sealed)

    def _understood(self, term: int, slot: int, sealed: bytes) -> Found | None:
        """None for what is not a claim of an enrolled device: it is no reason to stop."""
        try:
            body = self._objects.keyring.open(Kind.CLAIM, [ident_claim(term, slot)], sealed)
            claim, _ = unframed(Claim, body, self._trust)
        except (Corrupt, Unauthentic):
            return None
        return Found(claim=claim, slot=slot, sealed=sealed) if claim.term == term else None

    async def _scan_host(self, host: HostId, first: int, last: int, tell: Callable[[Found], None]) -> None:
        for term in range(first, last + 1):
            for slot in range(SLOTS):
                try:
                    sealed = await self._objects.get(host, Kind.CLAIM, ident_claim(term, slot))
                except ObjectMissing:
                    break
                found = self._understood(term, slot, sealed)
                if found is not None:
                    tell(found)

    async def _scan_epoch(self, host: HostId) -> None:
        found = await epochs.look_on(self._objects, self._trust, host)
        self.newer = found or self.newer  # other hosts answer meanwhile

    def _note(self, found: Found) -> None:
        assert self.standing is not None
        best: Sequence[Found] = [found] if self.lost_to is None else [found, self.lost_to]
        top = winner(best)
        if top is not None and top.standing.rank > self.standing.rank:
            self.lost_to = top
