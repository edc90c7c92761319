"""The CLI on real mounts: finding one by its directory, ending it in order, clearing it when its daemon died."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from megafs import cli
from megafs.cli import mounts

pytestmark = pytest.mark.mounted
ROOT = Path(__file__).parent.parent.parent


@contextmanager
def mounted(vault, directory):
    directory.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "tests.cli.standin", str(vault.root), str(directory)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, cwd=ROOT) as daemon:
        assert daemon.stdout.readline() == b"ready\n"
        try:
            yield daemon
        finally:
            subprocess.run(["fusermount3", "-u", "-q", "-z", str(directory)], check=False)
            daemon.kill()


@pytest.fixture
def stale(vault, tmp_path):
    """A directory whose daemon was killed."""
    directory = tmp_path / "a mount\\point"
    with mounted(vault, directory) as daemon:
        daemon.kill()
        daemon.wait()
        with pytest.raises(OSError, match="not connected"):
            os.stat(directory)
        yield directory


def test_unmount_finds_the_vault_and_waits_for_the_daemon(vault, tmp_path, capsys):
    directory = tmp_path / "a mount\\point"
    with mounted(vault, directory) as daemon:
        found = mounts.mount_at(directory)
        assert found == mounts.Mount(mountpoint=directory, vault=vault.root, owner=os.geteuid())
        assert not mounts.is_stale(found)
        assert cli.main(["unmount", str(directory), "--wait"]) == 0
        assert daemon.poll() is not None or daemon.wait(5) == 0
    assert mounts.mount_at(directory) is None
    assert "2.0 KiB are not on the hosts yet" in capsys.readouterr().err


def test_unmount_of_a_mount_in_use_says_by_whom(vault, tmp_path, capsys):
    directory = tmp_path / "m"
    with mounted(vault, directory):
        user = os.open(directory, os.O_RDONLY)
        try:
            assert cli.main(["unmount", str(directory)]) == 5
            assert mounts.mount_at(directory) is not None
        finally:
            os.close(user)
        assert f"({os.getpid()})" in capsys.readouterr().err
        assert cli.main(["unmount", str(directory)]) == 0


def test_mount_refuses_a_second_time(vault, phrase_file, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    state = ["--state-dir", str(vault.root.parent), "--passphrase-file", str(phrase_file)]
    with mounted(vault, tmp_path / "m"):
        assert cli.main(["mount", "v", str(tmp_path / "m"), *state]) == 5
        assert cli.main(["mount", "v", str(other), *state]) == 5
    assert str(tmp_path / "m") in capsys.readouterr().err


def test_mount_clears_a_dead_one(vault, phrase_file, stale, entries, capsys):
    state = ["--state-dir", str(vault.root.parent), "--passphrase-file", str(phrase_file)]
    assert cli.main(["mount", "v", str(stale), "--foreground", *state]) == 0
    assert "cleared a dead mount" in capsys.readouterr().err
    assert mounts.mount_at(stale) is None


def test_mount_elsewhere_clears_the_dead_one_of_the_same_vault(vault, phrase_file, stale, entries, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    state = ["--state-dir", str(vault.root.parent), "--passphrase-file", str(phrase_file)]
    assert cli.main(["mount", "v", str(other), "--foreground", *state]) == 0
    assert mounts.mount_at(stale) is None


def test_doctor_clears_a_dead_one(vault, stale, capsys):
    assert cli.main(["doctor", "--state-dir", str(vault.root.parent)]) == 0
    assert "cured" in capsys.readouterr().out
    assert mounts.mount_at(stale) is None


def test_unmount_of_a_dead_one(stale):
    assert cli.main(["unmount", str(stale)]) == 0
    assert mounts.mount_at(stale) is None
