"""What a process that holds passphrases or keys allows others to see of it: nothing. The first thing that a command and
a daemon do.

No core file, no debugger or ``/proc/PID/mem`` for other processes of the same user (root can do anything), and files
for nobody else. Memory may still be swapped out: locking all of it would need privileges that an ordinary user has not.
"""

import ctypes
import logging
import os
import resource

log = logging.getLogger(__name__)

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4  # prctl(2)
PRIVATE = 0o077


def harden() -> None:
    """For the rest of this process's life. A kernel that refuses is told of in the log and no reason to stop."""
    os.umask(PRIVATE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not dumpable: also when core_pattern names a program, which is started whatever the limit says.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.info("the kernel does not make this process undumpable: %s", os.strerror(ctypes.get_errno()))


def is_dumpable() -> bool:
    """Whether this process could be dumped or traced by others of its user."""
    return bool(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))
