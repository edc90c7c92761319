"""Rows of what is to be put beside the vault's newer history (table ``only_here``), and what some changes touched.

Asked and written when an old state is brought forward (sync.recover), emptied once the files lie in lost+found
(daemon.rescue). Rows only; local.
"""

from collections.abc import Iterable

import apsw

from megafs.index.replication import INTEGER_KEY, touched
from megafs.model import ROOT_INO, ChunkPlace, Ino, PackId

MOST_LEVELS = 4096  # of a path; more is a ring


class Aside:
    """Statements on ``only_here``, and the way from an inode to its path."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute

    def add(self, piece: bytes) -> None:
        self._execute("INSERT INTO only_here (piece) VALUES (?)", (piece,))

    def all(self) -> list[tuple[int, bytes]]:
        """(n, piece), in the order in which they were added."""
        return list(self._connection.execute("SELECT n, piece FROM only_here ORDER BY n"))

    def remove(self, last: int) -> None:
        """Rows up to ``last`` have been dealt with."""
        self._execute("DELETE FROM only_here WHERE n <= ?", (last,))

    def touched(self, changesets: Iterable[bytes]) -> list[Ino]:
        """The inodes that still exist among those whose attributes, content, names or xattrs were changed."""
        found: set[int] = set()
        for table, key in touched(changesets):
            if table == "inode":
                found.add(INTEGER_KEY.unpack(key)[0])
            elif table in ("extent", "dirent", "xattr"):
                row = self._execute(f"SELECT ino FROM {table} WHERE id = ?", INTEGER_KEY.unpack(key)).get
                found |= set() if row is None else {int(row)}
        return [Ino(number) for number in sorted(found)]

    def path(self, ino: Ino) -> bytes | None:
        """One path of the inode, from the root; None if it has none."""
        parts: list[bytes] = []
        while ino != ROOT_INO:
            row = self._execute("SELECT parent, name FROM dirent WHERE ino = ? LIMIT 1", (ino,)).get
            if row is None or len(parts) > MOST_LEVELS:
                return None
            ino = Ino(row[0])
            parts.append(row[1])
        return b"/".join(reversed(parts)) or None

    def content(self, ino: Ino) -> list[tuple[int, int, int, ChunkPlace, PackId, int]]:
        """(start, stop, skip, place, id and epoch of the pack) of every extent."""
        rows = self._connection.execute(
            "SELECT e.start, e.stop, e.skip, c.id, c.pack, c.offset, c.sealed, c.plain, c.codec, c.digest, p.id, "
            "p.epoch FROM extent e JOIN chunk c ON c.id = e.chunk JOIN pack p ON p.number = c.pack WHERE e.ino = ?"
            " ORDER BY e.start",
            (ino,),
        )
        return [(row[0], row[1], row[2], ChunkPlace(*row[3:10]), PackId(row[10]), row[11]) for row in rows]
