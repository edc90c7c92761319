"""The kernel hands over what programs have written: close(2) of files on our own mount, by a process of its own.

Not by a thread of this one: were the daemon killed meanwhile, that thread would wait in the kernel for pages that only
the daemon can take, and keep the mount's descriptor open, so that nothing could ever end either of them.
Not syncfs: newer kernels (6.18.44 here) only begin then to write a FUSE file system back, nine requests at a time.
Not fsync: it would wait for hosts where ``durability`` says so. close(2) writes back and waits, whoever has written.
"""

import errno
import subprocess
import sys
from collections.abc import Sequence

FILES_A_PROCESS = 500  # far below what a command line may hold
CLOSER = """
import os, sys
for path in sys.argv[1:]:
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
        except FileNotFoundError:
            pass
        except OSError as error:
            if isinstance(error, PermissionError) and flags == os.O_RDONLY:
                continue
            print(f"{path}: {error.strerror}", file=sys.stderr)
        break
"""


def hand_over(files: Sequence[bytes]) -> None:
    """Thread. Return when the loop has taken what was written to these files before; those that are gone do not count.
    Raises OSError."""
    wrong: list[str] = []
    for first in range(0, len(files), FILES_A_PROCESS):
        asked = subprocess.run(
            [sys.executable, "-I", "-S", "-c", CLOSER, *files[first : first + FILES_A_PROCESS]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        wrong += asked.stderr.decode(errors="replace").splitlines()
    if wrong:
        raise OSError(errno.EIO, "; ".join(wrong))
