"""Statements on inode, dirent and xattr. Each method is one or a few prepared statements; meaning is in files/.

Rows come back as model values. Nothing here decides whether Linux would allow a change.

The rows of the last few inodes asked for are kept in mind, because requests on one file come one after another. They
count only as long as nothing but these methods has changed a row of the database: SQLite's own counter of changed rows
says so, so a change by anybody else, in any table, makes this forget everything.
"""

from collections.abc import Callable, Iterator

from megafs.config import DIRENTS_PER_PAGE
from megafs.index.database import Database
from megafs.model import Attributes, Ino

ATTRIBUTES = "id, mode, nlink, uid, gid, rdev, size, stored, atime_ns, mtime_ns, ctime_ns"
REMEMBERED = 64  # inodes: a file, its directory, and those of a few other clients
XATTR_NAMES = 1000  # different names of xattrs kept in mind; with more of them every question goes to the table
JOINED = ", ".join(f"i.{column}" for column in ATTRIBUTES.split(", "))


class Inodes:
    """The name space as rows."""

    def __init__(self, database: Database) -> None:
        self._new_id = database.new_id
        self._execute = database.connection.cursor().execute
        self._connection = database.connection
        self._changes = database.connection.total_changes
        self._rows: dict[Ino, Attributes] = {}
        self._as_of = -1  # how many rows had ever been changed when ``_rows`` were right
        self._absent: tuple[Ino, bytes, int] | None = None  # the name found free last, and as of how many changes
        self._xattr_names: set[bytes] | None = None  # see _names

    def get(self, ino: Ino) -> Attributes | None:
        """The inode's attributes, or None."""
        rows = self._known()
        known = rows.get(ino)
        if known is not None:
            return known
        found = self._execute(f"SELECT {ATTRIBUTES} FROM inode WHERE id = ?", (ino,)).get
        if found is None:
            return None
        if len(rows) >= REMEMBERED:
            rows.clear()
        row = rows[ino] = Attributes._make(found)
        return row

    def _known(self) -> dict[Ino, Attributes]:
        """The rows in mind, those of them that are still right. Who changes a row takes this first, then changes the
        row here and in the database, and then says ``_keep``."""
        changes = self._changes()
        if changes != self._as_of:
            self._rows.clear()
            self._as_of = changes
        return self._rows

    def _keep(self) -> None:
        """What changed just now is in ``_rows`` as well, or is no row of inode."""
        self._as_of = self._changes()

    def insert(
        self, mode: int, uid: int, gid: int, rdev: int, now_ns: int, parent: Ino, target: bytes | None
    ) -> Attributes:
        """A new inode with one link (two for a directory). ``parent`` only for directories, else 0."""
        rows, ino = self._known(), Ino(self._new_id())
        row = Attributes(
            ino, mode, 2 if parent else 1, uid, gid, rdev, len(target) if target else 0, 0, now_ns, now_ns, now_ns
        )
        self._execute("INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, parent, target))
        if len(rows) >= REMEMBERED:
            rows.clear()
        rows[ino] = row
        self._keep()
        return row

    def insert_root(self, mode: int, uid: int, gid: int, now_ns: int) -> None:
        """Inode 1, its own parent."""
        self._execute(
            "INSERT INTO inode VALUES (1, ?, 2, ?, ?, 0, 0, 0, ?, ?, ?, 1, NULL)",
            (mode, uid, gid, now_ns, now_ns, now_ns),
        )

    def _change(
        self, ino: Ino, values: str, parameters: tuple[object, ...], seen: Callable[[Attributes], Attributes]
    ) -> None:
        """One statement that changes an inode's row (?1 is its number), and ``seen``, which changes the row in mind."""
        rows = self._known()
        known = rows.pop(ino, None)
        self._execute(f"UPDATE inode SET {values} WHERE id = ?1", parameters)
        if known is not None:
            rows[ino] = seen(known)
        self._keep()

    def update(self, new: Attributes) -> None:
        """Write back the attributes but ``size`` and ``stored``, which follow the content."""
        self._change(
            new.ino,
            "mode = ?2, nlink = ?3, uid = ?4, gid = ?5, rdev = ?6, atime_ns = ?7, mtime_ns = ?8, ctime_ns = ?9",
            new[:6] + new[8:],
            lambda known: Attributes._make(new[:6] + known[6:8] + new[8:]),
        )

    def set_size(self, ino: Ino, size: int) -> None:
        """truncate(2)."""
        self._change(ino, "size = ?2", (ino, size), lambda known: known._replace(size=size))

    def touch(self, ino: Ino, now_ns: int) -> None:
        """mtime and ctime of a directory that changed; the clock is coarse, so most often they say so already."""
        rows = self._known()
        known = rows.pop(ino, None)
        if known is None or known.mtime_ns != now_ns or known.ctime_ns != now_ns:
            self._execute("UPDATE inode SET mtime_ns = ?2, ctime_ns = ?2 WHERE id = ?1", (ino, now_ns))
        if known is not None:
            rows[ino] = Attributes._make((*known[:9], now_ns, now_ns))
        self._keep()

    def touch_and_link(self, ino: Ino, now_ns: int, links: int) -> None:
        """The same, with ``links`` more subdirectories (each has a '..')."""
        self._execute(
            "UPDATE inode SET mtime_ns = ?2, ctime_ns = ?2, nlink = nlink + ?3 WHERE id = ?1", (ino, now_ns, links)
        )

    def set_atime(self, ino: Ino, now_ns: int) -> None:
        self._change(ino, "atime_ns = ?2", (ino, now_ns), lambda known: known._replace(atime_ns=now_ns))

    def grow(self, ino: Ino, size: int, stored: int) -> None:
        """After content was indexed: the size is at least ``size``; ``stored`` bytes were added (or taken, if
        negative)."""
        self._change(
            ino,
            "size = max(size, ?2), stored = stored + ?3",
            (ino, size, stored),
            lambda known: known._replace(size=max(known.size, size), stored=known.stored + stored),
        )

    def set_links(self, ino: Ino, nlink: int, now_ns: int) -> None:
        self._change(
            ino,
            "nlink = ?2, ctime_ns = ?3",
            (ino, nlink, now_ns),
            lambda known: known._replace(nlink=nlink, ctime_ns=now_ns),
        )

    def delete(self, ino: Ino) -> None:
        """The row and its xattrs; extents are the caller's."""
        self._known().pop(ino, None)
        self._execute("DELETE FROM inode WHERE id = ?", (ino,))
        if self._names():
            self._execute("DELETE FROM xattr WHERE ino = ?", (ino,))
        self._keep()

    def unlinked(self) -> list[Ino]:
        """Inodes without a name: purged at mount, when no kernel can know them any more."""
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
        changes = self._changes()
        if self._absent == (parent, name, changes):  # who makes a file asks twice: LOOKUP, then CREATE
            return None
        row = self._execute("SELECT ino FROM dirent WHERE parent = ? AND name = ?", (parent, name)).get
        if row is not None:
            return Ino(int(row))
        self._absent = parent, name, changes
        return None

    def link(self, parent: Ino, name: bytes, ino: Ino) -> None:
        """Add a name. The caller knows that it is free."""
        self._known()
        self._execute("INSERT INTO dirent VALUES (?, ?, ?, ?)", (self._new_id(), parent, name, ino))
        self._keep()

    def unlink(self, parent: Ino, name: bytes) -> None:
        """Remove a name."""
        self._known()
        self._execute("DELETE FROM dirent WHERE parent = ? AND name = ?", (parent, name))
        self._keep()

    def point(self, parent: Ino, name: bytes, ino: Ino) -> None:
        """Let an existing name stand for another inode; the row, and so the readdir cookie, stays."""
        self._execute("UPDATE dirent SET ino = ?3 WHERE parent = ?1 AND name = ?2", (parent, name, ino))

    def move(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes) -> None:
        """Rename to a free name. A new row, so that a listing of the new directory under way cannot meet it twice."""
        ino = self.lookup(parent, name)
        self.unlink(parent, name)
        self._execute("INSERT INTO dirent VALUES (?, ?, ?, ?)", (self._new_id(), new_parent, new_name, ino))

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
        return [(row[0], row[1], Attributes._make(row[2:])) for row in rows]

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
