"""The whole index as objects: parts of touched key ranges sealed anew, and a list of all parts as of one commit.

One read snapshot, in a thread, gives the parts; the shipper is asked to end a commit object exactly where the snapshot
stands, so that a new device goes on with the next one. Parts are frozen as upload rows while they are cut; the list is
frozen once its commit has shipped. What a crash left unfinished is expired and begun anew.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from os import urandom

import trio

from megafs.crypto.keys import FIRST_EPOCH, Keyring, ident_checkpoint, ident_part
from megafs.errors import MegaFSError
from megafs.index.database import Database
from megafs.index.ledger import KeptCheckpoint, KnownPart, Ledger
from megafs.index.packs import Packs
from megafs.index.replication import CutPart, Range, parts, touched, whole
from megafs.index.schema import REPLICATED, VERSION
from megafs.index.vault import Vault
from megafs.model import HostId, Kind
from megafs.sync import pace
from megafs.sync.packing import Landscape
from megafs.sync.ship import Commits, Shipper
from megafs.sync.statements import CheckpointList, ListedPart, Step, framed, packed, padded
from megafs.sync.stream import Stream, facts

log = logging.getLogger(__name__)

EPOCH = (
    "checkpoint_epoch"  # key of the state table: every part of the newest checkpoint is of this epoch or a later one
)
COVERED = "checkpointed_n"  # key of the state table: outbox rows up to this one are in the newest checkpoint
NEWEST = "checkpoint_seq"  # key of the setting table
LOOK_EVERY_S = 30.0


@dataclass(slots=True, kw_only=True)
class Cut:
    """A snapshot on its way to a checkpoint; owner: Checkpointer.make."""

    n: int = 0  # the outbox row it stands on
    step: Step | None = None  # of the commit object that ends there, once it is known
    made_s: int = 0
    fresh: list[KnownPart] = field(default_factory=list)
    kept: list[KnownPart] = field(default_factory=list)
    lost: list[KnownPart] = field(default_factory=list)  # replaced by fresh ones
    unplaced: list[int] = field(default_factory=list)  # packs without copy rows in the snapshot


def stale(known: Sequence[KnownPart], keys: Iterable[tuple[str, bytes]]) -> tuple[list[KnownPart], list[Range]]:
    """(parts still good, ranges to cut anew) after rows with these keys changed. Touched neighbours become one range,
    so small parts do not pile up. Pure."""
    by_table: dict[str, list[KnownPart]] = {table: [] for table in REPLICATED}
    for part in known:
        by_table[part.range.table].append(part)
    lows = {table: [part.range.low for part in found] for table, found in by_table.items()}
    hit = {(table, bisect_right(lows[table], key) - 1) for table, key in keys if lows[table]}
    good: list[KnownPart] = []
    ranges: list[Range] = []
    for table, found in by_table.items():
        if not found:
            ranges.append(whole(table))
        for number, part in enumerate(found):
            if (table, number) not in hit:
                good.append(part)
            elif (table, number - 1) in hit:
                ranges[-1] = replace(ranges[-1], high=part.range.high)
            else:
                ranges.append(part.range)
    return good, ranges


class Checkpointer:
    """Owner of the checkpoint in the making."""

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        stream: Stream,
        shipper: Shipper,
        commits: Commits,
        landscape: Landscape,
        clock: Callable[[], float],
    ) -> None:
        self._database, self._keyring, self._stream = database, keyring, stream
        self._shipper, self._commits, self._landscape, self._clock = shipper, commits, landscape, clock
        self._ledger, self._packs = Ledger(database.connection), Packs(database)
        self._cut: Cut | None = None
        self._expire_leftovers()

    def _expire_leftovers(self) -> None:
        """Parts that were frozen for a list that never was."""
        listed = {part.id for part in self._ledger.known_parts()}
        for n, kind, ident in self._ledger.uploads():
            if kind is Kind.PART and ident not in listed:
                self._ledger.forget_upload(n)
                self._ledger.expire(kind, ident, self._hosts())

    def _hosts(self) -> list[HostId]:
        return [state.spec.id for state in self._landscape.states() if state.spec.state != "gone"]

    @property
    def covered_n(self) -> int:
        """The outbox row that the newest checkpoint stands on; 0 for none."""
        return int(self._database.state(COVERED) or 0)

    def is_due(self) -> bool:
        """Whether it is time for a new one."""
        if self.is_pending():
            return False
        if self.is_of_former_epoch:
            return True
        commits, size = self._ledger.since(self.covered_n)
        known = sum(part.bytes for part in self._ledger.known_parts())
        return pace.checkpoint_due(commits=commits, changeset_bytes=size, checkpoint_bytes=known)

    @property
    def is_of_former_epoch(self) -> bool:
        """Whether the newest checkpoint may have parts that a revoked device can read: then all are cut anew."""
        return int(self._database.state(EPOCH) or FIRST_EPOCH) < self._keyring.epoch

    def is_pending(self) -> bool:
        """Whether one is being made or is not yet on enough hosts."""
        return self._cut is not None or any(not kept.complete for kept in self._ledger.kept_checkpoints())

    async def run(self) -> None:
        """Make checkpoints when they are due, until cancelled. Rests while nothing changes."""
        moves = self._shipper.moves
        while True:
            seen = moves.count
            try:
                self.note_complete()
                if not self._shipper.claims.is_lost and self.is_due():
                    await self.make()
            except MegaFSError as error:  # the local disk refuses: the old checkpoint is still good
                log.warning("no checkpoint now: %s", error)
                self._expire_leftovers()
                seen = -1
            await trio.sleep(LOOK_EVERY_S)
            await moves.beyond(seen)

    def note_complete(self) -> None:
        """See whether the pending checkpoint has reached enough hosts: then heads name it."""
        enough = self._shipper.enough()
        for kept in self._ledger.kept_checkpoints():
            if not kept.complete and not self._ledger.unacknowledged(kept.upload, enough):
                self._ledger.put_checkpoint(replace(kept, complete=True))
                self._stream.set_checkpoint(Step(device=kept.device, seq=kept.seq, hash=kept.hash))
                if not self._ledger.unacknowledged(kept.upload, self._landscape.enough()):
                    self._drop_bodies(kept.upload)
                # A change, so that a commit and with it a head follows that tells of the checkpoint.
                Vault(self._database).set_setting(NEWEST, b"%d" % kept.seq)

    def _drop_bodies(self, last: int) -> None:
        """Parts on enough hosts need no copy here while another host stays away: it gets them from the others."""
        for n, kind, _ in self._ledger.uploads():
            if kind is Kind.PART and n <= last:
                self._ledger.empty_upload(n)

    async def make(self) -> bool:
        """Make one now and hand it to the lanes; False if nothing has changed since the last. Waits until the commit
        it stands on is frozen, which takes as long as too few hosts answer."""
        assert not self.is_pending(), "one at a time"
        cut = self._cut = Cut(made_s=int(self._clock()))
        try:
            self._shipper.held = True
            await self._commits.durable_now()
            if self._ledger.newest_outbox() <= self.covered_n:
                return False
            before = self._ledger.known_parts()
            await trio.to_thread.run_sync(self._take, cut, before, self.covered_n, self.is_of_former_epoch)
            step = await self._step_of(cut)
            self._freeze_list(cut, step)
        finally:
            self._cut = None
            self._shipper.held = False
            self._shipper.boundary = 0
            self._shipper.wake()
        await self._shipper.ship_frozen()
        log.info(
            "checkpoint as of commit %d: %d parts, %d of them new", step.seq, len(cut.kept + cut.fresh), len(cut.fresh)
        )
        return True

    def _take(self, cut: Cut, before: list[KnownPart], covered_n: int, everything: bool) -> None:
        """Thread. Cut and seal what is touched, or everything, in one snapshot."""
        with self._database.snapshot() as connection:
            cut.n = Ledger(connection).newest_outbox()
            trio.from_thread.run_sync(self._set_boundary, cut)
            if everything:
                ranges = [whole(table) for table in REPLICATED]
            else:
                cut.kept, ranges = stale(before, touched(Ledger(connection).changesets(covered_n + 1, cut.n)))
            good = {part.id for part in cut.kept}
            cut.lost = [part for part in before if part.id not in good]
            cut.unplaced = Ledger(connection).packs_without_copy()
            for wanted in ranges:
                for piece in parts(connection, wanted):
                    known, sealed = self._sealed(piece)
                    trio.from_thread.run_sync(self._freeze_part, cut, known, sealed)

    def _set_boundary(self, cut: Cut) -> None:
        """The snapshot stands: commits after it may ship, but in objects of their own."""
        self._shipper.boundary_step = None
        if self._ledger.is_frozen(cut.n):
            cut.step = self._stream.position.previous
        else:
            self._shipper.boundary = cut.n
        self._shipper.held = False
        self._shipper.wake()

    def _sealed(self, piece: CutPart) -> tuple[KnownPart, bytes]:
        ident = urandom(16)
        coarse = self._stream.coarse
        body = padded(packed(piece.changeset, coarse=coarse), 0, coarse=coarse)
        sealed = self._keyring.seal(Kind.PART, [ident_part(ident)], body)
        known = KnownPart(
            id=ident,
            range=piece.range,
            digest=sha256(sealed).digest(),
            bytes=len(sealed),
            rows=piece.rows,
            changeset_bytes=len(piece.changeset),
        )
        return known, sealed

    def _freeze_part(self, cut: Cut, known: KnownPart, sealed: bytes) -> None:
        cut.fresh.append(known)
        self._ledger.add_upload(Kind.PART, ident_part(known.id), sealed)

    async def _step_of(self, cut: Cut) -> Step:
        while cut.step is None and self._shipper.boundary_step is None:
            await self._shipper.moves.beyond(self._shipper.moves.count)
        step = cut.step or self._shipper.boundary_step
        assert step is not None
        return step

    def _freeze_list(self, cut: Cut, step: Step) -> None:
        """The list, and with it everything that the next checkpoint goes by, in one transaction."""
        kept = sorted(cut.kept + cut.fresh, key=lambda part: (part.range.table, part.range.low))
        listed = CheckpointList(
            schema=VERSION,
            step=step,
            term=self._stream.position.term,
            made_s=cut.made_s,
            parts=tuple(listed_part(part) for part in kept),
            packs=facts(self._packs, cut.unplaced),
            certificate=self._stream.signer.certificate,
        )
        ident = ident_checkpoint(step.device, step.seq)
        sealed = self._keyring.seal(Kind.CHECKPOINT, [ident], framed(self._stream.signer, listed))
        upload = self._ledger.add_upload(Kind.CHECKPOINT, ident, sealed)
        previous = self._ledger.kept_checkpoints()
        if previous:
            retired = b"".join(part.id for part in cut.lost)
            self._ledger.put_checkpoint(replace(previous[-1], retired=retired))
        self._ledger.put_checkpoint(
            KeptCheckpoint(
                upload=upload,
                device=step.device,
                seq=step.seq,
                hash=step.hash,
                made_s=cut.made_s,
                complete=False,
                retired=b"",
            )
        )
        self._ledger.replace_parts(kept)
        self._ledger.forget_outbox(cut.n)
        self._database.set_state(COVERED, b"%d" % cut.n)
        self._database.set_state(EPOCH, b"%d" % self._keyring.epoch)


def listed_part(part: KnownPart) -> ListedPart:
    """A part as the list names it."""
    return ListedPart(
        id=part.id,
        table=part.range.table,
        low=part.range.low,
        high=part.range.high,
        digest=part.digest,
        bytes=part.bytes,
        rows=part.rows,
        changeset_bytes=part.changeset_bytes,
    )
