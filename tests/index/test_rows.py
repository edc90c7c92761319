"""Attributes are written late: whatever changes, get and page show what is now, and a commit has all of it."""

import random

import apsw
import pytest

from megafs.index import rows
from megafs.index.database import Database
from megafs.index.inodes import Inodes
from megafs.index.rows import COLUMNS, Rows
from megafs.model import ROOT_INO, Attributes, Ino

STEPS = 3_000


class Immediate:
    """The oracle: what each change means, at once."""

    def __init__(self) -> None:
        self.rows: dict[Ino, Attributes] = {}
        self.committed: dict[Ino, Attributes] = {}
        self.names: dict[bytes, Ino] = {}  # in the root
        self.committed_names: dict[bytes, Ino] = {}

    def put(self, ino: Ino, **values: int) -> None:
        if ino in self.rows:
            self.rows[ino] = self.rows[ino]._replace(**values)


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "index.db", bytes(32), create=True)
    database.connection.execute("INSERT INTO device VALUES (1, ?, ?, x'', 0)", (bytes(16), bytes(32)))
    database.adopt(1)
    yield database
    database.close()


def table(database: Database) -> dict[Ino, Attributes]:
    found = (Attributes._make(row) for row in database.connection.execute(f"SELECT {COLUMNS} FROM inode"))
    return {row.ino: row for row in found}


def step(database: Database, inodes: Inodes, model: Immediate, chance: random.Random, now: int) -> None:
    """One change of any kind, ours or somebody else's."""
    ino = chance.choice([*model.rows, Ino(7)])  # there is no 7
    row = model.rows.get(ino)
    kind = chance.choice(
        ["insert"] * 3
        + ["touch", "links", "set_links", "atime", "size", "grow", "update"] * 4
        + ["delete", "delete", "other", "commit", "rollback"]
    )
    if kind == "insert":
        made = inodes.insert(0o100644, 1, 2, 0, now, Ino(0), None)
        inodes.link(ROOT_INO, b"%d" % now, made.ino)
        model.rows[made.ino] = made
        model.names[b"%d" % now] = made.ino
    elif kind == "touch":
        inodes.touch(ino, now // 4)
        model.put(ino, mtime_ns=now // 4, ctime_ns=now // 4)
    elif kind == "links":
        inodes.touch_and_link(ino, now, 1)
        model.put(ino, mtime_ns=now, ctime_ns=now, nlink=row.nlink + 1 if row else 0)
    elif kind == "set_links":
        inodes.set_links(ino, now % 5, now)
        model.put(ino, nlink=now % 5, ctime_ns=now)
    elif kind == "atime":
        inodes.set_atime(ino, now)
        model.put(ino, atime_ns=now)
    elif kind == "size":
        inodes.set_size(ino, now)
        model.put(ino, size=now)
    elif kind == "grow":
        inodes.grow(ino, now, 7)
        model.put(ino, size=max(row.size, now) if row else 0, stored=row.stored + 7 if row else 0)
    elif kind == "update" and row:
        inodes.update(row._replace(mode=0o100600 | now % 8, uid=now, size=1, stored=2))
        model.put(ino, mode=0o100600 | now % 8, uid=now)
    elif kind == "delete" and ino != ROOT_INO:
        inodes.delete(ino)
        model.rows.pop(ino, None)
    elif kind == "other":
        with database.unlogged() as connection:
            connection.execute("UPDATE inode SET gid = gid + 1 WHERE id = ?", (ino,))
        model.put(ino, gid=row.gid + 1 if row else 0)
    elif kind == "commit":
        database.commit(0)
        model.committed, model.committed_names = dict(model.rows), dict(model.names)
        assert table(database) == model.rows
    elif kind == "rollback":
        database.rollback()
        model.rows, model.names = dict(model.committed), dict(model.committed_names)


def step_of_names(database: Database, inodes: Inodes, model: Immediate, chance: random.Random, now: int) -> None:
    """One change of names, ours or somebody else's."""
    name, free = chance.choice([*model.names]), b"n%d" % now
    kind = chance.choice(["unlink", "point", "move", "link", "other", "ask", "ask"])
    if kind == "unlink" and len(model.names) > 9:
        inodes.unlink(ROOT_INO, name)
        del model.names[name]
    elif kind == "point":
        other = chance.choice([*model.names.values()])
        inodes.point(ROOT_INO, name, other)
        model.names[name] = other
    elif kind == "move":
        inodes.move(ROOT_INO, name, ROOT_INO, free)
        model.names[free] = model.names.pop(name)
    elif kind == "link":
        assert inodes.lookup(ROOT_INO, free) is None
        inodes.link(ROOT_INO, free, model.names[name])
        model.names[free] = model.names[name]
    elif kind == "other" and len(model.names) > 9:
        with database.unlogged() as connection:
            connection.execute("DELETE FROM dirent WHERE name = ?", (name,))
        del model.names[name]


def differences(database: Database, seed: int) -> int:
    """How often somebody would have been shown what is not so."""
    chance, inodes, model = random.Random(seed), Inodes(database), Immediate()
    inodes.insert_root(0o40755, 0, 0, 1)
    database.commit(0)
    model.rows = table(database)
    model.committed = dict(model.rows)
    wrong, ever, ever_named = 0, {Ino(7): model.rows[ROOT_INO]}, {b"never"}
    for now in range(2, STEPS):
        step(database, inodes, model, chance, now)
        if model.names:
            step_of_names(database, inodes, model, chance, now)
        ever.update(model.rows)
        ever_named.update(model.names)
        for name in (chance.choice(sorted(ever_named)), chance.choice(sorted(model.names) or [b"never"])):
            wrong += inodes.lookup(ROOT_INO, name) != model.names.get(name)
        for some in (chance.choice(list(model.rows)), chance.choice(list(ever))):
            wrong += inodes.get(some) != model.rows.get(some)
        if not now % 50:
            shown = {row.ino: row for _, _, row in inodes.page(ROOT_INO, 0)}
            wrong += any(row != model.rows[ino] for ino, row in shown.items())
            gone = {ino for ino, row in model.rows.items() if not row.nlink}
            wrong += set(inodes.unlinked()) != gone
    return wrong


@pytest.mark.parametrize("seed", range(4))
def test_what_is_shown_is_what_is(database, monkeypatch, seed):
    monkeypatch.setattr(rows, "KNOWN", 40)
    monkeypatch.setattr(rows, "LATE", 20)
    assert not differences(database, seed)
    assert len(database.rows._known) <= 40 + 1
    assert len(database.rows.names) <= 40
    assert len(database.rows.late) < 20


@pytest.mark.parametrize("careless", ["settle", "remove", "drop"])
def test_a_careless_one_is_caught(database, monkeypatch, careless):
    """The control: without one of its steps."""
    monkeypatch.setattr(Rows, careless, lambda *_: None)
    with pytest.raises((AssertionError, KeyError)):
        assert not differences(database, 1)


def test_a_name_that_is_not_noted_anew_is_caught(database, monkeypatch):
    """The control of names: what a name stood for first stays."""
    monkeypatch.setattr(Rows, "note_name", lambda self, *told: self.names.setdefault(told[:2], told[2]))
    with pytest.raises((AssertionError, KeyError, apsw.ConstraintError)):
        assert not differences(database, 1)


def test_a_change_counts_before_it_is_written(database):
    inodes = Inodes(database)
    inodes.insert_root(0o40755, 0, 0, 1)
    database.commit(0)
    assert not database.changed_rows
    inodes.set_atime(ROOT_INO, 5)
    assert database.changed_rows == 1, "or nobody would commit it"
    assert database.commit(0) == 2
    assert table(database)[ROOT_INO].atime_ns == 5
    assert not database.changed_rows


def test_an_inode_that_changed_often_is_written_once(database):
    inodes = Inodes(database)
    inodes.insert_root(0o40755, 0, 0, 1)
    made = [inodes.insert(0o100644, 0, 0, 0, 1, Ino(0), None).ino for _ in range(10)]
    before = database.connection.total_changes()
    for now in range(100):
        for ino in made:
            inodes.set_atime(ino, now)
    assert database.connection.total_changes() == before
    database.rows.write()
    assert database.connection.total_changes() - before == len(made)
