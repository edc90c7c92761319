"""The kernel hands over what programs have written: fsync(2) of files on our own mount, by a process of its own.

Not by a thread of this one: were the daemon killed meanwhile, that thread would wait in the kernel for pages that only
the daemon can take, and keep the mount's descriptor open, so that nothing could ever end either of them.
Not syncfs: newer kernels (6.18.44 here) only begin then to write a FUSE file system back, nine requests at a time.
Not what programs have closed: close(2) writes back and waits.
"""

import errno
import os
import subprocess
from collections.abc import Sequence

GONE = "No such file or directory"
FILES_A_PROCESS = 500  # far below what a command line may hold


def hand_over(files: Sequence[bytes]) -> None:
    """Thread. Return when the loop has taken what was written to these files before; those that are gone do not count.
    Raises OSError."""
    wrong: list[str] = []
    for first in range(0, len(files), FILES_A_PROCESS):
        asked = subprocess.run(
            ["sync", "--", *files[first : first + FILES_A_PROCESS]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        wrong += [line for line in asked.stderr.decode(errors="replace").splitlines() if not line.endswith(GONE)]
    if wrong:
        raise OSError(errno.EIO, "; ".join(wrong))
