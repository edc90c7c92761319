"""Statements on pin, and on trees: which chunks make up all that lies below some inodes."""

from collections.abc import Iterable

import apsw

from megafs.index.database import Database
from megafs.model import ROOT_INO, ChunkPlace, Ino

PLACE = "c.id, c.pack, c.offset, c.sealed, c.plain, c.codec, c.digest"


class Pins:
    """Pins as rows."""

    def __init__(self, database: Database) -> None:
        self._connection, self._rows = database.connection, database.rows

    def add(self, ino: Ino, now_s: int) -> None:
        self._connection.execute("INSERT OR IGNORE INTO pin VALUES (?, ?)", (ino, now_s))

    def remove(self, ino: Ino) -> bool:
        """Whether it was pinned."""
        return self._connection.execute("DELETE FROM pin WHERE ino = ? RETURNING 1", (ino,)).get is not None

    def all(self) -> list[Ino]:
        """Pinned inodes that still exist; those that do not are forgotten."""
        self._rows.write()
        self._connection.execute("DELETE FROM pin WHERE NOT EXISTS (SELECT 1 FROM inode WHERE id = ino AND nlink > 0)")
        return [Ino(row[0]) for row in self._connection.execute("SELECT ino FROM pin ORDER BY ino")]

    def path(self, ino: Ino) -> bytes:
        """One path of it below the mount point, without a slash in front; empty for the root."""
        names: list[bytes] = []
        while ino != ROOT_INO:
            row = self._connection.execute("SELECT parent, name FROM dirent WHERE ino = ? LIMIT 1", (ino,)).get
            if row is None:
                break
            names.append(bytes(row[1]))
            ino = row[0]
        return b"/".join(reversed(names))


def tree_places(connection: apsw.Connection, roots: Iterable[Ino]) -> list[ChunkPlace]:
    """Every chunk of the content below these inodes, themselves included, in the order of packs."""
    values = ", ".join(f"({int(ino)})" for ino in roots)
    if not values:
        return []
    rows = connection.execute(
        f"WITH RECURSIVE tree (ino) AS (VALUES {values} "
        "UNION SELECT d.ino FROM dirent d JOIN tree ON d.parent = tree.ino) "
        f"SELECT DISTINCT {PLACE} FROM tree JOIN extent e ON e.ino = tree.ino JOIN chunk c ON c.id = e.chunk "
        "ORDER BY c.pack, c.offset"
    )
    return [ChunkPlace._make(row) for row in rows]
