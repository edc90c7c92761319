"""What a damaged index still says, row by row, beside one rebuilt from the hosts: which files were newer in it.

Two connections in, files out; nothing is changed. A page that cannot be read costs the rows on it: the next row behind
it is looked for by its number. What the device had committed and no host has stands in the outbox; as long as that can
be read whole, only what it touched counts. Else every row that the rebuilt index has not just so does.
"""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from megafs.errors import DamagedIndex
from megafs.index.changed import path_of
from megafs.index.database import SICK, SIDE_CACHE_KIB, Database, connect
from megafs.index.replication import INTEGER_KEY, touched
from megafs.index.rows import COLUMNS
from megafs.model import ROOT_INO, Attributes, ChunkPlace, PackId

TABLES = ("inode", "dirent", "extent", "xattr")
ROWIDS_STOP = 1 << 62
MOST_LEVELS = 4096  # of a path; more is a ring
ATIME, CTIME = (Attributes._fields.index(name) for name in ("atime_ns", "ctime_ns"))
UNKNOWN = b"name-unknown"
Value = int | float | str | bytes | None
Row = tuple[Value, ...]
Content = list[tuple[int, int, int, ChunkPlace, PackId, int]]  # as index.aside spells it
PLACES = (
    "SELECT c.id, c.pack, c.offset, c.sealed, c.plain, c.codec, c.digest, p.id, p.epoch "
    "FROM chunk c JOIN pack p ON p.number = c.pack WHERE c.id = ?"
)


@dataclass(slots=True, kw_only=True)
class NewerFile:
    """A file or symbolic link as the damaged index has it. Owner: whoever brings it back."""

    path: bytes
    row: Attributes
    target: bytes
    tags: tuple[tuple[bytes, bytes], ...]
    content: Content
    is_whole: bool  # every byte has its place


@dataclass(slots=True, kw_only=True)
class Newer:
    """What was found. Owner: who asked."""

    files: list[NewerFile] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)  # paths of files of which only the name can be read
    unread: set[str] = field(default_factory=set)  # tables with pages that cannot be read


def newer_in(path: Path, keys: Iterable[bytes], rebuilt: Database, base: int) -> Newer | None:
    """Of the index at ``path``, which has one of the keys and is left as it is, what ``rebuilt`` lacks; None if it
    cannot be opened. ``base`` is the newest commit of its device that is in ``rebuilt``."""
    for key in keys:
        try:
            old = connect(path, key, SIDE_CACHE_KIB)
        except DamagedIndex:
            continue
        try:
            old.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            old.execute("PRAGMA query_only=ON")
            return newer(old, rebuilt.connection, base)
        except SICK:
            return None
        finally:
            old.close()
    return None


def rows(connection: apsw.Connection, table: str, unread: set[str]) -> Iterator[Row]:
    """(rowid, columns …) of every row that can be read."""
    start: int | None = 0
    while start is not None:
        try:
            query = f"SELECT rowid, * FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid"
            for row in connection.execute(query, (start,)):
                start = row[0] + 1
                yield row
            return
        except SICK:
            unread.add(table)
        start = _beyond(connection, table, start)


def _beyond(connection: apsw.Connection, table: str, start: int) -> int | None:
    """The first row that can be read behind ``start``, where a damaged page lies; None if there is none. (What looks
    for a row greater than another, and not at least so great, would end on the page of that one.)"""

    def first(step: int) -> int | None:
        query = f"SELECT rowid FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid LIMIT 1"
        found = connection.execute(query, (start + step,)).get
        return None if found is None else int(found)

    def works(step: int) -> bool:
        try:
            first(step)
        except SICK:
            return False
        return True

    high = 1
    while not works(high):
        high *= 2
        if high > ROWIDS_STOP:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return first(high)


def newer(old: apsw.Connection, fresh: apsw.Connection, base: int) -> Newer:
    found = Newer()
    allowed = _touched(old, base, found.unread)
    changed: set[int] = set()
    above: set[int] = set()
    unseen = allowed["inode"].copy() if allowed is not None else set()
    for table in TABLES:
        for number, *columns in rows(old, table, found.unread):
            if table == "dirent":
                above.add(_int(columns[1]))
            elif table == "inode":
                unseen.discard(_int(number))
            if (allowed is None or number in allowed[table]) and not _is_same(fresh, table, columns):
                changed.add(_int(columns[{"inode": 0, "dirent": 3}.get(table, 1)]))
    unseen = unseen if "inode" in found.unread else set()  # changed or removed: the page that says it is damaged
    names = {
        _int(row[4]): (_int(row[2]), _bytes(row[3]))
        for row in rows(old, "dirent", found.unread)
        if row[4] in changed or row[4] in above or row[4] in unseen
    }
    inodes = {_int(row[0]): row[1:] for row in rows(old, "inode", found.unread) if row[0] in changed}
    extents, tags = _by_ino(old, "extent", changed, found.unread), _by_ino(old, "xattr", changed, found.unread)
    places = _places(old, fresh, {_bytes(row[5]) for mine in extents.values() for row in mine}, found.unread)
    for ino in sorted(changed | unseen):
        runs = sorted((_int(each[3]), _int(each[4]), _int(each[6]), _bytes(each[5])) for each in extents.get(ino, ()))
        content = [(start, stop, skip, *places[chunk]) for start, stop, skip, chunk in runs if chunk in places]
        path, is_read = _path(names, fresh, ino), ino in inodes
        row = Attributes._make(inodes[ino][: len(Attributes._fields)]) if is_read else _stand_in(fresh, ino, runs)
        if row is None:
            if path is not None and ino in names and not stat.S_ISDIR(_mode(fresh, ino)):
                found.lost.append(path)
            continue
        if not row.nlink or not (stat.S_ISREG(row.mode) or stat.S_ISLNK(row.mode)):
            continue
        found.files.append(
            NewerFile(
                path=path or b"%b/%d" % (UNKNOWN, ino),
                row=row,
                target=_bytes(inodes[ino][-1] or b"") if is_read else b"",
                tags=tuple((_bytes(each[3]), _bytes(each[4])) for each in tags.get(ino, ())),
                content=content,
                is_whole=is_read and sum(stop - start for start, stop, *_ in content) == row.stored,
            )
        )
    return found


def _mode(fresh: apsw.Connection, ino: int) -> int:
    """In the rebuilt index; 0 if it is not there."""
    return int(fresh.execute("SELECT mode FROM inode WHERE id = ?", (ino,)).get or 0)


def _stand_in(fresh: apsw.Connection, ino: int, runs: list[tuple[int, int, int, bytes]]) -> Attributes | None:
    """For a row that cannot be read: the rebuilt index's, else one of a file that only the owner of the root can read;
    as long as the content goes. None if there is no content."""
    if not runs:
        return None
    query = f"SELECT {COLUMNS} FROM inode WHERE id = ?"
    root, known = (fresh.execute(query, (number,)).get for number in (ROOT_INO, ino))
    row = Attributes._make(known) if known else Attributes._make(root)._replace(mode=stat.S_IFREG | 0o600, nlink=1)
    return row._replace(size=max(stop for _, stop, *_ in runs), stored=sum(stop - start for start, stop, *_ in runs))


def _by_ino(old: apsw.Connection, table: str, wanted: set[int], unread: set[str]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows(old, table, unread):
        if row[2] in wanted:
            found.setdefault(_int(row[2]), []).append(row)
    return found


def _touched(old: apsw.Connection, base: int, unread: set[str]) -> dict[str, set[int]] | None:
    """Row numbers by table of what no host has; None if the outbox does not say."""
    found: dict[str, set[int]] = {table: set() for table in TABLES}
    waiting = [
        _bytes(changeset)
        for _, _, changeset, _, made_s, seq in rows(old, "outbox", unread)
        if made_s and (not seq or _int(seq) > base)
    ]
    try:
        for table, key in touched(waiting):
            if table in found:
                found[table].add(INTEGER_KEY.unpack(key)[0])
    except apsw.Error:
        return None
    return None if "outbox" in unread else found


def _is_same(fresh: apsw.Connection, table: str, columns: list[Value]) -> bool:
    """Whether the rebuilt index has the row; when it was read, or changed to what it is there, is no news."""
    there = fresh.execute(f"SELECT * FROM {table} WHERE id = ?", (columns[0],)).get
    if there is None or table != "inode":
        return there is not None and list(there) == columns
    return all(there[n] == columns[n] for n in range(len(columns)) if n not in (ATIME, CTIME))


def _places(
    old: apsw.Connection, fresh: apsw.Connection, wanted: set[bytes], unread: set[str]
) -> dict[bytes, tuple[ChunkPlace, PackId, int]]:
    """Where chunks lie, as the rebuilt index knows it, else as the damaged one does."""
    found = {}
    for chunk in wanted:
        row = fresh.execute(PLACES, (chunk,)).get
        if row is not None:
            found[chunk] = ChunkPlace(*row[:7]), PackId(row[7]), int(row[8])
    left = wanted - set(found)
    if left:
        packs = {_int(row[0]): (PackId(_bytes(row[2])), _int(row[3])) for row in rows(old, "pack", unread)}
        for row in rows(old, "chunk", unread):
            if row[1] in left and row[2] in packs:
                found[_bytes(row[1])] = ChunkPlace._make(row[1:8]), *packs[_int(row[2])]
    return found


def _path(names: dict[int, tuple[int, bytes]], fresh: apsw.Connection, ino: int) -> bytes | None:
    """From the root, as far as it is known; None if the file's own name cannot be read."""
    parts: list[bytes] = []
    while ino != ROOT_INO and len(parts) < MOST_LEVELS:
        if ino in names:
            ino, name = names[ino]
            parts.append(name)
            continue
        row = fresh.execute("SELECT parent, name FROM dirent WHERE ino = ? LIMIT 1", (ino,)).get
        if row is None:
            return b"/".join([UNKNOWN, *reversed(parts)]) if parts else None
        return b"/".join([path_of(fresh, row[0], row[1]), *reversed(parts)])
    return b"/".join(reversed(parts)) or None


def _int(value: Value) -> int:
    assert isinstance(value, int), "STRICT tables"
    return value


def _bytes(value: Value) -> bytes:
    assert isinstance(value, bytes), "STRICT tables"
    return value
