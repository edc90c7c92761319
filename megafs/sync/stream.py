"""This device's own stream of commits: what is frozen next, byte for byte, before anything of it leaves the device.

Outbox rows in, upload rows out; plain ``def`` on the index, so a commit object, its outbox range and the next sequence
number change together or not at all. Nothing here talks to a host: sync.ship puts what is frozen, and only after the
commit that holds it is durable, so that a crash repeats the same bytes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256

from megafs.canonical import encode, parse
from megafs.crypto.keys import Keyring, ident_commit, ident_head
from megafs.index.alarms import Alarms
from megafs.index.database import Database
from megafs.index.ledger import KnownHead, Ledger
from megafs.index.packs import Packs
from megafs.index.replication import joined
from megafs.index.schema import VERSION
from megafs.model import COUNTER_BITS, Kind, PackNumber
from megafs.sync.pace import Batch
from megafs.sync.statements import (
    FRAME,
    NOTHING,
    Acknowledged,
    CommitHeader,
    CopyFact,
    Head,
    PackFact,
    Signer,
    Step,
    commit_body,
    framed,
    packed,
    padded,
    step_hash,
)

STATE = "stream"  # key of the state table


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far the stream is; kept in the state table, changed only by ``freeze``."""

    term: int
    next_seq: int
    previous: Step  # of the commit that is frozen next
    pack: int  # packs up to this number are described by commits
    checkpoint: Step  # the newest complete one
    told: Step  # the one that the newest head names
    told_seq: int  # of that head


def load(database: Database) -> Position:
    """The position; a device without one is broken, so this asserts."""
    stored = database.state(STATE)
    assert stored is not None, "a device has a stream from its creation on"
    return parse(Position, stored)


def store(database: Database, position: Position) -> None:
    """Keep it; durable with the next commit."""
    database.set_state(STATE, encode(position))


def begin(database: Database, device: int, *, term: int, base: Step = NOTHING, checkpoint: Step = NOTHING) -> None:
    """A new device's stream, going on from ``base``."""
    pack = device << COUNTER_BITS  # below the first pack of the device
    Ledger(database.connection).set_stretch(device, 1, 0)
    store(
        database,
        Position(term=term, next_seq=1, previous=base, pack=pack, checkpoint=checkpoint, told=checkpoint, told_seq=0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a commit object will hold, before the costly part."""

    batch: Batch
    position: Position
    packs: tuple[PackFact, ...]
    changesets: tuple[bytes, ...]
    made_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A commit object, sealed."""

    step: Step
    sealed: bytes
    draft: Draft


def facts(packs: Packs, numbers: Iterable[int]) -> tuple[PackFact, ...]:
    """Where these packs lie, for those of which it is known."""
    found = []
    for number in numbers:
        copies = packs.copies(PackNumber(number))
        if copies:
            told = tuple(CopyFact(host=host, shard=shard, root=root) for host, shard, root in copies)
            found.append(PackFact(number=number, copies=told))
    return tuple(found)


class Stream:
    """Owner of the position."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        signer: Signer,
        clock: Callable[[], float],
        *,
        coarse: bool = False,
    ) -> None:
        """``coarse``: sizes of objects tell hosts still less (packs.sizes)."""
        self.coarse = coarse
        self._database, self._keyring, self.signer, self._clock = database, keyring, signer, clock
        self._ledger, self._packs = Ledger(database.connection), Packs(database)
        self._alarms = Alarms(database.connection)

    @property
    def epoch(self) -> int:
        """The newest one of this device."""
        return self._keyring.epoch

    @property
    def position(self) -> Position:
        return load(self._database)

    def draft(self, batch: Batch) -> Draft:
        """Everything that ``seal`` needs, read in one go."""
        position = self.position
        numbers = self._ledger.packs_between(position.pack, batch.pack)
        return Draft(
            batch=batch,
            position=position,
            packs=facts(self._packs, numbers),
            changesets=tuple(self._ledger.changesets(batch.first, batch.last)),
            made_s=int(self._clock()),
        )

    def seal(self, draft: Draft) -> Frozen:
        """Thread. Join, compress, sign and seal; touches nothing shared."""
        changeset, changes = joined(draft.changesets)
        position, certificate = draft.position, self.signer.certificate
        device, seq = self.signer.device, position.next_seq
        header = CommitHeader(
            schema=VERSION,
            device=device,
            seq=seq,
            previous=position.previous,
            term=position.term,
            first=draft.batch.first,
            last=draft.batch.last,
            made_s=draft.made_s,
            changes=changes,
            changeset_bytes=len(changeset),
            digest=bytes(32),
            packs=draft.packs,
            certificate=certificate,
        )
        # The statement's length depends on counts that hosts need not know: it is padded together with the rest.
        beside = FRAME.size + len(encode(header))
        rest = padded(packed(changeset, coarse=self.coarse), beside, coarse=self.coarse)
        header = replace(header, digest=sha256(rest).digest())
        body = commit_body(self.signer, header, rest)
        sealed = self._keyring.seal(Kind.COMMIT, [ident_commit(device, seq)], body)
        return Frozen(step=Step(device=device, seq=seq, hash=step_hash(sealed)), sealed=sealed, draft=draft)

    def freeze(self, frozen: Frozen) -> int:
        """Write the commit object, its outbox range and the next position; returns the upload number. Nothing may be
        put before the index commit that follows is durable."""
        draft, step = frozen.draft, frozen.step
        assert self.position == draft.position, "only one task freezes"
        self._ledger.mark_frozen(draft.batch.first, draft.batch.last, step.seq)
        self._ledger.forget_dropped(draft.batch.last)
        upload = self._ledger.add_upload(Kind.COMMIT, ident_commit(step.device, step.seq), frozen.sealed)
        told = max(draft.position.pack, draft.batch.pack)
        store(self._database, replace(draft.position, next_seq=step.seq + 1, previous=step, pack=told))
        self._ledger.set_head(KnownHead(device=step.device, seq=step.seq, hash=step.hash, seen_s=int(self._clock())))
        return upload

    def freeze_head(self, step: Step) -> int:
        """The head of a commit that is on enough hosts; returns the upload number."""
        position = self.position
        seen = tuple(
            Step(device=head.device, seq=head.seq, hash=head.hash)
            for head in self._ledger.heads()
            if head.device != step.device
        )
        head = Head(
            step=step,
            term=position.term,
            made_s=int(self._clock()),
            checkpoint=position.checkpoint,
            seen=seen,
            certificate=self.signer.certificate,
            hosts=tuple(
                Acknowledged(host=witness.host, seq=witness.seq)
                for witness in self._alarms.witnesses()
                if witness.device == step.device
            ),
        )
        ident = ident_head(step.device, step.seq)
        sealed = self._keyring.seal(Kind.HEAD, [ident], framed(self.signer, head))
        store(self._database, replace(position, told=position.checkpoint, told_seq=step.seq))
        return self._ledger.add_upload(Kind.HEAD, ident, sealed)

    def set_checkpoint(self, step: Step) -> None:
        """The checkpoint as of ``step`` is complete on enough hosts: heads name it from now on."""
        store(self._database, replace(self.position, checkpoint=step))
