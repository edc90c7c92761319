"""When commits become objects and checkpoints are due: tables of cases, no clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.config import Settings
from megafs.index.ledger import OutboxRow
from megafs.model import PackNumber
from megafs.sync import pace
from megafs.sync.pace import CHANGESETS_PER_OBJECT_BYTES, COMMIT_AGE_S, Batch, batch, freeze_in

SETTINGS = Settings()


def rows(*packs: int, size: int = 10) -> list[OutboxRow]:
    return [OutboxRow(n=n, pack=PackNumber(pack), made_s=float(n), bytes=size) for n, pack in enumerate(packs, 1)]


def test_a_trickle_ships_within_thirty_seconds() -> None:
    # A commit at t names a pack whose first byte is not after t; ten seconds are left for the hosts.
    for made_s in range(100, 200):
        closes = made_s + SETTINGS.pack_age_s  # at the latest (store.writer.due)
        found = Batch(first=1, last=1, pack=PackNumber(1), oldest_s=made_s)
        assert max(closes, made_s + freeze_in(found, urgent=False, now_s=made_s)) <= made_s + 20


@pytest.mark.parametrize(
    ("packs", "unshipped", "dropped", "boundary", "found"),
    [
        ([], None, [], 0, None),
        ([0, 0], None, [], 0, (1, 2)),
        ([1, 1, 2], 1, [], 0, None),  # the first row already names a pack that is not there
        ([1, 1, 2], 2, [], 0, (1, 2)),
        ([1, 1, 2], None, [], 0, (1, 3)),
        ([1, 1, 2], None, [], 2, (1, 2)),  # a checkpoint stands on row 2
        ([1, 1, 2], None, [], 3, (1, 3)),
        ([1, 1, 2], 2, [], 3, (1, 2)),
        ([1, 2, 2, 3], 3, [(PackNumber(2), 4)], 0, (1, 1)),  # pack 2 was dropped; row 4, its death, cannot ship yet
        ([1, 2, 2, 3], None, [(PackNumber(2), 4)], 0, (1, 4)),
        ([2, 2, 3], 3, [(PackNumber(2), 3)], 0, None),
        ([1, 2, 3, 4], 4, [(PackNumber(2), 3), (PackNumber(3), 4)], 0, (1, 1)),  # one death behind another
    ],
)
def test_which_rows_ship(
    packs: list[int],
    unshipped: int | None,
    dropped: list[tuple[PackNumber, int]],
    boundary: int,
    found: tuple[int, int] | None,
) -> None:
    limit = None if unshipped is None else PackNumber(unshipped)
    result = batch(rows(*packs), limit, dropped, boundary)
    assert (None if result is None else (result.first, result.last)) == found


def test_commit_objects_stay_small() -> None:
    half = CHANGESETS_PER_OBJECT_BYTES // 2
    assert batch(rows(0, 0, 0, size=half), None, [], 0).last == 2
    assert batch(rows(0, 0, size=3 * half), None, [], 0).last == 1  # one row alone may be larger


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12).map(sorted),
    st.integers(1, 6) | st.none(),
    st.dictionaries(st.integers(1, 5), st.integers(1, 12), max_size=3),
)
def test_no_object_names_what_no_host_has(packs: list[int], unshipped: int | None, deaths: dict[int, int]) -> None:
    waiting = rows(*packs)
    dropped = [(PackNumber(pack), n) for pack, n in deaths.items()]
    found = batch(waiting, None if unshipped is None else PackNumber(unshipped), dropped, 0)
    if found is None:
        return
    named = [row for row in waiting if row.n <= found.last]
    assert all(unshipped is None or row.pack < unshipped for row in named)
    for pack, dead_n in dropped:
        assert all(row.pack < pack for row in named) or found.last >= dead_n


@pytest.mark.parametrize(("urgent", "wait_s"), [(False, COMMIT_AGE_S), (True, 0)])
def test_commits_wait_for_others(urgent: bool, wait_s: float) -> None:
    found = Batch(first=1, last=2, pack=PackNumber(0), oldest_s=50)
    assert freeze_in(found, urgent=urgent, now_s=50) == wait_s
    assert freeze_in(found, urgent=urgent, now_s=1000) == 0


def test_a_clock_set_back_delays_nothing() -> None:
    found = Batch(first=1, last=2, pack=PackNumber(0), oldest_s=100_000)
    assert freeze_in(found, urgent=False, now_s=50) == 0


@pytest.mark.parametrize(
    ("commits", "mib", "checkpoint_mib", "due"),
    [
        (0, 0, 0, False),
        (255, 0, 0, False),
        (256, 0, 0, True),
        (1, 65, 0, True),
        (1, 65, 200, False),
        (1, 101, 200, True),
    ],
)
def test_when_a_checkpoint_is_due(commits: int, mib: int, checkpoint_mib: int, due: bool) -> None:
    found = pace.checkpoint_due(commits=commits, changeset_bytes=mib << 20, checkpoint_bytes=checkpoint_mib << 20)
    assert found is due
