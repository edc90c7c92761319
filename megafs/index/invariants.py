"""What must hold among the rows of any index, however it came to be: one query per rule, each finding what breaks it.

Read by sync.check (``megafs check``) and by the crash simulator. Takes any connection, so that a snapshot in a thread
will do, and changes nothing. Findings name ids and numbers, never names or content.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import apsw

from megafs.index.schema import VERSION
from megafs.model import COUNTER_BITS, ROOT_INO

S_IFMT, S_IFDIR, S_IFREG, S_IFLNK = 0o170000, 0o040000, 0o100000, 0o120000
MOST_PER_RULE = 100  # findings listed of one rule; an index in ruins would have millions
IS_DIRECTORY = f"(i.mode & {S_IFMT}) = {S_IFDIR}"
IS_FILE = f"(i.mode & {S_IFMT}) = {S_IFREG}"
DOOMED = "EXISTS (SELECT 1 FROM doomed d WHERE d.ino = e.ino AND e.start >= d.start AND e.id <= d.before)"
REACHED = (
    f"WITH RECURSIVE reached(ino) AS (SELECT {ROOT_INO} UNION "
    "SELECT d.ino FROM dirent d JOIN reached r ON d.parent = r.ino) "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One place where a rule is broken."""

    rule: str
    row: int | str  # id of the row, an inode number or a chunk in hex
    text: str


# rule: (what is wrong, query for the ids of the rows where it is). The order is that of repair.
RULES: dict[str, tuple[str, str]] = {
    "root": (
        "the root directory is missing",
        f"SELECT {ROOT_INO} WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.id = {ROOT_INO} AND {IS_DIRECTORY})",
    ),
    "name-without-inode": (
        "a name stands for an inode that does not exist",
        "SELECT d.id FROM dirent d LEFT JOIN inode i ON i.id = d.ino WHERE i.id IS NULL OR i.nlink = 0",
    ),
    "name-outside": (
        "a name lies in what is no directory",
        f"SELECT d.id FROM dirent d LEFT JOIN inode i ON i.id = d.parent WHERE i.id IS NULL OR NOT {IS_DIRECTORY}",
    ),
    "name-impossible": (
        "a name that no file can have",
        "SELECT id FROM dirent WHERE length(name) NOT BETWEEN 1 AND 255 OR instr(name, x'2f') OR instr(name, x'00') "
        "OR name IN (x'2e', x'2e2e')",
    ),
    "orphan": (
        "an inode with links that no path leads to",
        REACHED + "SELECT id FROM inode WHERE nlink > 0 AND id NOT IN (SELECT ino FROM reached)",
    ),
    "directory-twice": (
        "a directory has more than one name",
        f"SELECT d.ino FROM dirent d JOIN inode i ON i.id = d.ino WHERE {IS_DIRECTORY} "
        "GROUP BY d.ino HAVING count(*) > 1",
    ),
    "parent": (
        "a directory says that it lies elsewhere",
        f"SELECT i.id FROM inode i JOIN dirent d ON d.ino = i.id WHERE {IS_DIRECTORY} AND i.parent <> d.parent",
    ),
    "links": (
        "a file's link count is not the number of its names",
        f"SELECT i.id FROM inode i WHERE NOT {IS_DIRECTORY} AND "
        "i.nlink <> (SELECT count(*) FROM dirent d WHERE d.ino = i.id)",
    ),
    "directory-links": (
        "a directory's link count is not 2 and one for each directory in it",
        f"SELECT p.id FROM inode p WHERE (p.mode & {S_IFMT}) = {S_IFDIR} AND p.nlink > 0 AND p.nlink <> 2 + "
        f"(SELECT count(*) FROM dirent d JOIN inode i ON i.id = d.ino WHERE d.parent = p.id AND {IS_DIRECTORY})",
    ),
    "symlink": (
        "a symbolic link without its target, or of another length",
        f"SELECT id FROM inode WHERE (mode & {S_IFMT}) = {S_IFLNK} AND (target IS NULL OR length(target) <> size)",
    ),
    "xattr-without-inode": (
        "an extended attribute of an inode that does not exist",
        "SELECT id FROM xattr WHERE ino NOT IN (SELECT id FROM inode)",
    ),
    "extent-shape": (
        "an extent that is empty, negative, or of what is no file",
        f"SELECT e.id FROM extent e LEFT JOIN inode i ON i.id = e.ino WHERE NOT {DOOMED} AND "
        f"(i.id IS NULL OR NOT {IS_FILE} OR e.start < 0 OR e.start >= e.stop OR e.skip < 0)",
    ),
    "extent-overlap": (
        "two extents of a file overlap",
        "SELECT id FROM (SELECT id, start, lag(stop) OVER (PARTITION BY ino ORDER BY start) AS before FROM extent) "
        "WHERE start < before",
    ),
    "extent-beyond-size": (
        "an extent reaches beyond the end of its file",
        f"SELECT e.id FROM extent e JOIN inode i ON i.id = e.ino WHERE e.stop > i.size AND NOT {DOOMED}",
    ),
    "extent-without-chunk": (
        "an extent names a chunk that does not exist, or reaches beyond it",
        "SELECT e.id FROM extent e LEFT JOIN chunk c ON c.id = e.chunk "
        "WHERE c.id IS NULL OR e.skip + e.stop - e.start > c.plain",
    ),
    "stored": (
        "a file's stored bytes are not the sum of its extents",
        f"SELECT i.id FROM inode i WHERE {IS_FILE} AND "
        "i.stored <> (SELECT coalesce(sum(e.stop - e.start), 0) FROM extent e WHERE e.ino = i.id)",
    ),
    "chunk-leaked": (
        "a chunk that no extent names and that nobody is going to collect",
        "SELECT hex(id) FROM chunk c WHERE NOT EXISTS (SELECT 1 FROM extent e WHERE e.chunk = c.id) "
        "AND NOT EXISTS (SELECT 1 FROM candidate k WHERE k.chunk = c.id)",
    ),
    "chunk-without-pack": (
        "a chunk lies in a pack that does not exist, or outside it",
        "SELECT hex(c.id) FROM chunk c LEFT JOIN pack p ON p.number = c.pack "
        "WHERE p.number IS NULL OR c.offset < 0 OR (p.stored > 0 AND c.offset + c.sealed > p.stored)",
    ),
    "chunk-overlap": (
        "two chunks overlap in their pack",
        "SELECT hex(id) FROM (SELECT id, offset, "
        "lag(offset + sealed) OVER (PARTITION BY pack ORDER BY offset) AS before "
        "FROM chunk) WHERE offset < before",
    ),
    "pack-nowhere": (
        "a pack with live chunks lies neither here nor on any host",
        "SELECT number FROM pack p WHERE EXISTS (SELECT 1 FROM chunk c WHERE c.pack = p.number) "
        "AND NOT EXISTS (SELECT 1 FROM local_pack l WHERE l.number = p.number) "
        "AND NOT EXISTS (SELECT 1 FROM copy k WHERE k.pack = p.number)",
    ),
    "pack-dead": (
        "a pack counts as dead and has live chunks",
        "SELECT number FROM pack p WHERE dead_since > 0 AND EXISTS (SELECT 1 FROM chunk c WHERE c.pack = p.number)",
    ),
    "local-without-pack": (
        "the cache knows a pack that does not exist",
        "SELECT number FROM local_pack WHERE number NOT IN (SELECT number FROM pack)",
    ),
    "copy-without-pack": (
        "a copy of a pack that does not exist, or on a host that does not exist",
        "SELECT id FROM copy WHERE pack NOT IN (SELECT number FROM pack) OR host NOT IN (SELECT id FROM host)",
    ),
    "id-unused": (
        "a row has a number that its device has not handed out yet",
        "SELECT t.id FROM (SELECT id FROM inode UNION ALL SELECT id FROM dirent UNION ALL SELECT id FROM extent "
        f"UNION ALL SELECT number FROM pack) t JOIN device v ON v.number = t.id >> {COUNTER_BITS} "
        f"WHERE (t.id & {(1 << COUNTER_BITS) - 1}) > v.counter AND t.id <> {ROOT_INO}",
    ),
}


def faults(connection: apsw.Connection) -> Iterator[Fault]:
    """Every rule that does not hold, and where; at most MOST_PER_RULE of one rule. A scan of the whole index."""
    for row in connection.execute("PRAGMA quick_check(10)"):
        if row[0] != "ok":
            yield Fault(rule="database", row=0, text=f"SQLite finds the index damaged: {row[0]}")
    version = connection.pragma("user_version")
    if version != VERSION:
        yield Fault(rule="schema", row=0, text=f"the index has schema {version}, this program reads {VERSION}")
    for rule, (text, query) in RULES.items():
        for row in connection.execute(f"{query} LIMIT {MOST_PER_RULE}"):
            yield Fault(rule=rule, row=row[0], text=text)


def left_over(connection: apsw.Connection) -> int:
    """Unlinked inodes. While mounted they may be open files; at mount they are purged."""
    return int(connection.execute("SELECT count(*) FROM inode WHERE nlink = 0").get)
