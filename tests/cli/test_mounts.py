"""Reading the kernel's mount table; what systemd and the journal are told; the log's file."""

import logging
import os
import socket
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.cli import logs, mounts
from megafs.cli.notify import notify, under_systemd

OTHERS = """22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
90 27 0:50 / /x rw - fuse.sshfs host:/ rw,user_id=1000
cut off
"""


def escaped(text):
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in text)


def line(mountpoint, vault, owner):
    left = f"95 27 0:51 / {escaped(mountpoint)} rw,nosuid shared:7 master:3"
    return f"{left} - fuse.megafs {escaped(vault)} rw,user_id={owner},group_id=0\n"


PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).map("/".__add__)


@given(PATHS, PATHS, st.integers(0, 1 << 31))
def test_ours_are_found_whatever_their_names(mountpoint, vault, owner):
    (found,) = mounts.parsed(OTHERS + line(mountpoint, vault, owner) + OTHERS)
    assert found == mounts.Mount(mountpoint=Path(mountpoint), vault=Path(vault), owner=owner)


def test_others_are_not_ours():
    assert mounts.parsed(OTHERS) == []


def test_this_machine_answers():
    assert mounts.mount_at(Path("/")) is None
    assert not mounts.clear_stale(Path("/"))


def test_who_uses_a_directory(tmp_path):
    with open(tmp_path / "f", "w"):
        assert any(f"({os.getpid()})" in user for user in mounts.users_of(tmp_path))
    assert not any(f"({os.getpid()})" in user for user in mounts.users_of(tmp_path / "elsewhere"))


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path, abstract):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"@megafs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
        listener.bind("\0" + name[1:] if abstract else name)
        assert notify({"NOTIFY_SOCKET": name}, READY=1, STATUS="mounted")
        assert listener.recv(1024) == b"READY=1\nSTATUS=mounted"


@pytest.mark.parametrize(
    "environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:1:2"}, {"NOTIFY_SOCKET": "/no/such"}]
)
def test_nobody_to_tell(environment):
    assert not notify(environment, READY=1)


def test_whether_stderr_is_the_journal():
    where = os.fstat(2)
    assert under_systemd({"JOURNAL_STREAM": f"{where.st_dev}:{where.st_ino}"})
    for wrong in ({}, {"JOURNAL_STREAM": "1:2"}, {"JOURNAL_STREAM": "nonsense"}):
        assert not under_systemd(wrong)


def test_the_log_is_private_and_rotates(tmp_path, clean_logging):
    logs.start(tmp_path / "log", to_stderr=False, journal=False)
    for _ in range(3):
        clean_logging.info("x" * (logs.LOG_BYTES // 2 + 1))
    names = sorted(path.name for path in (tmp_path / "log").iterdir())
    assert names == ["megafs.log", "megafs.log.1", "megafs.log.2"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "log").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700


def test_the_journal_gets_priorities():
    formatter = logs.JournalFormatter(logs.JOURNAL_LINE)
    record = logging.LogRecord("megafs.sync", logging.WARNING, "", 1, "host %d\nsecond line", (3,), None)
    assert formatter.format(record) == "<4>megafs.sync: host 3\n<4>second line"
