"""The processes that hold passphrases and keys, and the mount: what other users and other processes get to see."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65534
ENTRIES = {  # the ways into commands and the daemon, each called so that it fails as soon as it does anything
    "run": "daemon.run(paths, opened=None, mountpoint=Path('/'), options=None, ready=None)",
    "create": "daemon.create_vault(paths, hosts=[''], policy=None, passphrase='', settings=None)",
    "command": "cli.main(['unlock', 'v', '--state-dir', '/nowhere'])",
    "background": "background.main()",
    "attach": "daemon.attach_vault(paths, hosts=[''], key=None, passphrase='', settings=None, confirm=None)",
}
PROBE = """
import resource, os, sys
from contextlib import suppress
from pathlib import Path
from megafs import cli, config, daemon, process
from megafs.cli import background
paths = config.VaultPaths(root=Path("/nowhere/vault"))
with suppress(Exception):
    ENTRY
mask = os.umask(0)
print(process.is_dumpable(), resource.getrlimit(resource.RLIMIT_CORE)[0], oct(mask), os.listdir("/proc/self/fd") != [])
"""


def probe(entry: str) -> list[str]:
    def generous():
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        os.umask(0o022)

    command = [sys.executable, "-c", PROBE.replace("ENTRY", entry)]
    return subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, preexec_fn=generous
    ).stdout.split()


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_core_not_dumpable_private_files_and_its_own_descriptors_still_work(entry):
    assert probe(ENTRIES[entry]) == ["False", "0", "0o77", "True"]


def test_control_without_it_a_process_is_open():
    dumpable, _, mask, _ = probe("pass")
    assert (dumpable, mask) == ("True", "0o22")


@pytest.mark.mounted
class TestMounted:
    """One real daemon."""

    def test_what_a_mount_shows_of_itself(self, guarded):
        guarded.mount()
        pid = guarded.daemon.pid
        assert limit_of_core(pid) == "0"
        assert guarded.megafs("status", guarded.name, "--state-dir", str(guarded.state))  # the socket still answers
        for path in (guarded.state / guarded.name).rglob("*"):
            assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path
        assert not stat.S_IMODE((guarded.state / guarded.name).stat().st_mode) & 0o077
        socket = guarded.state / guarded.name / "control"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        options = options_of(guarded.mountpoint)
        assert {"nosuid", "nodev"} <= options
        assert "allow_other" not in options
        if os.geteuid() == 0:
            refused_to_others(guarded.mountpoint)
        guarded.unmount()
        assert not socket.exists()
        assert not Path(f"/proc/{pid}").exists()  # and with it every key and every plaintext in memory
        assert list(guarded.mountpoint.iterdir()) == []


def limit_of_core(pid: int) -> str:
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max core file size"):
            return line.split()[4]
    raise AssertionError("no such limit")


def options_of(mountpoint: Path) -> set[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(mountpoint):
            return {*fields[5].split(","), *fields[-1].split(",")}
    raise AssertionError("not mounted")


def refused_to_others(mountpoint: Path) -> None:
    done = subprocess.run(["ls", str(mountpoint)], check=False, capture_output=True, user=NOBODY, group=NOBODY)
    assert done.returncode != 0
