"""contrib/partners/quota: what a partner runs twice by mistake."""

import os
import subprocess

from tests.daemon.test_partners import PARTNERS, here


def test_a_quota_is_set_once_and_never_over_what_is_there(tmp_path):
    """With a mkfs and a mount that only say that they were called."""
    tools, place, script = tmp_path / "tools", tmp_path / "place", tmp_path / "quota"
    tools.mkdir()
    for name in ("mkfs.ext4", "mount", "chown"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} >> "{tmp_path}/called"\n')
        (tools / name).chmod(0o755)
    changes = {"/var/lib/megafs-partner": str(tmp_path / "images"), "/etc/fstab": str(tmp_path / "fstab")}
    script.write_text(here((PARTNERS / "quota").read_text(), changes))
    environ = {"PATH": f"{tools}:{os.environ['PATH']}"}

    def quota(folder):
        return subprocess.run(
            ["/bin/sh", script, folder, "1M"], env=environ, capture_output=True, text=True, check=False
        )

    assert quota(place).returncode == 0
    (image,) = (tmp_path / "images").iterdir()
    image.write_bytes(b"what a partner keeps for others")
    as_it_was = [(tmp_path / name).read_text() for name in ("called", "fstab")]
    assert as_it_was[0].split() == ["mkfs.ext4", "mount", "chown"]
    again = quota(place)
    assert (again.returncode, "nothing is changed" in again.stderr) == (1, True)
    assert image.read_bytes() == b"what a partner keeps for others"
    full = tmp_path / "full"
    full.mkdir()
    (full / "object").write_bytes(b"x")
    assert "not empty" in quota(full).stderr
    assert [(tmp_path / name).read_text() for name in ("called", "fstab")] == as_it_was
