"""Changesets: applied whole or not at all, counted, cut into parts that make the same tables again."""

from os import urandom

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.errors import Corrupt
from megafs.index import replication
from megafs.index.replication import Range, apply, inverted, joined, parts, touched, whole
from megafs.index.schema import REPLICATED, statements

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "change", "remove", "rename"]), st.integers(1, 8), st.integers(0, 5)),
    max_size=25,
)


def database() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    for statement in statements():
        connection.execute(statement)
    return connection


def act(connection: apsw.Connection, actions: list[tuple[str, int, int]]) -> None:
    for action, key, value in actions:
        if action == "add":
            connection.execute("INSERT OR IGNORE INTO dirent VALUES (?, 1, ?, ?)", (key, b"n%d" % key, value))
            connection.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (f"k{key}", b"%d" % value))
        elif action == "change":
            connection.execute("UPDATE dirent SET ino = ? WHERE id = ?", (value, key))
            connection.execute("UPDATE setting SET value = ? WHERE key = ?", (b"%d" % value, f"k{key}"))
        elif action == "remove":
            connection.execute("DELETE FROM dirent WHERE id = ?", (key,))
        else:  # two names trade places, which no order of single updates can do
            connection.execute("UPDATE OR IGNORE dirent SET name = x'00' WHERE id = ?", (key,))
            connection.execute("UPDATE OR IGNORE dirent SET name = ? WHERE id = ?", (b"n%d" % key, key % 8 + 1))
            connection.execute("UPDATE OR IGNORE dirent SET name = ? WHERE id = ?", (b"n%d" % (key % 8 + 1), key))


def recorded(connection: apsw.Connection, actions: list[tuple[str, int, int]]) -> bytes:
    session = apsw.Session(connection, "main")
    for table in REPLICATED:
        session.attach(table)
    act(connection, actions)
    changeset = session.changeset()
    session.close()
    return changeset


def tables(connection: apsw.Connection) -> dict[str, list[tuple[object, ...]]]:
    return {table: sorted(connection.execute(f"SELECT * FROM {table}")) for table in REPLICATED}


@given(st.lists(ACTIONS, max_size=4))
def test_joined_changesets_make_the_same_rows(commits: list[list[tuple[str, int, int]]]) -> None:
    one, other = database(), database()
    changesets = [recorded(one, actions) for actions in commits]
    changeset, changes = joined(changesets)
    apply(other, changeset, changes)
    assert tables(one) == tables(other)
    for each in reversed(changesets):
        undo = inverted(each)
        apply(other, undo, replication.count(other, undo))
    assert tables(other) == tables(database())


@given(ACTIONS, st.integers(30, 300))
def test_parts_make_the_same_rows(actions: list[tuple[str, int, int]], part_bytes: int) -> None:
    one, other = database(), database()
    act(one, actions)
    for table in REPLICATED:
        low = b""
        for part in parts(one, whole(table), part_bytes):
            assert part.range.low == low
            low = part.range.high
            apply(other, part.changeset, part.rows)
        assert low == replication.KEY_STOP
    assert tables(one) == tables(other)


def test_a_range_has_its_rows_and_no_others() -> None:
    connection = database()
    act(connection, [("add", key, 1) for key in range(1, 9)])
    keys = [replication.key_bytes(key) for key in (3, 6)]
    (part,) = parts(connection, Range(table="dirent", low=keys[0], high=keys[1]))
    assert part.rows == 3
    found = {key for _, key in touched([part.changeset])}
    assert found == {replication.key_bytes(key) for key in (3, 4, 5)}


@given(ACTIONS)
def test_touched_names_every_row_that_differs(actions: list[tuple[str, int, int]]) -> None:
    connection = database()
    act(connection, [("add", key, 0) for key in range(1, 5)])
    before = {row[0]: row for row in connection.execute("SELECT * FROM dirent")}
    changeset = recorded(connection, actions)
    after = {row[0]: row for row in connection.execute("SELECT * FROM dirent")}
    differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert {replication.key_bytes(key) for key in differing} <= {k for t, k in touched([changeset]) if t == "dirent"}


def test_what_does_not_fit_changes_nothing() -> None:
    one = database()
    changeset = recorded(one, [("add", 1, 1), ("add", 2, 2)])
    other = database()
    for changes in (3, 5):
        with pytest.raises(Corrupt):
            apply(other, changeset, changes)
    act(other, [("add", 2, 9)])
    before = tables(other)
    with pytest.raises(Corrupt):
        apply(other, changeset, 4)
    assert tables(other) == before


def test_a_changeset_of_another_schema_is_refused_and_not_skipped() -> None:
    strange = apsw.Connection(":memory:")
    strange.execute(
        "CREATE TABLE dirent (id INTEGER PRIMARY KEY, a, b, c, d); CREATE TABLE unknown (id INTEGER PRIMARY KEY)"
    )
    for table, row in (("dirent", "(1, 2, 3, 4, 5)"), ("unknown", "(1)")):
        session = apsw.Session(strange, "main")
        session.attach(table)
        strange.execute(f"INSERT INTO {table} VALUES {row}")
        changeset = session.changeset()
        session.close()
        with pytest.raises(Corrupt):
            apply(database(), changeset, 1)
        # The negative control: SQLite alone says nothing and does nothing.
        control = database()
        apsw.Changeset.apply(changeset, control)
        assert tables(control) == tables(database())


@pytest.mark.parametrize("table", ["outbox", "state"])
def test_local_tables_are_nobodys_to_change(table: str) -> None:
    connection = database()
    session = apsw.Session(connection, "main")
    session.attach(table)
    connection.execute("INSERT INTO state VALUES ('x', x'00')")
    connection.execute("INSERT INTO outbox VALUES (1, x'00', 0, 0, 0)")
    changeset = session.changeset()
    session.close()
    with pytest.raises(Corrupt):
        apply(database(), changeset, 1)


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(Corrupt):
        apply(database(), noise, 1)


def test_keys_sort_as_sqlite_sorts_them() -> None:
    numbers = [0, 1, 255, 256, 1 << 40, (1 << 63) - 1]
    assert sorted(map(replication.key_bytes, numbers)) == [replication.key_bytes(n) for n in numbers]
    chunks = [urandom(16) for _ in range(20)]
    assert all(replication.key_bytes(chunk) < replication.KEY_STOP for chunk in chunks)
