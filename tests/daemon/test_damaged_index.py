"""One damaged page of the index: the mount stays, says what is wrong and what to do, and shows no figure that it does
not know. Driven by command lines on a real mount."""

import fcntl
import json
import os
import subprocess
import time

import pytest

from megafs.config import VaultPaths
from megafs.crypto.slot import open_slots
from megafs.daemon.device import Device
from megafs.index.database import PAGE_BYTES, connect
from tests.daemon.drive import LIMIT_S, MEGAFS, ROOT

pytestmark = pytest.mark.mounted
DAMAGED = 9
CURE = "megafs attach v --repair --host URL … --recovery-key-file FILE"


@pytest.fixture
def drive(drives, folders):
    """With one file; not mounted."""
    drive = drives("device", [folder.as_uri() for folder in folders[:2]])
    drive.expect("the index of v is damaged", "the index could not be read", "the index cannot be read")
    drive.create()
    drive.lighten()
    drive.mount()
    (drive.mountpoint / "file").write_bytes(os.urandom(5000))
    drive.sync()
    drive.unmount()
    return drive


def damage(drive, table):
    """The page at which the table begins is not what was written."""
    paths = VaultPaths(root=drive.state / "v")
    device = Device.of(open_slots("correct horse", paths.slot.read_bytes()))
    with paths.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the daemon has ended
    connection = connect(paths.index, device.keyring.index_key(device.id), 1000)
    page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    connection.close()
    with paths.index.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES + 1000)
        file.write(b"rot")


def test_what_the_kernel_asks_first_is_asked_before_it_is_mounted(drive):
    damage(drive, "inode")
    said = drive.run("mount", "v", drive.mountpoint, "--passphrase-file", drive.phrase, status=DAMAGED)
    assert CURE in said.stderr
    assert not os.path.ismount(drive.mountpoint)


def test_a_mount_that_meets_it_stays_and_says_so(drive):
    damage(drive, "scrub")  # asked by status and by scrubbing
    assert CURE in drive.run("check", "v", "--passphrase-file", drive.phrase, status=DAMAGED).stderr
    where = ["--state-dir", drive.state, "--passphrase-file", drive.phrase]
    daemon = subprocess.Popen(
        [*MEGAFS, "mount", "v", drive.mountpoint, "--foreground", *where], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        limit = time.monotonic() + LIMIT_S
        while not os.path.ismount(drive.mountpoint):
            assert daemon.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)  # another process is starting
        limit = time.monotonic() + 30
        while CURE not in (told := drive.run("status", "v").stdout):
            assert time.monotonic() < limit, told
            time.sleep(0.1)  # it looks at the disk first
        assert "not shipped unknown" in told
        assert "files       unknown" in told
        found = json.loads(drive.run("status", "v", "--json").stdout)
        assert found["mounted"] is True
        assert [found[key] for key in ("files", "copies", "unshipped_bytes", "hosts")] == [None] * 4
        assert CURE in found["read_only"]
        assert CURE in drive.run("status", "v", "--phrase", status=DAMAGED).stderr
        assert CURE in drive.run("check", "v", status=DAMAGED).stderr
        with pytest.raises(OSError, match=r"Read-only|Input/output"):
            (drive.mountpoint / "new").write_bytes(b"new")
        assert daemon.poll() is None
    finally:
        drive.run("unmount", drive.mountpoint, status=0)
        _, said = daemon.communicate(timeout=LIMIT_S)
    assert CURE in said
    assert "waiting for its disk" not in said
