"""Extents as rows against the pure arithmetic of files.ranges, doomed slices included."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from megafs.files.ranges import Span, clip, cover, subtract, truncate
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.index.invariants import faults
from megafs.index.packs import Packs
from megafs.model import ChunkId, ChunkPlace, Ino, PackId
from tests.support.keys import raw

END = 4000  # files reach this far
CHUNK = 1000  # plaintext of every chunk
ROWS_PER_REQUEST = 4  # so that truncating soon dooms
UNCOMMITTED = ("id-unused",)  # the counter is written with the commit
OFFSETS = st.integers(0, END)


@pytest.fixture(scope="module")
def opened():
    """Opening costs 40 ms; each example uses inodes of its own."""
    with TemporaryDirectory() as folder:
        database = Database(Path(folder) / "index.db", raw(bytes(32)), create=True)
        database.connection.execute("INSERT INTO device VALUES (1, x'01', x'', x'', 0)")
        database.adopt(1)
        Inodes(database).insert_root(0o40755, 0, 0, 0)
        pack = Packs(database).open(PackId(bytes(16)), 1)
        yield database, pack
        database.close()


class Against(RuleBasedStateMachine):
    """One file: rows on one side, spans on the other."""

    database: Database
    pack: int
    serial = 0

    @initialize()
    def begin(self):
        self.database.rollback()
        self.extents = Extents(self.database, rows_per_request=ROWS_PER_REQUEST)
        self.inodes = Inodes(self.database)
        self.ino = self.inodes.insert(0o100644, 0, 0, 0, 0, Ino(0), None).ino
        self.inodes.link(Ino(1), b"%d" % self.ino, self.ino)
        self.inodes.set_size(self.ino, END)
        self.model: list[Span[ChunkId]] = []

    @rule(start=OFFSETS, size=st.integers(1, CHUNK))
    def write(self, start, size):
        stop = min(start + size, END)
        if start < stop:
            Against.serial += 1
            chunk = ChunkId(b"%016d" % Against.serial)
            self.extents.add_chunk(ChunkPlace(chunk, self.pack, Against.serial, 1, CHUNK, 0, b""))
            added = self.extents.write(self.ino, [(start, stop, chunk, 0)])
            self.inodes.grow(self.ino, 0, added)
            self.model = cover(self.model, Span(start, stop, chunk, 0))

    @rule(start=OFFSETS, stop=OFFSETS)
    def clear(self, start, stop):
        if start < stop:
            self.inodes.grow(self.ino, 0, -self.extents.clear(self.ino, start, stop))
            self.model = subtract(self.model, start, stop)

    @rule(size=OFFSETS)
    def truncate(self, size):
        self.inodes.grow(self.ino, 0, -self.extents.truncate(self.ino, size))
        self.model = truncate(self.model, size)

    @rule()
    def look_again(self):
        self.extents.refresh()

    @precondition(lambda self: self.extents._doomed)
    @rule(limit=st.integers(1, 5))
    def reap(self, limit):
        found = self.extents.reap(limit)
        assert found is not None
        ino, freed = found
        self.inodes.grow(ino, 0, -freed)

    @invariant()
    def the_same_is_there(self):
        if hasattr(self, "model"):
            rows = self.extents.covering(self.ino, 0, END)
            assert [Span(*row) for row in rows] == self.model

    @rule(start=OFFSETS, stop=OFFSETS)
    def a_part_is_the_same(self, start, stop):
        if start < stop:
            rows = [Span(*row) for row in self.extents.covering(self.ino, start, stop)]
            assert clip(rows, start, stop) == clip(self.model, start, stop)

    def teardown(self):
        if hasattr(self, "extents"):
            while self.extents.reap(100) is not None:
                pass
            total = sum(span.stop - span.start for span in self.model)
            self.database.rows.write()
            execute = self.database.connection.execute
            execute("UPDATE inode SET stored = ? WHERE id = ?", (total, self.ino))
            assert not [fault for fault in faults(self.database.connection) if fault.rule not in UNCOMMITTED]


def test_rows_do_as_spans(opened):
    database, pack = opened
    database.commit(0)
    run_state_machine_as_test(type("Bound", (Against,), {"database": database, "pack": pack}))


def test_a_doomed_extent_that_is_written_over_stays_dead(opened):
    """Its tail would get a new id, and with it a new life."""
    database, pack = opened
    extents, inodes = Extents(database, rows_per_request=1), Inodes(database)
    ino = inodes.insert(0o100644, 0, 0, 0, 0, Ino(0), None).ino
    for number in range(3):
        chunk = ChunkId(b"doomed %09d" % number)
        extents.add_chunk(ChunkPlace(chunk, pack, number, 1, CHUNK, 0, b""))
        extents.write(ino, [(number * 100, number * 100 + 100, chunk, 0)])
    assert extents.truncate(ino, 0) == 0, "too many for one request"
    assert extents.covering(ino, 0, 300) == []
    fresh = ChunkId(b"a fresh chunk 16")
    extents.add_chunk(ChunkPlace(fresh, pack, 9, 1, CHUNK, 0, b""))
    assert extents.write(ino, [(140, 160, fresh, 0)]) == 20 - 100
    assert extents.covering(ino, 0, 300) == [(140, 160, fresh, 0)]
    assert extents.reap(100) == (ino, 200)
    assert extents.covering(ino, 0, 300) == [(140, 160, fresh, 0)]
    database.rollback()
