"""Names and attributes as Linux means them. Synchronous: each call is one atomic step in the open transaction.

The kernel has checked permissions, sticky bits, types and loops (default_permissions); what is decided here is what
only the file system knows: whether a name is there, a directory empty, which inode loses its last link. Content is
files.content's: what has to be dropped is told to it.
"""

import errno
import stat
from collections.abc import Callable
from typing import NamedTuple

from megafs.config import NAME_BYTES, SYMLINK_BYTES
from megafs.errors import Refused
from megafs.files import setid
from megafs.files.content import Content
from megafs.files.xattrs import Xattrs
from megafs.index.inodes import Inodes
from megafs.model import ROOT_INO, Attributes, Ino

DOTS = 2  # entries that every directory has; also the cookie of the second
NOREPLACE, EXCHANGE = 1, 2  # renameat2(2)
LINKS = 65_000  # as ext4 allows


class Change(NamedTuple):
    """What SETATTR asks for; None: leave it. A tuple: untar makes four a file, a frozen dataclass takes 3 µs."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None

    def asks_nothing(self) -> bool:
        """As the kernel says that a write has to take away set-id bits (or, with a ctime, chown without an id)."""
        return self[:6] == NOTHING

    def takes_set_id(self, by: int, *, is_file: bool) -> bool:
        """Whether this is a write or truncate by anyone but root, or a chown: chmod has a mode, and of a file a
        ctime."""
        mode, uid, gid, size, _, _, ctime_ns = self
        if uid is not None or gid is not None or (size is not None and by):
            return True
        return self.asks_nothing() or (is_file and mode is not None and ctime_ns is None)


NOTHING = (None,) * 6


class Namespace:
    """Owner of the set of unlinked inodes that the kernel may still use."""

    def __init__(self, inodes: Inodes, xattrs: Xattrs, content: Content, clock_ns: Callable[[], int]) -> None:
        self._inodes, self._xattrs, self._content, self._now_ns = inodes, xattrs, content, clock_ns
        self.unlinked: set[Ino] = set()

    def get(self, ino: Ino) -> Attributes:
        """As the index has it, with the size that accepted writes make. Raises ESTALE for an inode that is gone."""
        return self._current(self.row(ino))

    def row(self, ino: Ino) -> Attributes:
        """As the index has it. Raises ESTALE for an inode that is gone."""
        row = self._inodes.get(ino)
        if row is None:
            raise Refused(errno.ESTALE)
        return row

    def _current(self, row: Attributes) -> Attributes:
        pending = self._content.pending_bytes(row.ino)
        if not pending:
            return row
        return Attributes(*row[:6], self._content.size(row.ino, row.size), row.stored + pending, *row[8:])

    def lookup(self, parent: Ino, name: bytes) -> Attributes | None:
        """The inode behind a name, or None. ``.`` and ``..`` come from handles (open_by_handle_at, NFS)."""
        if name == b".":
            # The kernel asks only for what it has dropped: without a link, and with its FORGET on the way, it is gone.
            row = self.get(parent)
            return row if row.nlink else None
        if name == b"..":
            above = self._inodes.parent(parent)
            return self.get(above) if above else None
        if len(name) > NAME_BYTES:
            raise Refused(errno.ENAMETOOLONG)
        ino = self._inodes.lookup(parent, name)
        return None if ino is None else self.get(ino)

    def create(
        self,
        parent: Ino,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        umask: int = 0,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Attributes:
        """A new inode of any type under a new name. The umask applies where ``parent`` has no default ACL."""
        above = self._parent_for(parent, name)
        if target is not None and len(target) > SYMLINK_BYTES:
            raise Refused(errno.ENAMETOOLONG)
        is_directory = stat.S_ISDIR(mode)
        if above.mode & stat.S_ISGID:
            gid = above.gid
            if is_directory:
                mode |= stat.S_ISGID
        access = default = None
        if not stat.S_ISLNK(mode):
            mode, access, default = self._xattrs.inherited(parent, mode, umask)
        now_ns = self._now_ns()
        row = self._inodes.insert(mode, uid, gid, rdev, now_ns, parent if is_directory else Ino(0), target)
        self._xattrs.give(row.ino, access, default if is_directory else None)
        self._inodes.link(parent, name, row.ino)
        if is_directory:
            self._inodes.touch_and_link(parent, now_ns, 1)
        else:
            self._inodes.touch(parent, now_ns)
        return row

    def _parent_for(self, parent: Ino, name: bytes) -> Attributes:
        if len(name) > NAME_BYTES:
            raise Refused(errno.ENAMETOOLONG)
        above = self._inodes.get(parent)
        if above is None or not above.nlink:
            raise Refused(errno.ENOENT)
        if self._inodes.lookup(parent, name) is not None:
            raise Refused(errno.EEXIST)
        return above

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attributes:
        """One more name for a file."""
        self._parent_for(parent, name)
        row = self.get(ino)
        if not row.nlink:
            raise Refused(errno.ENOENT)
        if row.nlink >= LINKS:
            raise Refused(errno.EMLINK)
        now_ns = self._now_ns()
        self._inodes.link(parent, name, ino)
        self._inodes.set_links(ino, row.nlink + 1, now_ns)
        self._inodes.touch(parent, now_ns)
        return row._replace(nlink=row.nlink + 1, ctime_ns=now_ns)

    def _named(self, parent: Ino, name: bytes) -> Attributes:
        if len(name) > NAME_BYTES:
            raise Refused(errno.ENAMETOOLONG)
        ino = self._inodes.lookup(parent, name)
        if ino is None:
            raise Refused(errno.ENOENT)
        return self.get(ino)

    def unlink(self, parent: Ino, name: bytes) -> None:
        """Remove a name of anything but a directory."""
        row = self._named(parent, name)
        if stat.S_ISDIR(row.mode):
            raise Refused(errno.EISDIR)
        now_ns = self._now_ns()
        self._inodes.unlink(parent, name)
        self._lose_link(row, now_ns)
        self._inodes.touch(parent, now_ns)

    def rmdir(self, parent: Ino, name: bytes) -> None:
        """Remove an empty directory."""
        row = self._named(parent, name)
        if not stat.S_ISDIR(row.mode):
            raise Refused(errno.ENOTDIR)
        if not self._inodes.is_empty(row.ino):
            raise Refused(errno.ENOTEMPTY)
        now_ns = self._now_ns()
        self._inodes.unlink(parent, name)
        self._lose_link(row, now_ns)
        self._inodes.touch_and_link(parent, now_ns, -1)

    def _lose_link(self, row: Attributes, now_ns: int) -> None:
        left = 0 if stat.S_ISDIR(row.mode) else row.nlink - 1
        self._inodes.set_links(row.ino, left, now_ns)
        if not left:
            self.unlinked.add(row.ino)

    def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> None:
        """rename(2), renameat2(2) with RENAME_NOREPLACE or RENAME_EXCHANGE."""
        if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
            raise Refused(errno.EINVAL)
        row = self._named(parent, name)
        if len(new_name) > NAME_BYTES:
            raise Refused(errno.ENAMETOOLONG)
        there = self._inodes.lookup(new_parent, new_name)
        other = None if there is None else self.get(there)
        now_ns = self._now_ns()
        if flags & EXCHANGE:
            if other is None:
                raise Refused(errno.ENOENT)
            self._inodes.point(parent, name, other.ino)
            self._inodes.point(new_parent, new_name, row.ino)
            self._moved(other, new_parent, parent, now_ns)
        elif other is None:
            self._inodes.move(parent, name, new_parent, new_name)
        else:
            if flags & NOREPLACE:
                raise Refused(errno.EEXIST)
            if other.ino == row.ino:
                return
            self._replace(row, other, new_parent, new_name, now_ns)
            self._inodes.unlink(parent, name)
        self._moved(row, parent, new_parent, now_ns)
        self._inodes.touch(parent, now_ns)
        self._inodes.touch(new_parent, now_ns)

    def _replace(self, row: Attributes, other: Attributes, parent: Ino, name: bytes, now_ns: int) -> None:
        if stat.S_ISDIR(other.mode):
            if not stat.S_ISDIR(row.mode):
                raise Refused(errno.EISDIR)
            if not self._inodes.is_empty(other.ino):
                raise Refused(errno.ENOTEMPTY)
            self._inodes.touch_and_link(parent, now_ns, -1)
        elif stat.S_ISDIR(row.mode):
            raise Refused(errno.ENOTDIR)
        self._inodes.point(parent, name, row.ino)
        self._lose_link(other, now_ns)

    def _moved(self, row: Attributes, old_parent: Ino, new_parent: Ino, now_ns: int) -> None:
        """The inode has a new name, maybe in another directory."""
        self._inodes.set_links(row.ino, row.nlink, now_ns)
        if stat.S_ISDIR(row.mode) and old_parent != new_parent:
            self._inodes.set_parent(row.ino, new_parent)
            self._inodes.touch_and_link(old_parent, now_ns, -1)
            self._inodes.touch_and_link(new_parent, now_ns, 1)

    def change(
        self, ino: Ino, change: Change, *, by: int = 0, may_set_gid: setid.MayKeep = lambda gid: True
    ) -> Attributes:
        """SETATTR by user ``by``. The kernel owns times that it sends; set-id bits go as ``setid`` says."""
        row = self.get(ino)
        _, mode, nlink, uid, gid, rdev, size, stored, atime_ns, mtime_ns, _ = row
        now_ns = self._now_ns()
        if change.size is not None and stat.S_ISREG(mode):
            if change.size < size:
                self._content.truncate(ino, change.size)
                stored = self.get(ino).stored
            self._inodes.set_size(ino, change.size)
            size, mtime_ns = change.size, now_ns
        if change.mode is not None:
            mode = stat.S_IFMT(mode) | stat.S_IMODE(change.mode)
            self._xattrs.after_chmod(ino, mode)
        is_file = stat.S_ISREG(mode)
        if mode & setid.SET_ID and change.takes_set_id(by, is_file=is_file):
            left = setid.left(mode, gid, may_set_gid)
            is_write = is_file and change.ctime_ns is None
            if left != mode and change.asks_nothing() and not is_write and by not in (0, uid):
                raise Refused(errno.EPERM)  # chown to nobody: Linux refuses it for the bit that it would take away
            mode = left
        new = Attributes(
            ino,
            mode,
            nlink,
            uid if change.uid is None else change.uid,
            gid if change.gid is None else change.gid,
            rdev,
            size,
            stored,
            atime_ns if change.atime_ns is None else change.atime_ns,
            mtime_ns if change.mtime_ns is None else change.mtime_ns,
            now_ns if change.ctime_ns is None else change.ctime_ns,
        )
        self._inodes.update(new)
        return new

    def target(self, ino: Ino) -> bytes:
        """readlink(2)."""
        target = self._inodes.target(ino)
        if target is None:
            raise Refused(errno.EINVAL)
        return target

    def set_xattr(self, ino: Ino, name: bytes, value: bytes, *, keep_set_gid: bool) -> None:
        """setxattr(2); ctime moves. From outside the file's group, an access list drops set-group-id, like chmod."""
        row = self.row(ino)
        self._xattrs.set(
            row if keep_set_gid else row._replace(mode=row.mode & ~stat.S_ISGID), name, value, self._now_ns()
        )

    def remove_xattr(self, ino: Ino, name: bytes) -> None:
        """removexattr(2); ctime moves."""
        self._xattrs.remove(self.row(ino), name, self._now_ns())

    def dots(self, ino: Ino) -> list[tuple[int, bytes, Attributes]]:
        """The first two entries of a listing. Their cookies are below every row's id, which begin at 1 << 40."""
        parent = self._inodes.parent(ino) or ino
        return [(1, b".", self.row(ino)), (DOTS, b"..", self.row(parent))]

    def page(self, ino: Ino, after: int) -> list[tuple[int, bytes, Attributes]]:
        """The next names of a directory."""
        return [(cookie, name, self._current(row)) for cookie, name, row in self._inodes.page(ino, after)]

    def relatime(self, ino: Ino) -> None:
        """A read or listing was asked for: atime follows as with the mount option relatime."""
        row = self._inodes.get(ino)
        if row is None:
            return
        now_ns = self._now_ns()
        if row.atime_ns <= row.mtime_ns or row.atime_ns <= row.ctime_ns or now_ns - row.atime_ns >= 86_400 * 10**9:
            self._inodes.set_atime(ino, now_ns)

    def purge(self, ino: Ino) -> None:
        """The kernel has forgotten an unlinked inode: content, xattrs and row go."""
        self.unlinked.discard(ino)
        self._content.forget(ino)
        self._inodes.delete(ino)

    def has(self, ino: Ino) -> bool:
        """Whether the index has it, with or without a name."""
        return self._inodes.get(ino) is not None

    def expect_forget(self) -> None:
        """The index was opened anew under a kernel that lives on: unlinked inodes may still be in use."""
        self.unlinked.update(self._inodes.unlinked())

    def purge_left_over(self) -> int:
        """At mount: unlinked inodes of the last time, which no kernel knows any more. Returns how many."""
        left = self._inodes.unlinked()
        for ino in left:
            if ino != ROOT_INO:
                self.purge(ino)
        return len(left)
