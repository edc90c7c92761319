"""The whole way of a user, in processes of its own: create, mount, write, unmount; systemd, mount(8), quickstart."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from megafs.cli import mounts

pytestmark = pytest.mark.mounted
ROOT = Path(__file__).parent.parent.parent
MEGAFS = [sys.executable, "-m", "megafs"]
LIMIT_S = 120


class Drive:
    """A vault of its own on three folders, driven by command lines."""

    def __init__(self, folder):
        self.folder, self.state, self.mountpoint = folder, folder / "state", folder / "mount point"
        self.mountpoint.mkdir()
        self.phrase = folder / "phrase"
        self.phrase.write_text("correct horse\n")
        self.phrase.chmod(0o600)

    def run(self, *arguments, **options):
        command = [*MEGAFS, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, **options)

    def create(self, *more):
        urls = [(self.folder / name).as_uri() for name in ("one", "two", "three")]
        hosts = [part for url in urls for part in ("--host", url)]
        return self.run("create", "v", *hosts, "--state-dir", self.state, "--passphrase-file", self.phrase, *more)

    def mount(self, *more, phrase=None):
        where = ["--state-dir", self.state, "--passphrase-file", phrase or self.phrase]
        return self.run("mount", "v", self.mountpoint, *where, *more)

    def status(self):
        return json.loads(self.run("status", "v", "--json", "--state-dir", self.state).stdout)

    def bytes_on_disk(self):
        return {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def drive(tmp_path):
    made = Drive(tmp_path)
    yield made
    subprocess.run(["fusermount3", "-u", "-q", "-z", str(made.mountpoint)], check=False)


def done(process):
    assert process.returncode == 0, process.stderr
    return process


def test_create_mount_write_unmount_and_again(drive):
    words = done(drive.create()).stdout.split()
    assert len(words) == 24
    assert done(drive.mount()).stdout == ""
    file = drive.mountpoint / "a file"
    file.write_text("content")
    status = drive.status()
    assert (status["mounted"], status["mountpoint"]) == (True, str(drive.mountpoint))
    assert "everything is on its hosts" in done(drive.run("sync", "v", "--state-dir", drive.state)).stdout
    assert drive.status()["unshipped_bytes"] == 0
    done(drive.run("unmount", drive.mountpoint))
    assert not file.exists()
    assert drive.status()["mounted"] is False
    done(drive.mount())
    assert file.read_text() == "content"
    done(drive.run("unmount", drive.mountpoint, "--wait"))
    assert drive.run("doctor", "--state-dir", drive.state).returncode == 0


def test_beside_a_checkout_of_that_name(drive):
    done(drive.create())
    (drive.folder / "megafs").mkdir()
    command = [sysconfig.get_path("scripts") + "/megafs", "mount", "v", "mount point", "--state-dir", "state"]
    command += ["--passphrase-file", "phrase"]
    done(subprocess.run(command, cwd=drive.folder, capture_output=True, text=True, timeout=LIMIT_S))
    assert drive.status()["mounted"] is True


def test_a_failed_mount_is_told_by_the_command_that_asked(drive):
    done(drive.create())
    (drive.state / "v" / "vault.toml").write_text("commit_s = 0\n")
    failed = drive.mount()
    assert failed.returncode == 2
    assert failed.stderr == "megafs: commit_s must be between 0.05 and 60, not 0\n"
    assert mounts.mount_at(drive.mountpoint) is None


def test_wrong_passphrase_and_damaged_slot_change_nothing(drive):
    done(drive.create())
    wrong = drive.folder / "wrong"
    wrong.write_text("incorrect horse")
    wrong.chmod(0o600)
    slot = drive.state / "v" / "slot"
    whole = slot.read_bytes()
    for damaged, phrase in ((False, wrong), (True, drive.phrase)):
        slot.write_bytes(whole[:-1] if damaged else whole)
        before = drive.bytes_on_disk()
        failed = drive.mount(phrase=phrase)
        assert failed.returncode == 3
        assert failed.stderr.count("\n") == 1
        assert drive.bytes_on_disk() == before
    slot.write_bytes(whole)
    done(drive.mount())  # it was the passphrase and the slot, nothing else


def test_after_a_kill_the_next_mount_clears_what_is_left(drive):
    done(drive.create())
    done(drive.mount())
    (drive.mountpoint / "f").write_text("kept")
    os.sync()
    done(drive.run("sync", "v", "--local", "--state-dir", drive.state))
    os.kill(daemon_of(drive), signal.SIGKILL)
    with pytest.raises(OSError, match="onnect"):
        os.stat(drive.mountpoint / "f")
    assert "cleared a dead mount" in done(drive.mount()).stderr
    assert (drive.mountpoint / "f").read_text() == "kept"
    done(drive.run("unmount", drive.mountpoint))


def daemon_of(drive):
    from megafs.control import client

    return client.daemon_pid(drive.state / "v")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_service_tells_systemd_and_ends_in_order(drive, number):
    done(drive.create())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(drive.folder / "notify"))
        systemd.settimeout(LIMIT_S)
        command = [*MEGAFS, "mount", "v", str(drive.mountpoint), "--foreground"]
        command += ["--state-dir", str(drive.state), "--passphrase-file", str(drive.phrase)]
        environment = {**os.environ, "NOTIFY_SOCKET": str(drive.folder / "notify")}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as service:
            assert systemd.recv(4096).startswith(b"READY=1\n")
            (drive.mountpoint / "f").write_text("kept")
            service.send_signal(number)
            assert systemd.recv(4096) == b"STOPPING=1"
            assert service.wait(LIMIT_S) == 0
            logged = service.stderr.read().decode()
    assert "mounting v" in logged
    assert mounts.mount_at(drive.mountpoint) is None
    done(drive.mount())
    assert (drive.mountpoint / "f").read_text() == "kept"


def test_read_only_refuses_and_flags_reach_the_kernel(drive):
    done(drive.create())
    done(drive.mount("--read-only", "--flags", "noexec"))
    with pytest.raises(OSError, match="Read-only"):
        (drive.mountpoint / "f").write_text("x")
    (line,) = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(drive.state) in line]
    assert " ro," in line
    assert "noexec" in line


# In a mount namespace of its own: /usr/sbin gets our helper on top, as contrib/install-system would install it, and
# /dev/fuse the mode that it has where udev runs.
MACHINE = """
set -eu
mkdir -p "$1/over" && mount -t tmpfs none "$1/over" && mkdir "$1/over/upper" "$1/over/work"
mount -t overlay none -o "lowerdir=/usr/sbin,upperdir=$1/over/upper,workdir=$1/over/work" /usr/sbin
sed "s|^PATH=|PATH=$2:|" contrib/mount.fuse.megafs >/usr/sbin/mount.fuse.megafs
chmod 755 /usr/sbin/mount.fuse.megafs
mknod "$1/over/fuse" c 10 229 && chmod 666 "$1/over/fuse" && mount --bind "$1/over/fuse" /dev/fuse
"""
USE = """
echo kept >"$3/file"
cat "$3/file"
findmnt -n -o FSTYPE,OPTIONS "$3"
umount "$3"
"""


@pytest.fixture
def program(tmp_path):
    """A directory with a ``megafs`` that runs this checkout."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "megafs").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m megafs "$@"\n')
    (folder / "megafs").chmod(0o755)
    return folder


def on_a_machine(drive, program, script, *arguments):
    command = ["unshare", "-m", "sh", "-c", MACHINE + script, "sh", drive.folder, program, *arguments]
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")


@needs_root
def test_mount_8_and_fstab(drive, program):
    done(drive.create())
    options = f"passphrase_file={drive.phrase},noexec,nofail,x-systemd.automount"
    by_hand = f'mount -t fuse.megafs "{drive.state}/v" "$3" -o {options}\n'
    shown = done(on_a_machine(drive, program, by_hand + USE, drive.mountpoint)).stdout.splitlines()
    assert shown[0] == "kept"
    assert shown[1].startswith("fuse.megafs ")
    assert "noexec" in shown[1]

    space = str(drive.mountpoint).replace(" ", "\\040")
    (drive.folder / "fstab").write_text(f"{drive.state}/v {space} fuse.megafs {options},ro 0 0\n")
    by_table = 'mount -T "$1/fstab" "$3"\ncat "$3/file"\nfindmnt -n -o OPTIONS "$3"\n"$2/megafs" unmount "$3"\n'
    shown = done(on_a_machine(drive, program, by_table, drive.mountpoint)).stdout
    assert shown.startswith("kept\nro,")


@needs_root
@pytest.mark.parametrize(
    ("options", "status"), [("bogus", 1), ("passphrase_file=/no/such", 1), ("cache_size=much", 1), ("flags=x", 1)]
)
def test_mount_8_reports_what_is_wrong(drive, program, options, status):
    done(drive.create())
    script = f'mount -t fuse.megafs "{drive.state}/v" "$3" -o {options}\n'
    failed = on_a_machine(drive, program, script, drive.mountpoint)
    assert failed.returncode == status
    assert "megafs: " in failed.stderr


def test_quickstart_without_a_terminal_and_again(tmp_path):
    directory = tmp_path / "My Drive"
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data here"), "MEGAFS_VENV": sys.prefix}

    def quickstart():
        command = ["contrib/quickstart", str(directory)]
        return done(
            subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
        )

    try:
        first = quickstart()
        assert len(first.stdout.split()) == 24
        phrase = tmp_path / "data here" / "megafs" / "quickstart.passphrase"
        assert phrase.stat().st_mode & 0o777 == 0o600
        assert str(phrase) in first.stderr
        (directory / "f").write_text("kept")
        assert "mounted already" in quickstart().stderr
        done(subprocess.run([*MEGAFS, "unmount", str(directory)], cwd=ROOT, capture_output=True, text=True))
        again = quickstart()
        assert "found the vault" in again.stderr
        assert again.stdout == ""
        assert (directory / "f").read_text() == "kept"
        done(subprocess.run([*MEGAFS, "unmount", str(directory)], cwd=ROOT, capture_output=True, text=True))
    finally:
        subprocess.run(["fusermount3", "-u", "-q", "-z", str(directory)], check=False)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="a machine without systemd")
def test_systemd_takes_the_unit(tmp_path, program):
    def complaints(name, text):
        (tmp_path / f"{name}@.service").write_text(text)
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        command = ["systemd-analyze", "verify", "--user", str(tmp_path / f"{name}@v.service")]
        return subprocess.run(command, env=environment, capture_output=True, text=True).stderr

    unit = (ROOT / "contrib" / "megafs@.service").read_text().replace("/usr/local/bin", str(program))
    assert complaints("megafs", unit) == ""
    assert "Unknown key" in complaints("wrong", unit.replace("Type=", "Typo="))


def test_the_scripts_parse():
    for script in ("contrib/prepare", "contrib/quickstart", "contrib/test", "contrib/install-system", ".ci/run"):
        done(subprocess.run(["bash", "-n", script], cwd=ROOT, capture_output=True, text=True))
    done(subprocess.run(["sh", "-n", "contrib/mount.fuse.megafs"], cwd=ROOT, capture_output=True, text=True))
