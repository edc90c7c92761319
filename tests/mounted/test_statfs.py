"""statvfs: room to copy into, the longest name; true rather than equal to another file system's."""

import os
import shutil
from pathlib import Path

from tests.mounted.both import Both, Cases
from tests.mounted.things import make


def test_what_programs_ask(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        with path.open("rb") as file:
            for label, found in (
                ("path", os.statvfs(root)),
                ("file", os.statvfs(path)),
                ("open", os.fstatvfs(file.fileno())),
            ):
                yield (
                    label,
                    [
                        found.f_namemax,
                        found.f_frsize > 0,
                        found.f_bsize >= 512,
                        found.f_blocks >= found.f_bfree >= found.f_bavail > 0,
                        found.f_files >= found.f_ffree > 0,
                        found.f_flag & os.ST_RDONLY,
                    ],
                )
        total, used, free = shutil.disk_usage(root)
        yield "disk usage", [free > 1 << 30, total >= used]
        yield (
            "pathconf",
            [os.pathconf(root, "PC_NAME_MAX"), os.pathconf(root, "PC_PATH_MAX"), os.pathconf(path, "PC_PIPE_BUF")],
        )

    both(operation)
