"""Statements on inode, dirent and xattr. Each method is one or a few prepared statements; meaning is in files/.

Rows come back as model values. Nothing here decides whether Linux would allow a change. Attributes go
through ``Database.rows``, which writes them late.
"""

from collections.abc import Iterator

from megafs.config import DIRENTS_PER_PAGE
from megafs.index.database import Database
from megafs.index.rows import COLUMNS
from megafs.model import Attributes, Ino

UNKNOWN = Ino(-1)
XATTR_NAMES = 1000  # different names of xattrs kept in mind; with more of them every question goes to the table
JOINED = ", ".join(f"i.{column}" for column in COLUMNS.split(", "))


class Inodes:
    """The name space as rows."""

    def __init__(self, database: Database) -> None:
        self._new_id = database.new_id
        self._rows = database.rows
        self._execute = database.connection.cursor().execute
        self._connection = database.connection
        self._xattr_names: set[bytes] | None = None  # see _names

    def get(self, ino: Ino) -> Attributes | None:
        """The inode's attributes, or None."""
        return self._rows.get(ino)

    def insert(
        self, mode: int, uid: int, gid: int, rdev: int, now_ns: int, parent: Ino, target: bytes | None
    ) -> Attributes:
        """A new inode with one link (two for a directory). ``parent`` only for directories, else 0."""
        ino = Ino(self._new_id())
        row = Attributes(
            ino, mode, 2 if parent else 1, uid, gid, rdev, len(target) if target else 0, 0, now_ns, now_ns, now_ns
        )
        self._execute("INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, parent, target))
        self._rows.note(row)
        return row

    def insert_root(self, mode: int, uid: int, gid: int, now_ns: int) -> None:
        """Inode 1, its own parent."""
        self._execute(
            "INSERT INTO inode VALUES (1, ?, 2, ?, ?, 0, 0, 0, ?, ?, ?, 1, NULL)",
            (mode, uid, gid, now_ns, now_ns, now_ns),
        )

    def update(self, new: Attributes) -> None:
        """The attributes but ``size`` and ``stored``, which follow the content."""
        self._rows.change(new.ino, lambda known: Attributes._make(new[:6] + known[6:8] + new[8:]))

    def set_size(self, ino: Ino, size: int) -> None:
        """truncate(2)."""
        self._rows.change(ino, lambda row: row._replace(size=size))

    def touch(self, ino: Ino, now_ns: int) -> None:
        """mtime and ctime of a directory that changed; the clock is coarse, so most often they say so already."""
        row = self.get(ino)
        if row is not None and (row.mtime_ns != now_ns or row.ctime_ns != now_ns):
            self._rows.put(Attributes._make((*row[:9], now_ns, now_ns)))

    def touch_and_link(self, ino: Ino, now_ns: int, links: int) -> None:
        """The same, with ``links`` more subdirectories (each has a '..')."""
        self._rows.change(ino, lambda row: row._replace(mtime_ns=now_ns, ctime_ns=now_ns, nlink=row.nlink + links))

    def set_atime(self, ino: Ino, now_ns: int) -> None:
        self._rows.change(ino, lambda row: row._replace(atime_ns=now_ns))

    def grow(self, ino: Ino, size: int, stored: int) -> None:
        """After content was indexed: the size is at least ``size``; ``stored`` bytes were added (or taken, if
        negative)."""
        self._rows.change(ino, lambda row: row._replace(size=max(row.size, size), stored=row.stored + stored))

    def set_links(self, ino: Ino, nlink: int, now_ns: int) -> None:
        self._rows.change(ino, lambda row: row._replace(nlink=nlink, ctime_ns=now_ns))

    def delete(self, ino: Ino) -> None:
        """The row and its xattrs; extents are the caller's."""
        self._rows.remove(ino)
        self._execute("DELETE FROM inode WHERE id = ?", (ino,))
        if self._names():
            self._execute("DELETE FROM xattr WHERE ino = ?", (ino,))

    def unlinked(self) -> list[Ino]:
        """Inodes without a name: purged at mount, when no kernel can know them any more."""
        self._rows.write()
        return [Ino(int(row[0])) for row in self._connection.execute("SELECT id FROM inode WHERE nlink = 0")]

    def target(self, ino: Ino) -> bytes | None:
        """Where a symlink points."""
        value = self._execute("SELECT target FROM inode WHERE id = ?", (ino,)).get
        assert value is None or isinstance(value, bytes)
        return value

    def parent(self, ino: Ino) -> Ino:
        """The directory above a directory; 0 for anything else or nothing."""
        return Ino(int(self._execute("SELECT parent FROM inode WHERE id = ?", (ino,)).get or 0))

    def set_parent(self, ino: Ino, parent: Ino) -> None:
        self._execute("UPDATE inode SET parent = ?2 WHERE id = ?1", (ino, parent))

    def lookup(self, parent: Ino, name: bytes) -> Ino | None:
        """The inode that a name stands for, or None."""
        ino = self._rows.names.get((parent, name), UNKNOWN)
        if ino is UNKNOWN:
            ino = self._execute("SELECT ino FROM dirent WHERE parent = ? AND name = ?", (parent, name)).get
            self._rows.note_name(parent, name, ino)
        return ino

    def link(self, parent: Ino, name: bytes, ino: Ino) -> None:
        """Add a name. The caller knows that it is free."""
        self._execute("INSERT INTO dirent VALUES (?, ?, ?, ?)", (self._new_id(), parent, name, ino))
        self._rows.note_name(parent, name, ino)

    def unlink(self, parent: Ino, name: bytes) -> None:
        """Remove a name."""
        self._execute("DELETE FROM dirent WHERE parent = ? AND name = ?", (parent, name))
        self._rows.names.pop((parent, name), None)

    def point(self, parent: Ino, name: bytes, ino: Ino) -> None:
        """Let an existing name stand for another inode; the row, and so the readdir cookie, stays."""
        self._execute("UPDATE dirent SET ino = ?3 WHERE parent = ?1 AND name = ?2", (parent, name, ino))
        self._rows.note_name(parent, name, ino)

    def move(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes) -> None:
        """Rename to a free name. A new row, so that a listing of the new directory under way cannot meet it twice."""
        ino = self.lookup(parent, name)
        assert ino is not None
        self.unlink(parent, name)
        self.link(new_parent, new_name, ino)

    def is_empty(self, ino: Ino) -> bool:
        """Whether a directory has no names."""
        return self._execute("SELECT 1 FROM dirent WHERE parent = ? LIMIT 1", (ino,)).get is None

    def page(self, parent: Ino, after: int) -> list[tuple[int, bytes, Attributes]]:
        """The next names behind cookie ``after``: (cookie, name, attributes), one join."""
        rows = self._connection.execute(
            f"SELECT d.id, d.name, {JOINED} FROM dirent d INDEXED BY dirent_page CROSS JOIN inode i ON i.id = d.ino "
            "WHERE d.parent = ? AND d.id > ? ORDER BY d.id LIMIT ?",
            (parent, after, DIRENTS_PER_PAGE),
        )
        known, found = self._rows, []
        for row in rows:
            attributes = Attributes._make(row[2:])
            if attributes.ino in known.late:
                attributes = known.late[attributes.ino]
            else:
                known.note(attributes)  # who lists a directory reads its files next
            known.note_name(parent, row[1], attributes.ino)
            found.append((row[0], row[1], attributes))
        return found

    def totals(self) -> tuple[int, int]:
        """(inodes with a name, bytes stored); a full scan, for status on a snapshot only."""
        row = self._execute("SELECT count(*), coalesce(sum(stored), 0) FROM inode WHERE nlink > 0").get
        return int(row[0]), int(row[1])

    def xattr(self, ino: Ino, name: bytes) -> bytes | None:
        """The value, or None. Nearly every question is for an ACL or a capability, which the vault never had: that is
        answered from RAM."""
        names = self._names()
        if len(names) <= XATTR_NAMES and name not in names:
            return None
        value = self._execute("SELECT value FROM xattr WHERE ino = ? AND name = ?", (ino, name)).get
        assert value is None or isinstance(value, bytes)
        return value

    def _names(self) -> set[bytes]:
        """Names of xattrs, by a scan of their index, done once; more than XATTR_NAMES: not all of them. One that
        nothing has any more does no harm."""
        if self._xattr_names is None:
            rows = self._connection.execute("SELECT DISTINCT name FROM xattr LIMIT ?", (XATTR_NAMES + 1,))
            self._xattr_names = {row[0] for row in rows}
        return self._xattr_names

    def xattrs(self, ino: Ino) -> Iterator[tuple[bytes, bytes]]:
        """All of an inode's, as (name, value)."""
        yield from self._connection.execute("SELECT name, value FROM xattr WHERE ino = ? ORDER BY id", (ino,))

    def set_xattr(self, ino: Ino, name: bytes, value: bytes) -> None:
        if self.xattr(ino, name) is None:
            self._execute("INSERT INTO xattr VALUES (?, ?, ?, ?)", (self._new_id(), ino, name, value))
            names = self._names()
            if len(names) <= XATTR_NAMES:
                names.add(name)
        else:
            self._execute("UPDATE xattr SET value = ?3 WHERE ino = ?1 AND name = ?2", (ino, name, value))

    def delete_xattr(self, ino: Ino, name: bytes) -> None:
        self._execute("DELETE FROM xattr WHERE ino = ? AND name = ?", (ino, name))
