"""When something leaves this device: which commits become an object, when a checkpoint is due. Pure.

Rows and times in, a decision out; sync.ship carries it out. No clock is read here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from megafs.config import MIB
from megafs.index.ledger import OutboxRow
from megafs.model import PackNumber

COMMIT_AGE_S = 10.0  # a commit waits this long for others, so that a busy device ships one object in ten seconds
COMMITS_PER_CHECKPOINT = 256  # an attach fetches at most this many objects one after another
CHANGESETS_PER_CHECKPOINT_BYTES = 64 * MIB
CHANGESETS_PER_OBJECT_BYTES = 4 * MIB  # small enough for a slow line; joining takes five times that in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Outbox rows ``first`` to ``last``, which may become one commit object now."""

    first: int
    last: int
    pack: PackNumber
    oldest_s: float


def batch(
    waiting: Sequence[OutboxRow],
    unshipped: PackNumber | None,
    dropped: Sequence[tuple[PackNumber, int]],
    boundary: int,
) -> Batch | None:
    """The longest run of waiting rows that may ship now, or None.

    Only rows all of whose packs are on enough hosts (below ``unshipped``). A run that names a dropped pack reaches the
    row as of which that pack is dead, or ends before the pack is named. No run crosses ``boundary``, the row that a
    checkpoint in the making stands on (0: none).
    """
    run = [row for row in waiting if unshipped is None or row.pack < unshipped]
    if boundary and run and run[0].n <= boundary:
        run = [row for row in run if row.n <= boundary]
    run = _not_through_a_death(_not_too_large(run, dropped), dropped)
    if not run:
        return None
    oldest_s = min(row.made_s for row in run)
    return Batch(first=run[0].n, last=run[-1].n, pack=run[-1].pack, oldest_s=oldest_s)


def _not_too_large(run: list[OutboxRow], dropped: Sequence[tuple[PackNumber, int]]) -> list[OutboxRow]:
    total = 0
    for count, row in enumerate(run):
        total += row.bytes
        if total > CHANGESETS_PER_OBJECT_BYTES and count and not dropped:
            return run[:count]
    return run


def _not_through_a_death(run: list[OutboxRow], dropped: Sequence[tuple[PackNumber, int]]) -> list[OutboxRow]:
    for pack, dead_n in sorted(dropped, reverse=True):
        if run and run[-1].n < dead_n:
            run = [row for row in run if row.pack < pack]
    return run


def freeze_in(found: Batch, *, urgent: bool, now_s: float) -> float:
    """For how many seconds a batch still waits before it becomes a commit object. Rows from a time to come were made
    before the clock was set back: nothing waits for that time."""
    age_s = now_s - found.oldest_s
    return 0.0 if urgent or age_s < 0 else max(0.0, COMMIT_AGE_S - age_s)


def checkpoint_due(*, commits: int, changeset_bytes: int, checkpoint_bytes: int) -> bool:
    """Whether the commits since the last checkpoint cost a new device more than a new checkpoint costs this one."""
    if commits >= COMMITS_PER_CHECKPOINT:
        return True
    return changeset_bytes > max(CHANGESETS_PER_CHECKPOINT_BYTES, checkpoint_bytes // 2)
