"""Which set-id bits a change by somebody else takes away. Pure.

The kernel leaves that to us (fuse.handshake). Before a write(2) that has to take bits away it sends a SETATTR that
changes nothing; truncate, chown and open with O_TRUNC are requests of their own. A kernel that clears the bits itself
sends the new mode without a change time, and leaves set-group-id without group execute: the same rule then finds
nothing more, or that.
"""

import stat
from collections.abc import Callable

SET_ID = stat.S_ISUID | stat.S_ISGID
MayKeep = Callable[[int], bool]  # whether the caller may give a file of this group the set-group-id bit


def left(mode: int, gid: int, may_keep: MayKeep) -> int:
    """The mode after a write, truncate or chown: set-group-id without group execute goes only if the caller is not in
    the file's group (setattr_should_drop_sgid in Linux's fs/attr.c). Directories keep both."""
    if stat.S_ISDIR(mode):
        return mode
    if mode & stat.S_ISGID and (mode & stat.S_IXGRP or not may_keep(gid)):
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID
