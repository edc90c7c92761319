"""Changesets of replicated tables: apply them and compare counts, join them, cut tables into parts, find what changed.

Bytes in (from an outbox row, a commit object or a checkpoint part), rows or bytes out. A changeset carries no schema
and SQLite skips what does not fit without a word, so ``apply`` first checks every change against the tables and then
compares what was changed with what was asked. Never decides which changesets belong to a history: that is sync.recover.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apsw

from megafs.config import CHECKPOINT_PART_BYTES
from megafs.errors import Corrupt
from megafs.index.schema import COLUMNS, REPLICATED

INTEGER_KEY = struct.Struct(">Q")  # big endian, so that bytes sort as the numbers do; ids are never negative
KEY_STOP = b"\xff" * 32  # above every key: blob keys have 16 bytes, text keys are UTF-8 without 0xff
ROW_OVERHEAD_BYTES = 16  # beside the values: op, flags, and a type byte for each column, roughly


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Rows of ``table`` with ``low <= key < high`` (keys as ``key_bytes`` spells them)."""

    table: str
    low: bytes
    high: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPart:
    """A range and its rows as a changeset of INSERTs."""

    range: Range
    changeset: bytes
    rows: int


def key_bytes(value: object) -> bytes:
    """A primary key as bytes that sort as SQLite sorts the values of one column."""
    if isinstance(value, int):
        return INTEGER_KEY.pack(value)
    return value.encode() if isinstance(value, str) else bytes(value) if isinstance(value, bytes) else _no_key(value)


def _no_key(value: object) -> bytes:
    raise Corrupt(f"changeset: a key of type {type(value).__name__}")


def apply(connection: apsw.Connection, changeset: bytes, changes: int) -> None:
    """Apply a changeset that must hold exactly ``changes`` changes; all of them take effect or Corrupt is raised
    and nothing has changed. The caller has switched off its own logging (Database.unlogged)."""
    if count(connection, changeset) != changes:
        raise Corrupt(f"changeset: not the {changes} changes that were announced")
    conflicts: list[str] = []

    def on_conflict(reason: int, change: apsw.TableChange) -> int:
        conflicts.append(f"{change.op} in {change.name}, reason {reason}")
        return apsw.SQLITE_CHANGESET_ABORT

    before = connection.total_changes()
    with connection:
        try:
            apsw.Changeset.apply(changeset, connection, conflict=on_conflict)
        except apsw.Error as error:
            raise Corrupt(f"changeset: does not fit ({', '.join(conflicts) or error})") from error
        # More is possible: unique keys that trade places are changed in two steps.
        if conflicts or connection.total_changes() - before < changes:
            raise Corrupt("changeset: SQLite applied less than it was given")


def count(connection: apsw.Connection, changeset: bytes) -> int:
    """How many changes there are, each checked to fit a replicated table as it is here. Raises Corrupt."""
    shapes: dict[str, int] = {}
    found = 0
    try:
        for change in apsw.Changeset.iter(changeset):
            if change.name not in shapes:
                shapes[change.name] = _columns(connection, change.name)
            if change.column_count != shapes[change.name] or len(change.pk_columns) != 1:
                raise Corrupt(f"changeset: {change.column_count} columns for {change.name}")
            found += 1
    except (apsw.Error, UnicodeDecodeError) as error:  # the latter of a table's name or a text that is no UTF-8
        raise Corrupt(f"changeset: {type(error).__name__}") from error
    return found


def set_values(changeset: bytes) -> Iterator[tuple[str, object, dict[str, object]]]:
    """(table, id of an existing row, column by column what it is set to) of each change to a replicated table that sets
    something. Raises Corrupt."""
    try:
        for change in apsw.Changeset.iter(changeset):
            if change.new is not None and change.name in COLUMNS:
                pairs = zip(COLUMNS[change.name], change.new, strict=True)
                values = {name: value for name, value in pairs if value is not apsw.no_change}
                yield change.name, change.old[0] if change.old is not None else None, values
    except (apsw.Error, UnicodeDecodeError, ValueError) as error:  # the last of a table with other columns
        raise Corrupt(f"changeset: {type(error).__name__}") from error


def _columns(connection: apsw.Connection, table: str) -> int:
    if table not in REPLICATED:
        raise Corrupt("changeset: a table that is not replicated")
    return sum(1 for _ in connection.execute("SELECT 1 FROM pragma_table_info(?)", (table,)))


def joined(changesets: Iterable[bytes]) -> tuple[bytes, int]:
    """One changeset with the net effect of all, in order, and how many changes it has."""
    builder = _new_builder()
    try:
        for changeset in changesets:
            builder.add(changeset)
        whole = builder.output()
    finally:
        builder.close()
    return whole, sum(1 for _ in apsw.Changeset.iter(whole))


def inverted(changeset: bytes) -> bytes:
    """The changeset that undoes this one."""
    return apsw.Changeset.invert(changeset)


def touched(changesets: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """(table, key) of every row that some change created, changed or removed; repeats are possible."""
    for changeset in changesets:
        for change in apsw.Changeset.iter(changeset):
            values = change.old or change.new
            (column,) = change.pk_columns
            assert values is not None, "a change has old or new values"
            yield change.name, key_bytes(values[column])


def parts(connection: apsw.Connection, wanted: Range, part_bytes: int = CHECKPOINT_PART_BYTES) -> Iterator[CutPart]:
    """The rows of a range, cut into parts of about ``part_bytes``; together they cover exactly the range.
    An empty range yields one empty part (a gap in a checkpoint would not be told from a lost part)."""
    low, rows = wanted.low, 0
    builder = _builder(connection)
    size = 0
    for key, row in _rows(connection, wanted):
        if size >= part_bytes:
            yield CutPart(range=Range(table=wanted.table, low=low, high=key), changeset=builder.output(), rows=rows)
            builder.close()
            builder, low, rows, size = _builder(connection), key, 0, 0
        builder.add_insert(wanted.table, False, row)
        rows += 1
        size += ROW_OVERHEAD_BYTES + sum(len(value) if isinstance(value, bytes | str) else 8 for value in row)
    yield CutPart(range=Range(table=wanted.table, low=low, high=wanted.high), changeset=builder.output(), rows=rows)
    builder.close()


def whole(table: str) -> Range:
    """Every row of a table."""
    return Range(table=table, low=b"", high=KEY_STOP)


def _new_builder() -> apsw.ChangesetBuilder:
    return apsw.ChangesetBuilder()  # type: ignore[no-untyped-call]  # apsw's stubs forgot its __init__


def _builder(connection: apsw.Connection) -> apsw.ChangesetBuilder:
    builder = _new_builder()
    builder.schema(connection, "main")
    return builder


def _rows(
    connection: apsw.Connection, wanted: Range
) -> Iterator[tuple[bytes, tuple[int | float | str | bytes | None, ...]]]:
    assert wanted.table in REPLICATED, wanted.table
    info = connection.execute("SELECT cid, name, type FROM pragma_table_info(?) WHERE pk = 1", (wanted.table,)).get
    column, name, kind = info
    query, bounds = f"SELECT * FROM {wanted.table} WHERE {name} >= ?", [_key_value(wanted.low, kind)]
    if wanted.high != KEY_STOP:
        query += f" AND {name} < ?"
        bounds.append(_key_value(wanted.high, kind))
    for row in connection.execute(f"{query} ORDER BY {name}", bounds):
        yield key_bytes(row[column]), row


def _key_value(bound: bytes, kind: str) -> int | str | bytes:
    if kind == "INTEGER":
        return INTEGER_KEY.unpack(bound)[0] if bound else 0
    return bound.decode() if kind == "TEXT" else bound
