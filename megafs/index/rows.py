"""What is known of inodes and names in RAM: rows as they are now, and which of them the table ``inode`` still lacks.

A program that unpacks an archive changes each inode four or five times within a moment. Each change as a statement
costs more than all the rest of its request, and the last one is enough: so changes of attributes stand here until
``Database.commit``, or until they are many. New rows and removed ones are statements at once.

Names are written at once; kept is what they stand for, since who lists a directory or makes a file names it again.

``index.inodes`` is the only one who reads and changes inodes and names past ``settle``: whoever has other statements on
these tables calls that first.
"""

from collections.abc import Callable

import apsw

from megafs.model import Attributes, Ino

COLUMNS = "id, mode, nlink, uid, gid, rdev, size, stored, atime_ns, mtime_ns, ctime_ns"
KNOWN = 16_384  # rows, 0.4 KB each, and as many names, 0.3 KB each
LATE = 1000  # rows; writing so many takes a few milliseconds


class Rows:
    """Owner of the rows that the table lacks."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._execute = connection.cursor().execute
        self._executemany = connection.cursor().executemany
        self._known: dict[Ino, Attributes] = {}  # those of ``late`` among them
        self.late: dict[Ino, Attributes] = {}
        self.names: dict[tuple[Ino, bytes], Ino | None] = {}  # None: there is no such name

    def note_name(self, parent: Ino, name: bytes, ino: Ino | None) -> None:
        """The table has it so."""
        if len(self.names) >= KNOWN:
            self.names.clear()
        self.names[parent, name] = ino

    def get(self, ino: Ino) -> Attributes | None:
        """The inode as it is now, or None."""
        row = self._known.get(ino)
        if row is not None:
            return row
        found = self._execute(f"SELECT {COLUMNS} FROM inode WHERE id = ?", (ino,)).get
        if found is None:
            return None
        row = Attributes._make(found)
        self.note(row)
        return row

    def note(self, row: Attributes) -> None:
        """The table has it so."""
        if len(self._known) >= KNOWN:
            self._known = dict(self.late)
        self._known[row.ino] = row

    def put(self, row: Attributes) -> None:
        """An inode of the table is so from now on."""
        ino = row.ino
        self._known[ino] = self.late[ino] = row
        if len(self.late) >= LATE:
            self.write()

    def change(self, ino: Ino, how: Callable[[Attributes], Attributes]) -> None:
        """The same of an inode by its number; nothing happens if it is gone."""
        row = self.get(ino)
        if row is not None:
            self.put(how(row))

    def remove(self, ino: Ino) -> None:
        """It is gone from the table."""
        self._known.pop(ino, None)
        self.late.pop(ino, None)

    def write(self) -> None:
        """Give the table what it lacks. After an error of SQLite it still lacks it."""
        if self.late:
            self._executemany(
                "UPDATE inode SET mode = ?2, nlink = ?3, uid = ?4, gid = ?5, rdev = ?6, size = ?7, stored = ?8, "
                "atime_ns = ?9, mtime_ns = ?10, ctime_ns = ?11 WHERE id = ?1",
                self.late.values(),
            )
            self.late.clear()

    def settle(self) -> None:
        """Before statements of others on the table: it lacks nothing, and is asked anew afterwards."""
        self.write()
        self._known.clear()
        self.names.clear()

    def drop(self) -> None:
        """The open transaction is forgotten."""
        self.late.clear()
        self._known.clear()
        self.names.clear()
