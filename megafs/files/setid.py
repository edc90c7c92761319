"""Which set-id bits a change by somebody else takes away, where Linux leaves that to a FUSE file system. Pure.

The kernel itself clears set-user-id, and set-group-id where the group may execute, when a file is written, truncated
or given away. What it leaves: set-group-id without group execute (setattr_should_drop_sgid in its fs/attr.c) goes
unless the caller is in the file's group; and nothing is cleared by open with O_TRUNC, which arrives as one request.
"""

import stat
from collections.abc import Callable

SET_ID = stat.S_ISUID | stat.S_ISGID
MayKeep = Callable[[int], bool]  # whether the caller may give a file of this group the set-group-id bit


def goes(mode: int, gid: int, may_keep: MayKeep) -> bool:
    """Whether the kernel leaves a set-group-id bit that has to go."""
    return stat.S_ISREG(mode) and mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID and not may_keep(gid)


def after_truncating_open(mode: int, gid: int, may_keep: MayKeep) -> int:
    """The mode of a regular file after open with O_TRUNC by anyone but root."""
    if mode & stat.S_IXGRP or not may_keep(gid):
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID
