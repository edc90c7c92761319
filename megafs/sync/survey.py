"""What is on the hosts: who wrote last, how far, and from which checkpoint the way there is shortest.

Claims, heads and checkpoint lists in, a Survey out. Nothing is applied and nothing is changed on a host. Knows nothing
of the local index, so it serves a new device as well as one that wonders whether its own state is old.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megafs.crypto.keys import Keyring, ident_checkpoint, ident_commit, ident_head
from megafs.crypto.phrase import Phrase
from megafs.errors import Corrupt, ObjectMissing, RolledBack, Unavailable
from megafs.index.schema import VERSION
from megafs.model import HostId, Kind
from megafs.sync import gallop
from megafs.sync.chain import read_commit
from megafs.sync.claims import FIRST_TERM, Claims, Found, winners
from megafs.sync.objects import Damage, Objects
from megafs.sync.statements import NOTHING, CheckpointList, Head, Step, Trust, parse_commit, unframed

FIRST_DEVICE = 1
HEADLESS = 16  # commits that may follow the newest head: frozen together while their hosts were away
CHECKPOINTS_BACK = 8  # damaged ones that are skipped before everything is read from the first commit on


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Commits ``first`` to ``last`` of one device; the first one follows ``base``."""

    device: int
    first: int
    last: int
    base: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """How to get to the newest state."""

    writer: int  # number of the device that may write
    term: int
    claims: tuple[Found, ...]
    newest: tuple[int, int]  # (device, seq) of the newest commit; (0, 0): none
    head: Head | None
    checkpoint: CheckpointList | None
    older: tuple[CheckpointList, ...]  # checkpoints before that one, the newest first: for the collector
    segments: tuple[Segment, ...]  # from the first commit of all to the newest
    silent: tuple[HostId, ...]  # hosts that did not answer
    damages: tuple[Damage, ...]

    def after_checkpoint(self) -> Iterator[tuple[int, int]]:
        """(device, seq) of the commits to apply on the checkpoint, in order. Raises RolledBack if the checkpoint is
        not on the way to the newest commit."""
        start = NOTHING if self.checkpoint is None else self.checkpoint.step
        found = start == NOTHING
        for segment in self.segments:
            for seq in range(segment.first, segment.last + 1):
                if found:
                    yield segment.device, seq
                found = found or (segment.device, seq) == (start.device, start.seq)
        if not found:
            raise RolledBack("the checkpoint found is not in the history of the newest commit")


async def survey(objects: Objects, trust: Trust) -> Survey:
    """Look at all hosts. Raises Unavailable if none answers, or if what should be there is on none that does."""
    answers = await Claims(objects, trust, None, lambda: 0.0).all()
    if not answers.said:
        raise Unavailable("no host answers")
    claims = winners(each for found in answers.said.values() for each in found)
    top = claims[-1] if claims else None
    writer = top.claim.number if top is not None else FIRST_DEVICE
    last = await newest_seq(objects, trust, writer)
    if not last and objects.damages:
        raise Unavailable("what lies on the hosts that answer does not open; one that is whole is needed")
    segments = history(claims, writer, last)
    head = await newest_head(objects, trust, segments)
    await name_forgetful(objects, head)
    checkpoint = await newest_checkpoint(objects, trust, head)
    end = segments[-1] if segments else None
    return Survey(
        writer=writer,
        term=top.claim.term if top is not None else FIRST_TERM,
        claims=tuple(claims),
        newest=(end.device, end.last) if end is not None else (0, 0),
        head=head,
        checkpoint=checkpoint,
        older=tuple(await older_checkpoints(objects, trust, checkpoint)),
        segments=tuple(segments),
        silent=tuple(answers.failed),
        damages=tuple(objects.damages),
    )


async def newest_seq(objects: Objects, trust: Trust, device: int, known: int = 0) -> int:
    """The newest commit of a device: by its heads, and what was put behind the newest head."""

    seq = await gallop.newest(lambda n: has_head(objects, trust, device, n), known)
    while await has_commit(objects, trust, device, seq + 1):
        seq += 1
    return seq


async def has_head(objects: Objects, trust: Trust, device: int, seq: int) -> bool:
    """Whether any host has this head. Raises Unavailable if none answers."""
    return await objects.proven(
        Kind.HEAD,
        ident_head(device, seq),
        lambda sealed: understood_head(objects.keyring, trust, sealed, device, seq),
    )


async def has_commit(objects: Objects, trust: Trust, device: int, seq: int) -> bool:
    """Whether any host has this commit. Raises Unavailable if none answers."""
    ident = ident_commit(device, seq)
    return await objects.proven(
        Kind.COMMIT, ident, lambda sealed: parse_commit(objects.keyring.open(Kind.COMMIT, [ident], sealed), trust)
    )


def history(claims: Sequence[Found], writer: int, last: int) -> list[Segment]:
    """Which commits of which devices count, in order. A commit of a former writer that its successor had not seen is
    in no segment."""
    by_number = {found.claim.number: found.claim for found in claims}
    segments: list[Segment] = []
    device = writer
    while device:
        claim = by_number.pop(device, None)
        if claim is None and device != FIRST_DEVICE:
            raise Unavailable("the claim of a device that wrote is on no host that answers")
        base = claim.base if claim is not None else NOTHING
        if last:
            segments.append(Segment(device=device, first=1, last=last, base=base))
        device, last = base.device, base.seq
    return segments[::-1]


async def newest_head(objects: Objects, trust: Trust, segments: Sequence[Segment]) -> Head | None:
    """The head of the newest commit that has one."""
    tries = 0
    for segment in reversed(segments):
        for seq in range(segment.last, 0, -1):
            try:
                return await read_head(objects, trust, segment.device, seq)
            except ObjectMissing:
                tries += 1
            if tries > HEADLESS:
                raise Unavailable("the newest heads are on no host that answers")
    return None


async def read_head(objects: Objects, trust: Trust, device: int, seq: int) -> Head:
    """A head, checked. Raises ObjectMissing or Unavailable."""
    return await objects.read(
        Kind.HEAD,
        ident_head(device, seq),
        lambda sealed: understood_head(objects.keyring, trust, sealed, device, seq),
    )


def understood_head(keyring: Keyring, trust: Trust, sealed: bytes, device: int, seq: int) -> Head:
    """What a host has under the name of this head. Raises Corrupt or Unauthentic."""
    head, _ = unframed(Head, keyring.open(Kind.HEAD, [ident_head(device, seq)], sealed), trust)
    if (head.step.device, head.step.seq) != (device, seq):
        raise Corrupt("head: speaks of another commit")
    return head


async def newest_checkpoint(objects: Objects, trust: Trust, head: Head | None) -> CheckpointList | None:
    """The newest checkpoint whose list is good; older heads tell of older ones."""
    for _ in range(CHECKPOINTS_BACK):
        if head is None or head.checkpoint == NOTHING:
            return None
        try:
            return await read_checkpoint(objects, trust, head.checkpoint)
        except (ObjectMissing, Unavailable):
            try:
                head = await read_head(objects, trust, head.checkpoint.device, head.checkpoint.seq)
            except ObjectMissing:
                return None
    return None


async def older_checkpoints(objects: Objects, trust: Trust, newer: CheckpointList | None) -> list[CheckpointList]:
    """The checkpoints that heads before this one's tell of, as far as they are still on hosts."""
    found: list[CheckpointList] = []
    while newer is not None and len(found) < CHECKPOINTS_BACK:
        try:
            head = await read_head(objects, trust, newer.step.device, newer.step.seq)
            if head.checkpoint in (NOTHING, newer.step):
                break
            newer = await read_checkpoint(objects, trust, head.checkpoint)
        except (ObjectMissing, Unavailable):
            break
        found.append(newer)
    return found


async def read_checkpoint(objects: Objects, trust: Trust, step: Step) -> CheckpointList:
    """A checkpoint list, checked. Raises ObjectMissing or Unavailable."""
    ident = ident_checkpoint(step.device, step.seq)

    def understand(sealed: bytes) -> CheckpointList:
        listed, _ = unframed(CheckpointList, objects.keyring.open(Kind.CHECKPOINT, [ident], sealed), trust)
        if listed.step != step:
            raise Corrupt("checkpoint: not of the commit that it was made for")
        return listed

    listed = await objects.read(Kind.CHECKPOINT, ident, understand)
    if listed.schema != VERSION:
        raise Unavailable(f"the vault has schema {listed.schema}, this program reads {VERSION}")
    return listed


async def name_forgetful(objects: Objects, head: Head | None) -> None:
    """Note as damage which hosts do not show what the newest head says that they had confirmed."""
    confirmed = {HostId(each.host): each.seq for each in head.hosts} if head is not None else {}
    device = head.step.device if head is not None else 0
    answers = await objects.everywhere(
        lambda host: objects.has(host, Kind.HEAD, ident_head(device, confirmed[host])), confirmed.keys() & objects.hosts
    )
    for host, has in answers.said.items():
        if not has:
            what = f"does not show commit {confirmed[host]} of device {device}, which it had confirmed"
            objects.damages.append(Damage(host=host, kind=Kind.HEAD, what=what))


async def check_expected(objects: Objects, trust: Trust, found: Survey, expected: Phrase) -> None:
    """Raises RolledBack unless the history found holds the commit that the phrase was made of. One that is too old to
    be on hosts is taken for right: later commits of the same device stand on it."""
    last = {segment.device: segment.last for segment in found.segments}.get(expected.device, 0)
    if expected.seq > last:
        raise RolledBack(
            f"the phrase is of commit {expected.seq} of device {expected.device}, and the hosts that answer show "
            f"nothing after commit {last}: they serve an old state, or the newest is on a host that was not named"
        )
    step = await step_of(objects, trust, expected.device, expected.seq)
    if step is not None and Phrase.of(trust.vault, step.device, step.seq, step.hash) != expected:
        raise RolledBack(
            f"the phrase and the hosts disagree on commit {expected.seq} of device {expected.device}, which has the "
            f"hash {step.hash.hex()} there: the phrase is misspelled or of another vault, or there are two histories"
        )


async def step_of(objects: Objects, trust: Trust, device: int, seq: int) -> Step | None:
    """A commit by its head, or by itself; None once both are collected. Raises Unavailable."""
    try:
        return (await read_head(objects, trust, device, seq)).step
    except ObjectMissing:
        pass
    try:
        return (await read_commit(objects, trust, device, seq)).step
    except ObjectMissing:
        return None
