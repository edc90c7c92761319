"""Mending what index.invariants finds, where nothing is lost by it: counts made true, what has no name gets one.

Faults in, the rules mended out; the caller commits. What could only be mended by throwing something away (an extent
without its chunk, two extents that overlap, a name without an inode) stays as it is, to be looked at by a human.
"""

from collections.abc import Callable, Mapping

import apsw

from megafs.index.database import Database
from megafs.index.inodes import Inodes
from megafs.index.invariants import IS_DIRECTORY, REACHED, S_IFDIR, S_IFMT, Fault, faults
from megafs.model import ROOT_INO, Ino

LOST_AND_FOUND = b"lost+found"
PASSES = 3  # naming an orphan makes other faults visible: its parent's links, its own


class Mender:
    """One repair of one index. Owner of nothing; every step is part of the open transaction."""

    def __init__(self, database: Database, now_ns: int) -> None:
        self._database, self._now_ns = database, now_ns
        self._inodes = Inodes(database)
        self._ways: Mapping[str, Callable[[Fault], None]] = {
            "orphan": self._place,
            "parent": self._set_parent,
            "links": self._count_names,
            "directory-links": self._count_directories,
            "extent-beyond-size": self._reach,
            "stored": self._add_up,
            "chunk-leaked": self._suspect,
        }

    def mend(self) -> set[tuple[str, int | str]]:
        """Mend what can be mended; returns (rule, row) of each."""
        mended: set[tuple[str, int | str]] = set()
        for _ in range(PASSES):
            found = [fault for fault in self._faults() if fault.rule in self._ways]
            if not found:
                break
            for fault in found:
                self._ways[fault.rule](fault)
            mended |= {(fault.rule, fault.row) for fault in found}
        left = {(fault.rule, fault.row) for fault in self._faults()}
        return mended - left

    def _execute(self, statement: str, parameters: tuple[object, ...]) -> apsw.Cursor:
        self._database.rows.settle()
        return self._database.connection.execute(statement, parameters)

    def _faults(self) -> list[Fault]:
        self._database.rows.settle()
        return list(faults(self._database.connection))

    def _lost_and_found(self) -> Ino:
        there = self._inodes.lookup(ROOT_INO, LOST_AND_FOUND)
        if there is not None:
            return there
        above = self._inodes.get(ROOT_INO)
        uid, gid = (0, 0) if above is None else (above.uid, above.gid)  # whoever owns the drive may look into it
        row = self._inodes.insert(S_IFDIR | 0o700, uid, gid, 0, self._now_ns, ROOT_INO, None)
        self._inodes.link(ROOT_INO, LOST_AND_FOUND, row.ino)
        self._inodes.touch_and_link(ROOT_INO, self._now_ns, 1)
        return row.ino

    def _place(self, fault: Fault) -> None:
        """Under its number in lost+found; but not what has a name already, in a directory that is an orphan itself."""
        ino = Ino(int(fault.row))
        row = self._inodes.get(ino)
        named = self._execute("SELECT 1 FROM dirent WHERE ino = ? LIMIT 1", (ino,)).get
        if row is None or (named is not None and not self._is_own_ancestor(ino)):
            return
        above = self._lost_and_found()
        if named is not None:
            self._execute("DELETE FROM dirent WHERE ino = ?", (ino,))  # its name was in itself: a ring
        self._inodes.link(above, b"%d" % ino, ino)
        self._execute(f"UPDATE inode AS i SET parent = ?2 WHERE id = ?1 AND {IS_DIRECTORY}", (ino, above))
        self._execute(
            f"UPDATE inode AS i SET nlink = nlink + 1 WHERE id = ?2 AND EXISTS "
            f"(SELECT 1 FROM inode WHERE id = ?1 AND (mode & {S_IFMT}) = {S_IFDIR})",
            (ino, above),
        )

    def _is_own_ancestor(self, ino: Ino) -> bool:
        """Whether a ring of directories holds it; the first one found is taken out of the ring."""
        reached = self._execute(REACHED + "SELECT 1 FROM reached WHERE ino = ?", (ino,)).get
        ring = self._execute(
            "WITH RECURSIVE above(ino) AS (SELECT parent FROM dirent WHERE ino = ?1 UNION "
            "SELECT d.parent FROM dirent d JOIN above a ON d.ino = a.ino) SELECT 1 FROM above WHERE ino = ?1",
            (ino,),
        ).get
        return reached is None and ring is not None

    def _set_parent(self, fault: Fault) -> None:
        self._execute(
            "UPDATE inode SET parent = (SELECT parent FROM dirent WHERE ino = ?1 LIMIT 1) WHERE id = ?1", (fault.row,)
        )

    def _count_names(self, fault: Fault) -> None:
        """Of a file without any name the orphan rule takes care."""
        self._execute(
            "UPDATE inode SET nlink = max(nlink > 0, (SELECT count(*) FROM dirent WHERE ino = ?1)) WHERE id = ?1",
            (fault.row,),
        )

    def _count_directories(self, fault: Fault) -> None:
        self._execute(
            "UPDATE inode SET nlink = 2 + (SELECT count(*) FROM dirent d JOIN inode i ON i.id = d.ino "
            f"WHERE d.parent = ?1 AND {IS_DIRECTORY}) WHERE id = ?1",
            (fault.row,),
        )

    def _reach(self, fault: Fault) -> None:
        """The file is as long as what is stored of it."""
        self._execute(
            "UPDATE inode SET size = max(size, (SELECT stop FROM extent WHERE id = ?1)) "
            "WHERE id = (SELECT ino FROM extent WHERE id = ?1)",
            (fault.row,),
        )

    def _add_up(self, fault: Fault) -> None:
        self._execute(
            "UPDATE inode SET stored = (SELECT coalesce(sum(stop - start), 0) FROM extent WHERE ino = ?1) "
            "WHERE id = ?1",
            (fault.row,),
        )

    def _suspect(self, fault: Fault) -> None:
        """The collector looks at it and takes it away."""
        self._execute("INSERT OR IGNORE INTO candidate VALUES (?)", (bytes.fromhex(str(fault.row)),))
