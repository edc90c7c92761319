"""What ``user.megafs.state`` says of a regular file: where its content is.

``local``: some of it is on this device only. ``shipping``: all of it has left, and it or the commit that names it is
not yet on as many hosts as everything must be before it counts. ``safe N/M``: it is, and here; N hosts have a part of
each of its packs, the policy wants M. ``remote``: it is on the hosts, and to read some of it one of them has to answer.
"""

import errno
import stat
from collections.abc import Sequence

import trio

from megafs.errors import Refused
from megafs.files.content import Content
from megafs.index.database import Database
from megafs.index.inodes import Inodes
from megafs.index.packs import SHIPPED, Packs
from megafs.model import Ino, PackNumber
from megafs.store.disk import Disk
from megafs.sync.packing import Landscape
from megafs.sync.reach import Reach

STATE = b"user.megafs.state"
ROWS = 2_000  # looked at between two looks at what else there is to do

Row = tuple[int, int, PackNumber, int]  # extent's id and start; its chunk's pack and offset


class States:
    """Asked by getxattr(2) for this one name."""

    def __init__(
        self, database: Database, content: Content, packs: Packs, disk: Disk, reach: Reach, landscape: Landscape
    ) -> None:
        self._database, self._content, self._packs, self._disk = database, content, packs, disk
        self._reach, self._landscape = reach, landscape
        self._inodes = Inodes(database)

    async def of(self, ino: Ino) -> bytes:
        """The value. Raises ENODATA for what is no regular file."""
        row = self._inodes.get(ino)
        if row is None or not stat.S_ISREG(row.mode):
            raise Refused(errno.ENODATA)
        if self._content.pending_bytes(ino):
            return b"local"
        packs: set[PackNumber] = set()
        newest, after, is_here = int(ino), -1, True
        while rows := self._rows(ino, after):
            packs.update(each[2] for each in rows)
            newest, after = max(newest, *(each[0] for each in rows)), rows[-1][1]
            is_here = is_here and await trio.to_thread.run_sync(self._disk_has, rows)
        hosts = {number: len({host for host, _, _ in self._packs.copies(number)}) for number in packs}
        waiting = [number for number in packs if (self._packs.local(number) or (0, SHIPPED, 0))[1] < SHIPPED]
        if any(not hosts[number] for number in waiting):
            return b"local"
        if waiting:
            return b"shipping"
        if not is_here:
            return b"remote"
        if not self._reach.has(newest):
            return b"shipping"
        places = self._landscape.policy().places
        return b"safe %d/%d" % (min(hosts.values(), default=places), places)

    def _rows(self, ino: Ino, after: int) -> list[Row]:
        return list(
            self._database.connection.execute(
                "SELECT e.id, e.start, c.pack, c.offset FROM extent e JOIN chunk c ON c.id = e.chunk "
                "WHERE e.ino = ? AND e.start > ? ORDER BY e.start LIMIT ?",
                (ino, after, ROWS),
            )
        )

    def _disk_has(self, rows: Sequence[Row]) -> bool:
        """Thread. Whether all these chunks have bytes here."""
        return all(self._disk.has(pack, offset) for _, _, pack, offset in rows)
