"""A locked mount shows nothing, keeps everything, and goes on where it was."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megafs.control import client
from tests.daemon.drive import LIMIT_S

pytestmark = pytest.mark.mounted
CONTENT = os.urandom(600_000)


@pytest.fixture
def drive(drives, folders):
    made = drives("first", [folder.as_uri() for folder in folders[:2]])
    made.create()
    made.mount()
    return made


def refused(call, *arguments):
    """Whether it fails for want of the key, and for nothing else."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno == errno.EKEYEXPIRED
    return False


def unlock(drive):
    drive.run("unlock", "v", "--passphrase-file", drive.phrase)


def is_locked(drive):
    return drive.told("status", "v")["locked"]


def test_nothing_shows_and_everything_goes_on(drive, tmp_path):
    there = drive.mountpoint
    (there / "folder").mkdir()
    (there / "folder" / "file").write_bytes(CONTENT)
    (there / "link").symlink_to("folder")
    (there / "doomed").write_text("unlinked and open")
    os.setxattr(there / "link", "user.x", b"1")
    held, folder = os.open(there / "folder" / "file", os.O_RDWR), os.open(there / "folder", os.O_RDONLY)
    doomed = os.open(there / "doomed", os.O_RDWR)
    os.unlink(there / "doomed")
    assert os.pread(held, len(CONTENT), 0) == CONTENT  # the kernel has its pages, names and attributes
    assert os.listdir(folder) == ["file"]
    drive.run("lock", "v")
    drive.run("lock", "v")  # again does no harm
    looks = {
        "stat": (os.stat, there / "folder" / "file"),
        "stat of what is not there": (os.stat, there / "nothing"),
        "stat of the root": (os.stat, there),
        "listdir": (os.listdir, there),
        "listdir of an open folder": (os.listdir, folder),
        "fstat": (os.fstat, held),
        "stat below an open folder": (lambda: os.stat("file", dir_fd=folder),),
        "read of an open file": (os.pread, held, 100, 0),
        "read of an unlinked file": (os.pread, doomed, 100, 0),
        "open": (os.open, there / "folder" / "file", os.O_RDONLY),
        "create": (os.open, there / "new", os.O_CREAT | os.O_WRONLY),
        "open below an open folder": (lambda: os.open("file", os.O_RDONLY, dir_fd=folder),),
        "readlink": (os.readlink, there / "link"),
        "getxattr": (os.getxattr, there / "link", "user.x"),
        "mkdir": (os.mkdir, there / "more"),
        "unlink": (os.unlink, there / "folder" / "file"),
        "rename": (os.rename, there / "link", there / "other"),
        "chmod of an open file": (os.fchmod, held, 0o600),
        "truncate of an open file": (os.ftruncate, held, 0),
        "write of a part of a page": (os.pwrite, held, b"x", 10),
    }
    assert [name for name, (call, *arguments) in looks.items() if not refused(call, *arguments)] == []
    os.fsync(held)  # everything accepted is durable, and it may be known
    assert os.statvfs(there).f_blocks == 0
    assert is_locked(drive)
    assert "locked" in drive.run("status", "v").stdout
    drive.run("sync", "v", status=8)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    drive.run("unlock", "v", "--passphrase-file", wrong, status=3)
    assert is_locked(drive)
    unlock(drive)
    unlock(drive)
    assert not is_locked(drive)
    assert os.pread(held, len(CONTENT), 0) == CONTENT
    assert os.pread(doomed, 100, 0) == b"unlinked and open"
    assert sorted(os.listdir(there)) == ["folder", "link"]
    os.pwrite(held, b"later", 0)
    os.fsync(held)
    for descriptor in (held, folder, doomed):
        os.close(descriptor)
    drive.sync()
    drive.unmount()
    drive.mount()
    assert (there / "folder" / "file").read_bytes() == b"later" + CONTENT[5:]
    drive.unmount()


PAGES = 1024
WRITER = f"""
import os, sys
file, told = (os.open(name, os.O_RDWR | os.O_CREAT) for name in sys.argv[1:])
at = 0
while True:
    try:
        os.pwrite(file, b"%015d\\n" % at * 256, at % {PAGES} * 4096)
    except OSError:
        continue
    os.pwrite(told, b"%015d" % at, 0)
    at += 1
"""


def accepted(file):
    """How many pages a writer was told are written."""
    return int(file.read_bytes() or b"0")


def test_what_writers_were_told_is_there(drive, tmp_path):
    """Two writers that never stop go on through three locks: what write(2) accepted is in the file afterwards."""
    files = {drive.mountpoint / name: tmp_path / f"{name}-told" for name in ("one", "two")}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, *map(str, pair)]) for pair in files.items()]
    try:
        for _ in range(3):
            before = {told: told.exists() and accepted(told) for told in files.values()}
            wait_until(lambda before=before: all(t.exists() and accepted(t) > n + 500 for t, n in before.items()))
            drive.run("lock", "v")
            assert is_locked(drive)
            unlock(drive)
    finally:
        for writer in writers:
            writer.kill()
    for writer in writers:
        writer.wait()
    for file, told in files.items():
        data, last = file.read_bytes(), accepted(told)
        assert last > 1500
        found = {at % PAGES: int(data[at % PAGES * 4096 :][:15]) for at in range(last - PAGES + 1, last + 1)}
        assert [at for at in range(last - PAGES + 1, last + 1) if found[at % PAGES] < at] == []
    drive.unmount()


def test_killed_or_unmounted_while_locked_it_has_everything(drive):
    (drive.mountpoint / "file").write_bytes(CONTENT)
    drive.run("lock", "v")
    os.kill(client.daemon_pid(drive.state / "v"), signal.SIGKILL)
    drive.mount()
    assert (drive.mountpoint / "file").read_bytes() == CONTENT
    (drive.mountpoint / "second").write_bytes(CONTENT)
    drive.run("lock", "v")
    drive.unmount()
    drive.mount()
    assert (drive.mountpoint / "second").read_bytes() == CONTENT
    drive.run("lock", "v")
    pid = client.daemon_pid(drive.state / "v")
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    drive.mount()
    assert (drive.mountpoint / "second").read_bytes() == CONTENT
    drive.unmount()


def wait_until(holds):
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # another process works, which no event tells


def test_it_locks_although_an_fsync_waits_for_hosts(drives, folders):
    """The fsync fails, for it did not happen; nothing that was written is lost."""
    folders[1].mkdir()
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    drive.create()
    drive.set('durability = "remote=2"\nhost_patience_s = 3600\n')
    drive.mount()
    file, other = drive.mountpoint / "file", drive.mountpoint / "other"
    away = folders[1].rename(folders[1].with_name("away"))
    asking = "import os, sys; f = open(sys.argv[1], 'wb'); f.write(b'here'); f.flush(); print(flush=True); os.fsync(f)"
    with (
        subprocess.Popen(
            [sys.executable, "-c", asking, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as asker,
        other.open("wb", buffering=0) as held,
    ):
        try:
            assert asker.stdout is not None
            asker.stdout.readline()
            held.write(b"too")
            drive.run("lock", "v")
            _, told = asker.communicate(timeout=LIMIT_S)
            assert any(os.strerror(code) in told for code in (errno.EIO, errno.EKEYEXPIRED)), told  # as early or late
        finally:
            away.rename(folders[1])
        unlock(drive)
    assert (file.read_bytes(), other.read_bytes()) == (b"here", b"too")
    drive.unmount()


def test_it_locks_when_nobody_asks_anything(drives, folders):
    drive = drives("first", [folders[0].as_uri()])
    drive.create()
    drive.set("lock_idle_s = 1\n")
    drive.mount()
    (drive.mountpoint / "file").write_text("x")
    wait_until(lambda: is_locked(drive))
    assert refused(os.stat, drive.mountpoint / "file")
    unlock(drive)
    assert (drive.mountpoint / "file").read_text() == "x"
    drive.unmount()
