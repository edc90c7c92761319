"""Extended attributes, and the ACLs that live in two of them. Synchronous: each call is atomic."""

import errno
from functools import lru_cache

from megafs.config import XATTR_NAME_BYTES, XATTR_VALUE_BYTES
from megafs.errors import Corrupt, Refused
from megafs.files import acl
from megafs.index.inodes import Inodes
from megafs.model import Attributes, Ino

NAMESPACES = (b"user", b"trusted", b"security")  # and of "system" the two ACLs
OURS = b"user.megafs."  # answered when asked for by name, never stored and never listed: copies do not take it along
ACLS = (acl.ACCESS, acl.DEFAULT)


class Xattrs:
    """Meaning of xattr requests."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes

    def get(self, ino: Ino, name: bytes) -> bytes | None:
        """None, the answer to nearly all that the kernel asks: there is none."""
        must_be_known(name)
        return self._inodes.xattr(ino, name)

    def names(self, ino: Ino, *, trusted: bool) -> list[bytes]:
        """``trusted.*`` is shown to root only, as by every Linux file system."""
        return [name for name, _ in self._inodes.xattrs(ino) if trusted or not name.startswith(b"trusted.")]

    def set(self, row: Attributes, name: bytes, value: bytes, now_ns: int) -> None:
        """Set or replace. An access list also sets the mode; one that says no more than the mode is not kept."""
        must_be_known(name)
        if len(name) > XATTR_NAME_BYTES:
            raise Refused(errno.ERANGE)
        if len(value) > XATTR_VALUE_BYTES:
            raise Refused(errno.E2BIG)
        mode = row.mode
        if name in ACLS:
            try:
                entries = acl.parse(value)
            except Corrupt as error:
                raise Refused(errno.EINVAL) from error
            if name == acl.ACCESS:
                mode = acl.mode_of(entries, row.mode)
                if acl.is_minimal(entries):
                    self._inodes.delete_xattr(row.ino, name)
                    self._inodes.update(row._replace(mode=mode, ctime_ns=now_ns))
                    return
        self._inodes.set_xattr(row.ino, name, value)
        self._inodes.update(row._replace(mode=mode, ctime_ns=now_ns))

    def remove(self, row: Attributes, name: bytes, now_ns: int) -> None:
        """Raises ENODATA; but taking away an ACL that is not there succeeds, as acl_delete_def_file(3) wants it."""
        must_be_known(name)
        if self._inodes.xattr(row.ino, name) is None:
            if name in ACLS:
                return
            raise Refused(errno.ENODATA)
        self._inodes.delete_xattr(row.ino, name)
        self._inodes.update(row._replace(ctime_ns=now_ns))

    def after_chmod(self, ino: Ino, mode: int) -> None:
        """chmod changes the access list, if there is one."""
        value = self._inodes.xattr(ino, acl.ACCESS)
        if value is not None:
            self._inodes.set_xattr(ino, acl.ACCESS, acl.encode(acl.chmod(acl.parse(value), mode)))

    def inherited(self, parent: Ino, mode: int, umask: int) -> tuple[int, bytes | None, bytes | None]:
        """(mode, access list, default list) of a new file in ``parent``, whose default list decides if it has one."""
        value = self._inodes.xattr(parent, acl.DEFAULT)
        if value is None:
            return mode & ~umask, None, None
        entries, mode = acl.inherit(acl.parse(value), mode)
        return mode, None if acl.is_minimal(entries) else acl.encode(entries), value

    def give(self, ino: Ino, access: bytes | None, default: bytes | None) -> None:
        """What ``inherited`` said, to the new inode."""
        for name, value in ((acl.ACCESS, access), (acl.DEFAULT, default)):
            if value is not None:
                self._inodes.set_xattr(ino, name, value)


@lru_cache(maxsize=100)  # the same three or four are asked for with each file
def must_be_known(name: bytes) -> None:
    """Raises EOPNOTSUPP for a namespace that no one has, EINVAL for one without a name in it, EPERM for what MegaFS
    itself says of a file."""
    if name.startswith(OURS):
        raise Refused(errno.EPERM)
    namespace, dot, rest = name.partition(b".")
    if name not in ACLS and not (dot and namespace in NAMESPACES):
        raise Refused(errno.EOPNOTSUPP)
    if not rest:
        raise Refused(errno.EINVAL)
