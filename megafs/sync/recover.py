"""From the hosts back to an index: a new device's whole one, or the steps that an old local state lacks.

A Survey and an index in, rows out. Everything fetched is checked three times: sealed at its place, signed or pinned by
a digest, and chained to the commit before it. File content is not touched: a listing works as soon as this is done.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from secrets import randbelow

from megafs.crypto.keys import ident_commit, ident_part
from megafs.errors import Corrupt, RolledBack
from megafs.index import replication
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.ledger import KeptCheckpoint, KnownHead, KnownPart, Ledger
from megafs.index.packs import Packs
from megafs.index.replication import KEY_STOP, Range
from megafs.index.schema import REPLICATED, VERSION
from megafs.index.vault import Vault
from megafs.model import COUNTER_BITS, DeviceId, HostId, Kind, PackNumber
from megafs.sync import aside, stream
from megafs.sync.chain import WINDOW, Commit, chain, does_not_follow, read_commit, together
from megafs.sync.checkpoint import EPOCH as CHECKPOINT_EPOCH
from megafs.sync.objects import Objects
from megafs.sync.rowrules import check_rows
from megafs.sync.statements import (
    NOTHING,
    CheckpointList,
    ListedPart,
    PackFact,
    Signer,
    Step,
    Trust,
    unpacked,
)
from megafs.sync.stream import Position
from megafs.sync.survey import Survey, has_commit, newest_seq

NUMBER_STEP = 64  # new device numbers leave random gaps: two devices that attach at once should not meet
Progress = Callable[[int, int], None]  # done, of how many


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """How far an index was brought; owner: who brings it."""

    step: Step = NOTHING
    term: int = 0
    made_s: int = 0  # of that step
    parts: int = 0
    commits: int = 0
    rows: int = 0
    packs: dict[int, PackFact] = field(default_factory=dict)


async def rebuild(
    database: Database, objects: Objects, trust: Trust, survey: Survey, progress: Progress = lambda done, of: None
) -> Rebuilt:
    """Fill an empty index from the checkpoint and the commits after it. Where hosts have other commits under the same
    numbers, the newest ones say which count. Raises Unavailable, Corrupt, RolledBack; then the index is to be thrown
    away."""
    try:
        return await _fill(database, objects, trust, survey, progress, {})
    except RolledBack:
        steps = list(survey.after_checkpoint())
        if not steps:
            raise
        base = survey.checkpoint.step if survey.checkpoint is not None else NOTHING
        head = survey.head
        end = head.step if head is not None and head.step.seq == steps[-1][1] else None
        named = await chain(objects, trust, steps, base, end)
    _empty(database)
    return await _fill(database, objects, trust, survey, progress, named)


def _empty(database: Database) -> None:
    """What was applied may be of another history."""
    with database.unlogged() as connection:
        for table in REPLICATED:
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM outbox")
    database.commit(0)


async def _fill(
    database: Database,
    objects: Objects,
    trust: Trust,
    survey: Survey,
    progress: Progress,
    named: Mapping[tuple[int, int], bytes],
) -> Rebuilt:
    done = Rebuilt()
    steps = list(survey.after_checkpoint())
    parts = survey.checkpoint.parts if survey.checkpoint is not None else ()
    total = len(parts) + len(steps)
    ledger = Ledger(database.connection)

    def tell() -> None:
        progress(done.parts + done.commits, total)

    if survey.checkpoint is not None:
        await _apply_checkpoint(database, objects, survey.checkpoint, done, tell)
        ledger.replace_parts(known(part) for part in survey.checkpoint.parts)
    await apply_commits(database, objects, trust, steps, done, named, tell)
    if survey.head is not None and survey.head.step.seq == done.step.seq and survey.head.step != done.step:
        raise RolledBack("the newest head speaks of another history than the commits found")
    if done.step != NOTHING:
        seen = KnownHead(device=done.step.device, seq=done.step.seq, hash=done.step.hash, seen_s=done.made_s)
        ledger.set_head(seen)
    database.commit(0)
    return done


async def _apply_checkpoint(
    database: Database, objects: Objects, listed: CheckpointList, done: Rebuilt, tell: Callable[[], None]
) -> None:
    check_tiles(listed.parts)

    async def fetch(part: ListedPart) -> tuple[ListedPart, bytes]:
        def understand(sealed: bytes) -> bytes:
            if sha256(sealed).digest() != part.digest:
                raise Corrupt("part: not the one that the checkpoint lists")
            return unpacked(objects.keyring.open(Kind.PART, [ident_part(part.id)], sealed), part.changeset_bytes)

        return part, await objects.read(Kind.PART, ident_part(part.id), understand)

    for start in range(0, len(listed.parts), WINDOW):
        for part, changeset in await together(listed.parts[start : start + WINDOW], fetch):
            check_rows(database, changeset)
            with database.unlogged() as connection:
                replication.apply(connection, changeset, part.rows)
            database.commit(0)
            done.rows += part.rows
            done.parts += 1
            tell()
    done.step, done.term, done.made_s = listed.step, listed.term, listed.made_s
    done.packs.update({fact.number: fact for fact in listed.packs})


def check_tiles(parts: Iterable[ListedPart]) -> None:
    """Raises Corrupt unless the parts cover every replicated table exactly once."""
    reached = dict.fromkeys(REPLICATED, b"")
    for part in sorted(parts, key=lambda part: (part.table, part.low)):
        if reached.get(part.table) != part.low or part.high <= part.low:
            raise Corrupt(f"checkpoint: a gap or an overlap in {part.table}")
        reached[part.table] = part.high
    if any(high != KEY_STOP for high in reached.values()):
        raise Corrupt("checkpoint: a table is not whole")


def known(part: ListedPart) -> KnownPart:
    """A part of a checkpoint of ours or another device's, as the ledger keeps it."""
    return KnownPart(
        id=part.id,
        range=Range(table=part.table, low=part.low, high=part.high),
        digest=part.digest,
        bytes=part.bytes,
        rows=part.rows,
        changeset_bytes=part.changeset_bytes,
    )


async def apply_commits(
    database: Database,
    objects: Objects,
    trust: Trust,
    steps: Sequence[tuple[int, int]],
    done: Rebuilt,
    named: Mapping[tuple[int, int], bytes],
    tell: Callable[[], None] = lambda: None,
    note: Callable[[Commit], None] = lambda commit: None,
) -> None:
    """Apply these commits to an index that stands at ``done.step``, each chained to the one before. ``named``
    are the hashes known beforehand: of those, another commit of a host under the number is passed over. They are noted
    in the outbox as shipped, for the next checkpoint. ``note`` writes what is to be committed with each."""
    for start in range(0, len(steps), WINDOW):
        window = steps[start : start + WINDOW]
        for commit in await together(window, lambda step: read_commit(objects, trust, *step, named.get(step))):
            _apply_commit(database, commit, done, note)
            tell()


def _apply_commit(database: Database, commit: Commit, done: Rebuilt, note: Callable[[Commit], None]) -> None:
    header = commit.header
    if header.previous != done.step or header.term < done.term:
        raise does_not_follow(header)
    if header.schema != VERSION:
        raise Corrupt(f"commit: schema {header.schema}, this program reads {VERSION}")
    check_rows(database, commit.changeset)
    with database.unlogged() as connection:
        replication.apply(connection, commit.changeset, header.changes)
    Ledger(database.connection).log_applied(commit.changeset, header.seq)
    note(commit)
    database.commit(0)
    done.step, done.term, done.made_s = commit.step, header.term, header.made_s
    done.commits += 1
    done.rows += header.changes
    done.packs.update({fact.number: fact for fact in header.packs})


def next_number(database: Database, survey: Survey) -> int:
    """A number for a new device, above all known ones."""
    taken = [number for number, _, _, _ in Vault(database).devices()] + [f.claim.number for f in survey.claims]
    return max(taken, default=0) + 1 + randbelow(NUMBER_STEP)


def enrol(database: Database, signer: Signer, certificate: bytes, *, term: int, done: Rebuilt, survey: Survey) -> None:
    """Make the rebuilt index this device's own, once its claim has won: its row, its stream, and where packs lie that
    no copy row tells of yet. The caller commits."""
    claims = signer.certificate.claims
    Vault(database).add_device(claims.number, DeviceId(claims.device), claims.public_key, certificate)
    database.adopt(claims.number)
    checkpoint = survey.checkpoint.step if survey.checkpoint is not None else NOTHING
    stream.begin(database, claims.number, term=term, base=done.step, checkpoint=checkpoint)
    if survey.checkpoint is not None:  # whoever signs in an epoch has cut every part anew in it
        database.set_state(CHECKPOINT_EPOCH, b"%d" % survey.checkpoint.certificate.claims.epoch)
    note_hosts_contents(Ledger(database.connection), survey)
    write_facts(database, done.packs.values())
    Extents(database).suspect_unnamed()


def note_hosts_contents(ledger: Ledger, survey: Survey) -> None:
    """What lies on hosts because of former writers, so that the collector finds it once it is old."""
    for segment in survey.segments:
        ledger.set_stretch(segment.device, segment.first, segment.last)
    newer: CheckpointList | None = None
    for number, listed in enumerate([survey.checkpoint, *survey.older] if survey.checkpoint is not None else []):
        assert listed is not None
        parts = {part.id for part in newer.parts} if newer is not None else {part.id for part in listed.parts}
        ledger.put_checkpoint(
            KeptCheckpoint(
                upload=-number,  # before all of this device's own
                device=listed.step.device,
                seq=listed.step.seq,
                hash=listed.step.hash,
                made_s=listed.made_s,
                complete=True,
                retired=b"".join(part.id for part in listed.parts if part.id not in parts),
            )
        )
        newer = listed


def write_facts(database: Database, facts: Iterable[PackFact]) -> None:
    """Copy rows for packs whose rows were shipped before those of their copies."""
    packs = Packs(database)
    for fact in facts:
        if packs.get(PackNumber(fact.number)) is not None and not packs.copies(PackNumber(fact.number)):
            for copy in fact.copies:
                packs.add_copy(PackNumber(fact.number), HostId(copy.host), copy.shard, copy.root)


async def steps_ahead(objects: Objects, trust: Trust, position: Position, device: int) -> int:
    """How many commits of this very device the hosts have that it does not know: more than 0 means that the local
    state is older than the hosts (restored from a copy). Raises Unavailable if no host answers."""
    known = position.next_seq - 1
    if not await has_commit(objects, trust, device, known + 1):
        return 0
    return await newest_seq(objects, trust, device, known + 1) - known


async def steps_beyond(objects: Objects, trust: Trust, position: Position, device: int, confirmed: int) -> int:
    """The same for a state so old that the commit which follows it was collected: its own newest commit that a host had
    ``confirmed`` is not there either, since checkpoints of later ones stand for it. Raises Unavailable."""
    if confirmed and await objects.exists(Kind.COMMIT, ident_commit(device, confirmed)):
        return 0
    return max(0, await newest_seq(objects, trust, device) - (position.next_seq - 1))


async def fast_forward(
    database: Database, objects: Objects, trust: Trust, signer: Signer, ahead: int, folder: bytes
) -> list[PackNumber]:
    """Bring a local state that is ``ahead`` commits behind the hosts up to them. What it had committed and not shipped
    is noted by file, for ``folder`` (sync.aside), and undone first. Returns packs whose files are to be removed. Each
    commit moves the position along, so that a crash in between goes on from there. Nothing else runs meanwhile; the
    caller makes it durable and then starts anew."""
    position, device = stream.load(database), signer.device
    ledger, packs = Ledger(database.connection), Packs(database)
    steps = [(device, seq) for seq in range(position.next_seq, position.next_seq + ahead)]
    named = await chain(objects, trust, steps, position.previous, None)  # what is applied is not taken back
    _undo(database, position.next_seq, folder)
    gone = ledger.unshipped_packs()
    for number in gone:  # the hosts' packs may have these numbers and other bytes
        packs.delete_local(number)

    def note(commit: Commit) -> None:
        facts = [fact.number for fact in commit.header.packs if fact.number >> COUNTER_BITS == device]
        told = stream.load(database)
        stream.store(
            database,
            replace(
                told,
                term=commit.header.term,
                next_seq=commit.step.seq + 1,
                previous=commit.step,
                pack=max([told.pack, *facts]),
            ),
        )
        ledger.set_head(KnownHead(device=device, seq=commit.step.seq, hash=commit.step.hash, seen_s=0))

    done = Rebuilt(step=position.previous, term=position.term)
    await apply_commits(database, objects, trust, steps, done, named, note=note)
    database.adopt(device)
    write_facts(database, done.packs.values())
    Extents(database).suspect_unnamed()
    return gone


def _undo(database: Database, seq: int, folder: bytes) -> None:
    """What waits in the outbox, newest first."""
    ledger = Ledger(database.connection)
    waiting = ledger.waiting(ledger.newest_outbox())
    if waiting:
        changesets = ledger.changesets(waiting[0].n, waiting[-1].n)
        aside.note(database, list(aside.pieces(database, changesets, folder)))
    for row in reversed(waiting):
        (changeset,) = ledger.changesets(row.n, row.n)
        undo = replication.inverted(changeset)
        with database.unlogged() as connection:
            replication.apply(connection, undo, replication.count(connection, undo))
        ledger.mark_frozen(row.n, row.n, seq)
    ledger.forget_dropped(ledger.newest_outbox())
