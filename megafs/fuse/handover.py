"""The kernel hands over what programs have written: syncfs(2) on our own mount, asked for by a process of its own.

Not by a thread of this one: were the daemon killed meanwhile, that thread would wait in the kernel for pages that only
the daemon can take, and keep the mount's descriptor open, so that nothing could ever end either of them.
"""

import errno
import subprocess
from pathlib import Path


def hand_over(mountpoint: Path) -> None:
    """Thread. Return when everything that was written before has been asked of the loop. Raises OSError."""
    asked = subprocess.run(
        ["sync", "--file-system", "--", mountpoint], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if asked.returncode:
        raise OSError(errno.EIO, asked.stderr.decode(errors="replace").strip())
