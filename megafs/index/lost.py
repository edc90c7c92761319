"""What a transaction that is about to be forgotten has changed, as the kernel knows it: inodes and names.

Asked by daemon.anew before and after the rollback; between the two the same dirent row may stand for another name.
"""

from collections.abc import Iterable

import apsw

from megafs.index.replication import INTEGER_KEY, touched
from megafs.model import Ino


def changed(changeset: bytes) -> tuple[set[Ino], set[int]]:
    """(inodes, rows of dirent) that the changeset creates, changes or removes."""
    inodes: set[Ino] = set()
    dirents: set[int] = set()
    for table, key in touched([changeset]):
        if table == "inode":
            inodes.add(Ino(INTEGER_KEY.unpack(key)[0]))
        elif table == "dirent":
            dirents.add(INTEGER_KEY.unpack(key)[0])
    return inodes, dirents


def names(connection: apsw.Connection, dirents: Iterable[int]) -> set[tuple[Ino, bytes]]:
    """(directory, name) of the rows that are there."""
    found = set()
    for row in dirents:
        entry = connection.execute("SELECT parent, name FROM dirent WHERE id = ?", (row,)).get
        if entry is not None:
            found.add((Ino(entry[0]), bytes(entry[1])))
    return found
