"""Which paths a run of changesets changed, or damage concerns, for an owner who has to act: rows in, paths out. Changes
nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apsw

from megafs.index.replication import joined
from megafs.model import ROOT_INO

COLUMNS = {"inode": 13, "dirent": 4, "xattr": 4, "extent": 6}
OF_INO = {"xattr": 1, "extent": 1}  # in which column the inode stands
# What a directory's inode changes by because of its entries, and any inode by being read: no news by itself.
SIZE, STORED, NLINK, ATIME, MTIME, CTIME = 6, 7, 2, 8, 9, 10
BY_ENTRIES = {NLINK, SIZE, STORED, ATIME, MTIME, CTIME}
DIRECTORY, KIND_BITS = 0o040000, 0o170000


@dataclass(frozen=True, slots=True)
class ChangedPath:
    """A path below the root as it is now, or as it was if it is gone."""

    path: bytes
    what: str  # new, changed, removed


def own_after(connection: apsw.Connection, seq: int) -> list[tuple[int, bytes]]:
    """(commit, changeset) of this device's outbox rows that are in no commit object (0) or in a later one than ``seq``.
    Those that came from hosts have no time."""
    query = "SELECT seq, changeset FROM outbox WHERE made_s > 0 AND (seq = 0 OR seq > ?) ORDER BY n"
    return list(connection.execute(query, (seq,)))


def changed_paths(connection: apsw.Connection, changesets: Iterable[bytes]) -> list[ChangedPath]:
    """What they come to in the end, by path. Thread: looks at every name once."""
    new: set[int] = set()  # names
    inodes: set[int] = set()
    gone: list[tuple[int, bytes]] = []
    for change in apsw.Changeset.iter(joined(changesets)[0]):
        if change.name not in COLUMNS:
            continue
        (column,) = change.pk_columns
        values = change.new if change.op == "INSERT" else change.old
        assert values is not None, "a change has old or new values"
        key = values[column]
        assert isinstance(key, int), "these tables have integer keys"
        if change.name == "dirent":
            if change.op != "DELETE":
                new.add(key)
            if change.op != "INSERT":
                gone += _former_entry(connection, key, values)
        elif change.name == "inode":
            if change.op == "UPDATE" and not _is_by_the_way(connection, key, change):
                inodes.add(key)
        else:
            inodes.update(_owner(connection, change.name, key, values))
    found = {ChangedPath(path_of(connection, parent, name), "removed") for parent, name in gone}
    for ident, parent, name, ino in connection.execute("SELECT id, parent, name, ino FROM dirent"):
        if ident in new or ino in inodes:
            found.add(ChangedPath(path_of(connection, parent, name), "new" if ident in new else "changed"))
    there = {each.path for each in found if each.what != "removed"}
    return sorted((each for each in found if each.what != "removed" or each.path not in there), key=lambda e: e.path)


def paths_of(connection: apsw.Connection, inodes: Iterable[int], chunks: Iterable[bytes]) -> list[bytes]:
    """Of these inodes, and of the files that hold these chunks. Thread: looks at every name once."""
    wanted = set(inodes)
    for chunk in chunks:
        wanted.update(ino for (ino,) in connection.execute("SELECT ino FROM extent WHERE chunk = ?", (chunk,)))
    entries = connection.execute("SELECT parent, name, ino FROM dirent") if wanted else ()
    return sorted(path_of(connection, parent, name) for parent, name, ino in entries if ino in wanted)


def _former_entry(connection: apsw.Connection, key: int, old: tuple[object, ...]) -> Iterator[tuple[int, bytes]]:
    """Where a name was that is gone or moved. The old values of an update name only what changed."""
    now = connection.execute("SELECT parent, name FROM dirent WHERE id = ?", (key,)).get or (None, None)
    parent = old[1] if isinstance(old[1], int) else now[0]
    name = old[2] if isinstance(old[2], bytes) else now[1]
    if isinstance(parent, int) and isinstance(name, bytes):
        yield parent, name


def _is_by_the_way(connection: apsw.Connection, ino: int, change: apsw.TableChange) -> bool:
    changed = {n for n, value in enumerate(change.new or ()) if value is not apsw.no_change}
    mode = int(connection.execute("SELECT mode FROM inode WHERE id = ?", (ino,)).get or 0)
    return changed <= (BY_ENTRIES if mode & KIND_BITS == DIRECTORY else {ATIME})


def _owner(connection: apsw.Connection, table: str, key: int, values: tuple[object, ...]) -> Iterator[int]:
    """Whose row it is. The old values of an update name only what changed."""
    ino = values[OF_INO[table]]
    if not isinstance(ino, int):
        ino = connection.execute(f"SELECT ino FROM {table} WHERE id = ?", (key,)).get
    if isinstance(ino, int):
        yield ino


def path_of(connection: apsw.Connection, parent: int, name: bytes) -> bytes:
    """From the root on; a directory that is gone, too, is ``?``."""
    parts = [name]
    while parent != ROOT_INO:
        query = (
            "SELECT i.parent, d.name FROM inode i JOIN dirent d ON d.parent = i.parent AND d.ino = i.id WHERE i.id = ?"
        )
        row = connection.execute(query, (parent,)).get
        if row is None:
            return b"/".join([b"?", *reversed(parts)])
        parent, above = row
        parts.append(above)
    return b"/".join(reversed(parts))
