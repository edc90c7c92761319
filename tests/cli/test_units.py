"""The systemd units under a real ``systemd --user``: an ordinary user's, and root's in its sandbox.

A manager of root's own stands in for the system's: what it sets up for a unit (capabilities, seccomp, namespaces) is
the same. What the units leave out is tried as well, so that the reasons in their comments stay true.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.mounted
ROOT = Path(__file__).parent.parent.parent
USER_UNIT, SYSTEM_UNIT = ROOT / "contrib" / "megafs@.service", ROOT / "contrib" / "megafs-system@.service"
EXPOSURE_MOST = 4.5  # of 10, as systemd-analyze counts; without a mount namespace it cannot be much less
USER = 1777


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="a machine without systemd")
def test_the_sandbox_as_systemd_counts_it():
    command = ["systemd-analyze", "security", "--offline=true", str(SYSTEM_UNIT)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PAGER": "cat"})
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", said.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= EXPOSURE_MOST


def started(base, uid, unit, more=""):
    """What tests/cli/manager.sh says about starting and stopping the unit, line by line."""
    base.chmod(0o755)
    command = ["unshare", "-m", "--propagation", "private", str(ROOT / "tests" / "cli" / "manager.sh")]
    done = subprocess.run(
        [*command, str(ROOT), str(uid), str(base), str(unit), more],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.fixture
def base():
    """A directory that other users reach."""
    made = Path(tempfile.mkdtemp(prefix="megafs-unit-"))
    yield made
    shutil.rmtree(made)


@pytest.mark.acceptance
@pytest.mark.needs_root
class TestManager:
    def test_an_ordinary_users_unit_mounts_and_ends_in_order(self, base):
        said = started(base, USER, USER_UNIT)
        assert said[0] == "start 0"
        assert "NoNewPrivs:0" in said
        assert {"visible yes", "hello", "stop 0", "unmounted", "Result=success"} <= set(said)

    @pytest.mark.parametrize("more", ["NoNewPrivileges=yes", "MemoryDenyWriteExecute=yes", "LockPersonality=yes"])
    def test_what_keeps_fusermount3_from_becoming_root_keeps_a_user_from_mounting(self, base, more):
        said = started(base, USER, USER_UNIT, more)
        assert said[0] != "start 0"
        assert "visible yes" not in said

    def test_roots_unit_runs_in_its_sandbox(self, base):
        said = started(base, 0, SYSTEM_UNIT)
        assert said[0] == "start 0"
        assert {"NoNewPrivs:1", "Seccomp:2", "CapBnd:0000000000200002"} <= set(said)
        assert {"visible yes", "hello", "stop 0", "unmounted", "Result=success"} <= set(said)

    @pytest.mark.parametrize("more", ["ProtectSystem=strict", "PrivateTmp=yes"])
    def test_in_a_mount_namespace_nobody_else_would_see_it(self, base, more):
        assert "visible yes" not in started(base, 0, SYSTEM_UNIT, more)
