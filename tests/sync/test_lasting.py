"""The clock of the retention: whatever is done to the wall clock, nothing gets older than it is."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafs.index.database import Database
from megafs.index.ledger import KeptCheckpoint, KnownHead, Ledger
from megafs.sync.lasting import AWAY_S, KEEP_EVERY_S, Lasting

DAY = 86_400.0
START = 1_800_000_000.0


class Clocks:
    """The wall clock and the one since boot, both in hand."""

    def __init__(self) -> None:
        self.wall_s, self.boot_s = START, 1000.0

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.boot_s += seconds

    def lasting(self, database: Database) -> Lasting:
        return Lasting(database, lambda: self.wall_s, lambda: self.boot_s)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "index.db", bytes(32), create=True)


def test_a_jump_while_mounted_is_nothing(database):
    clocks = Clocks()
    lasting = clocks.lasting(database)
    assert lasting() == START
    for jump_s in (7 * DAY, -30 * DAY, 3600, -3600, 3650 * DAY):
        before = lasting()
        clocks.wall_s += jump_s
        assert lasting() == before
        clocks.pass_s(10)
        assert lasting() == before + 10


@pytest.mark.parametrize(
    ("away_s", "counts_s"), [(3600, 3600), (DAY, DAY), (10 * DAY, AWAY_S), (3650 * DAY, AWAY_S), (-DAY, 0), (0, 0)]
)
def test_between_two_mounts_a_day_is_believed(database, away_s, counts_s):
    clocks = Clocks()
    clocks.lasting(database)
    clocks.wall_s += away_s
    clocks.boot_s = 3.0  # another boot
    assert clocks.lasting(database)() == START + counts_s


def test_the_time_of_a_long_mount_counts_after_a_kill(database):
    clocks = Clocks()
    lasting = clocks.lasting(database)
    for _ in range(200):
        clocks.pass_s(KEEP_EVERY_S)
        lasting.keep()
    assert clocks.lasting(database)() == START + 200 * KEEP_EVERY_S


def test_idle_it_writes_once_an_hour_at_most(database):
    clocks = Clocks()
    lasting = clocks.lasting(database)
    before = database.changed_rows
    for _ in range(60):
        clocks.pass_s(59)
        lasting.keep()
    assert database.changed_rows == before


def test_a_device_that_attached_under_a_wrong_date_believes_the_vault(database):
    clocks = Clocks()
    ledger = Ledger(database.connection)
    ledger.set_head(KnownHead(device=1, seq=1, hash=bytes(32), seen_s=int(START)))
    clocks.wall_s += 3650 * DAY
    assert clocks.lasting(database)() == START + AWAY_S


def test_it_never_begins_before_a_stamp(database):
    """What dies now must not look older than a checkpoint that names it."""
    clocks = Clocks()
    made_s = int(START + 100 * DAY)
    Ledger(database.connection).put_checkpoint(
        KeptCheckpoint(upload=1, device=1, seq=1, hash=bytes(32), made_s=made_s, complete=True, retired=b"")
    )
    assert clocks.lasting(database)() == made_s


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0, 3 * DAY)),
        st.tuples(st.just("jump"), st.floats(-9999 * DAY, 9999 * DAY)),
        st.tuples(st.just("mount"), st.just(0.0)),
    ),
    max_size=30,
)


@settings(max_examples=30)  # each opens an index, which derives a key
@given(steps=STEPS)
def test_whatever_happens_it_is_never_more_than_a_day_a_mount_ahead(tmp_path_factory, steps):
    database = Database(tmp_path_factory.mktemp("lasting") / "index.db", bytes(32), create=True)
    clocks = Clocks()
    lasting, passed_s, mounts, before = clocks.lasting(database), 0.0, 0, START
    for kind, seconds in steps:
        if kind == "pass":
            clocks.pass_s(seconds)
            passed_s += seconds
            lasting.keep()
        elif kind == "jump":
            clocks.wall_s += seconds
        else:
            lasting = clocks.lasting(database)
            mounts += 1
            before -= KEEP_EVERY_S + 1  # what was not kept yet
        now_s = lasting()
        assert before <= now_s <= START + passed_s + mounts * AWAY_S + 1
        before = now_s
    database.close()
