"""What a row from hosts may say. A device that was let in may be evil: what it commits is sealed, signed, chained, and
not believed. Nothing that lists, copies, reads or prints a tree meets a value that no device of ours can have written.
"""

import re
import stat
from collections.abc import Callable, Mapping

from megafs.config import CHUNK_BYTES, NAME_BYTES, SYMLINK_BYTES, XATTR_NAME_BYTES, XATTR_VALUE_BYTES
from megafs.errors import Corrupt, Refused
from megafs.files import acl
from megafs.files.xattrs import ACLS, must_be_known
from megafs.index import replication
from megafs.index.database import Database
from megafs.index.schema import COLUMNS
from megafs.packs.format import sealed_bytes

Row = Mapping[str, object]  # by column; of a change only what it sets

TYPES = {"INTEGER": int, "BLOB": bytes, "TEXT": str, "REAL": (float, int)}
SIGNED = re.compile(r"_ns$|^shard$|^price_")
FILE_TYPES = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR}
LENGTHS = {"chunk": 16, "digest": 32, "host": 16, "public": 32}  # of a BLOB column, whatever the table


def check_rows(database: Database, changeset: bytes) -> None:
    """Of a changeset that is about to be applied to this index. Raises Corrupt, in a sentence without the value."""
    for table, key, row in replication.set_values(changeset):
        _check_types(table, row)
        if table == "xattr" and "name" not in row:
            query = "SELECT name FROM xattr WHERE id = ?"
            row["name"] = database.connection.execute(query, (key,)).get or b""
        rule = RULES.get(table)
        if rule is not None:
            rule(row)


def _check_types(table: str, row: Row) -> None:
    kinds = COLUMNS[table]
    for column, value in row.items():
        if value is None and (table, column) == ("inode", "target"):
            continue
        if not isinstance(value, TYPES[kinds[column]]):  # type: ignore[arg-type]
            raise Corrupt(f"changeset: a value of another type in {table}")
        if isinstance(value, int) and value < 0 and not SIGNED.search(column):
            raise Corrupt(f"changeset: a number below 0 in {table}")
        if isinstance(value, bytes) and column in LENGTHS and len(value) != LENGTHS[column]:
            raise Corrupt(f"changeset: a value of another length in {table}")


def _dirent(row: Row) -> None:
    name = row.get("name", b"x")
    assert isinstance(name, bytes)
    if not 0 < len(name) <= NAME_BYTES or name in (b".", b"..") or {ord("/"), 0}.intersection(name):
        raise Corrupt("changeset: a name that no file can have")


def _inode(row: Row) -> None:
    mode, target = row.get("mode", stat.S_IFREG), row.get("target")
    assert isinstance(mode, int)
    if stat.S_IFMT(mode) not in FILE_TYPES or mode >> 16:
        raise Corrupt("changeset: a mode that no file can have")
    if isinstance(target, bytes) and (not 0 < len(target) <= SYMLINK_BYTES or 0 in target):
        raise Corrupt("changeset: a target that no link can have")
    if {"mode", "target"} <= row.keys() and stat.S_ISLNK(mode) != (target is not None):
        raise Corrupt("changeset: a link without a target, or a target without a link")


def _xattr(row: Row) -> None:
    name, value = row.get("name"), row.get("value", b"")
    assert isinstance(name, bytes)
    assert isinstance(value, bytes)
    try:
        must_be_known(name)
    except Refused:
        raise Corrupt("changeset: an attribute that no file can have") from None
    if len(name) > XATTR_NAME_BYTES or 0 in name or len(value) > XATTR_VALUE_BYTES:
        raise Corrupt("changeset: an attribute that no file can have")
    if name in ACLS and "value" in row:
        acl.parse(value)


def _extent(row: Row) -> None:
    if {"start", "stop"} <= row.keys() and not row["start"] < row["stop"]:  # type: ignore[operator]
        raise Corrupt("changeset: an extent that ends before it begins")


def _chunk(row: Row) -> None:
    if row.get("plain", 1) not in range(1, CHUNK_BYTES + 1) or row.get("sealed", 1) not in SEALED:
        raise Corrupt("changeset: a chunk of a size that none has")


SEALED = range(1, sealed_bytes(CHUNK_BYTES) + 1)
RULES: dict[str, Callable[[Row], None]] = {
    "dirent": _dirent,
    "inode": _inode,
    "xattr": _xattr,
    "extent": _extent,
    "chunk": _chunk,
}
