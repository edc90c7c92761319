"""POSIX access control lists as Linux keeps them in xattrs: parsed, made from a mode, inherited, changed by chmod.
Pure.

Layout (include/uapi/linux/posix_acl_xattr.h), little-endian: version 2 (u32), then entries of tag u16, permissions u16,
id u32. The kernel checks access; this module only does what a file system owes it (acl(5), "correspondence between
ACL entries and file permission bits").
"""

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from megafs.errors import Corrupt

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
HEADER, ENTRY = Struct("<I"), Struct("<HHI")
assert HEADER.size == 4
assert ENTRY.size == 8
VERSION = 2
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF
SHIFTS = {USER_OBJ: 6, GROUP_OBJ: 3, MASK: 3, OTHER: 0}


class Entry(NamedTuple):
    """One line of getfacl(1)."""

    tag: int
    permissions: int
    id: int


def parse(value: bytes) -> list[Entry]:
    """The entries, complete and in the kernel's order; else Corrupt."""
    if len(value) < HEADER.size or (len(value) - HEADER.size) % ENTRY.size or HEADER.unpack_from(value)[0] != VERSION:
        raise Corrupt(f"ACL: {len(value)} bytes, not version {VERSION}")
    entries = [Entry(*fields) for fields in ENTRY.iter_unpack(value[HEADER.size :])]
    tags = [entry.tag for entry in entries]
    wants_mask = USER in tags or GROUP in tags
    if any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)) or (wants_mask and tags.count(MASK) != 1):
        raise Corrupt("ACL: an entry that every list has is missing or stands twice")
    if tags != sorted(tags) or any(entry.permissions & ~7 for entry in entries):
        raise Corrupt("ACL: entries out of order, or unknown permissions")
    return entries


def encode(entries: Sequence[Entry]) -> bytes:
    return HEADER.pack(VERSION) + b"".join(ENTRY.pack(*entry) for entry in entries)


def is_minimal(entries: Sequence[Entry]) -> bool:
    """Whether the mode alone says the same."""
    return len(entries) == 3


def mode_of(entries: Sequence[Entry], mode: int) -> int:
    """``mode`` with the permission bits that this access list stands for: the mask, if any, shows as the group's."""
    bits = 0
    masked = any(entry.tag == MASK for entry in entries)
    for entry in entries:
        if entry.tag == GROUP_OBJ and masked:
            continue
        if entry.tag in SHIFTS:
            bits |= entry.permissions << SHIFTS[entry.tag]
    return mode & ~0o777 | bits


def chmod(entries: Sequence[Entry], mode: int) -> list[Entry]:
    """The access list after chmod: owner, mask (or group without a mask) and others take the mode's bits."""
    masked = any(entry.tag == MASK for entry in entries)
    return [
        entry._replace(permissions=mode >> SHIFTS[entry.tag] & 7)
        if entry.tag in SHIFTS and not (entry.tag == GROUP_OBJ and masked)
        else entry
        for entry in entries
    ]


def inherit(default: Sequence[Entry], mode: int) -> tuple[list[Entry], int]:
    """What a new file gets from its directory's default list and the mode asked for: (access list, mode)."""
    masked = any(entry.tag == MASK for entry in default)
    access = [
        entry._replace(permissions=entry.permissions & (mode >> SHIFTS[entry.tag]))
        if entry.tag in SHIFTS and not (entry.tag == GROUP_OBJ and masked)
        else entry
        for entry in default
    ]
    return access, mode_of(access, mode)
