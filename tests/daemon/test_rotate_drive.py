"""rotate and revoke as their owner does them: command lines on real mounts, SIGKILL, attached by words and ticket."""

import os
import signal
import subprocess
import sys

import pytest

from tests.daemon.drive import LIMIT_S, ROOT
from tests.daemon.test_devices import attach, enrolling

pytestmark = pytest.mark.mounted

KILLED_AT = """
import os, signal, sys
from pathlib import Path
from megafs.config import VaultPaths
from megafs.crypto.recovery import RecoveryKey
from megafs.daemon.device import Device
from megafs.daemon.rotate import Asked, rotate_vault
from megafs.slotfile import unlock

root, phrase, words, at = sys.argv[1:]
paths = VaultPaths(root=Path(root))
left = int(at)

def reached(step):
    global left
    left -= 1
    if left == 0:
        print(step, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

device = Device.of(unlock(paths, Path(phrase).read_text().strip()))
recovery = RecoveryKey.from_text(Path(words).read_text())
rotate_vault(paths, device, recovery, Asked(), lambda device: device.store(paths), reached)
"""


@pytest.fixture
def drive(drives, folders):
    made = drives("machine", [folder.as_uri() for folder in folders[:2]])
    made.create()
    made.lighten()
    made.mount()
    (made.mountpoint / "first").write_text("before")
    made.sync()
    return made


def rotate(drive, *more, status=0):
    given = ["--passphrase-file", drive.phrase, "--recovery-key-file", drive.words]
    return drive.run("rotate", "v", *given, *more, status=status)


def everything(drive):
    return {path.name: path.read_text() for path in drive.mountpoint.iterdir()}


def test_rotate_then_the_words_and_a_ticket_and_deep(drive, drives):
    drive.expect("took the vault over")
    assert f"megafs unmount {drive.mountpoint}, then this again" in rotate(drive, status=5).stderr
    drive.unmount()
    assert "--recovery-key-file" in drive.run("rotate", "v", "--passphrase-file", drive.phrase, status=2).stderr
    told = rotate(drive, "--deep").stderr
    assert "epoch 2 has begun" in told
    drive.mount()
    assert everything(drive) == {"first": "before"}
    (drive.mountpoint / "second").write_text("after")
    drive.sync()
    status = drive.told("status", "v")
    assert status["epoch"] == 2
    end = os.times().elapsed + LIMIT_S
    while drive.told("status", "v")["reseal_left_bytes"]:
        assert os.times().elapsed < end
        drive.sync()
    drive.unmount()
    other = drives("other", drive.urls)
    other.attach(drive.words)
    other.lighten()
    other.mount()
    assert everything(other) == {"first": "before", "second": "after"}
    other.unmount()
    drive.mount()  # it lost the vault to the other one, and says so
    assert "took the vault over" in drive.told("status", "v")["read_only"]
    drive.unmount()
    with enrolling(other) as (process, ticket):
        given = ["--passphrase-file", drive.phrase, "--ticket-file", ticket, "--yes", "--repair"]
        drive.run("attach", "v", *drive.hosts(), *given)
        assert process.wait(timeout=LIMIT_S) == 0
    drive.mount()
    (drive.mountpoint / "third").write_text("again the first machine")
    drive.sync()
    assert set(everything(drive)) == {"first", "second", "third"}


def test_revoke_a_device_that_still_believes_in_itself(drive, drives):
    drive.expect("this device was revoked")
    """The first machine was stolen while it was mounted; the second, enrolled before, shuts it out."""
    other = drives("other", drive.urls)
    with enrolling(drive) as (_, ticket):
        attach(other, ticket)
    other.lighten()
    other.mount()
    (other.mountpoint / "second").write_text("mine")
    other.sync()
    other.unmount()
    given = ["--passphrase-file", other.phrase, "--recovery-key-file", drive.words]
    assert "no device 99" in other.run("devices", "v", "revoke", "99", *given, status=2).stderr
    told = other.run("devices", "v", "revoke", "1", *given).stderr
    assert "device 1 is revoked" in told
    other.mount()
    (other.mountpoint / "third").write_text("not for the thief")
    other.sync()
    (revoked,) = [each for each in other.told("devices", "v") if each["is_revoked"]]
    assert revoked["number"] == 1
    (drive.mountpoint / "stolen").write_text("written by the thief")
    drive.run("sync", "v", status=1)
    assert "this device was revoked" in drive.told("status", "v")["read_only"]
    with pytest.raises(OSError, match="Read-only"):
        (drive.mountpoint / "more").write_text("refused")
    drive.unmount()
    drive.mount()
    assert "this device was revoked" in drive.told("status", "v")["read_only"], "from the beginning"
    assert "third" not in everything(drive)
    assert everything(other) == {"first": "before", "second": "mine", "third": "not for the thief"}


@pytest.mark.crash
@pytest.mark.parametrize("at", [2, 3, 5])
def test_killed_at_a_numbered_step_the_vault_mounts_and_attaches(drive, drives, at):
    drive.unmount()
    command = [sys.executable, "-c", KILLED_AT, str(drive.state / "v"), str(drive.phrase), str(drive.words), str(at)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    drive.mount()
    assert everything(drive) == {"first": "before"}
    (drive.mountpoint / "second").write_text("after")
    drive.sync()
    drive.unmount()
    other = drives("other", drive.urls)
    other.attach(drive.words)
    other.lighten()
    other.mount()
    assert everything(other) == {"first": "before", "second": "after"}
