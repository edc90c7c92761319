"""The desktop keyring as it is on desktops: GNOME's Secret Service in a D-Bus session of its own, and real mounts."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from megafs.crypto.slot import KEY_TEXT
from tests.daemon.drive import Drive

PROGRAMS = ("gnome-keyring-daemon", "dbus-run-session")
SESSION_S = 30


@contextmanager
def session(home, *, unlocked: bool = True) -> Iterator[dict[str, str]]:
    """The environment of programs in a fresh desktop session whose keyrings lie below ``home``; locked ones ask their
    owner, and nobody is there to answer."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    assert not missing, f"not installed: {', '.join(missing)}; contrib/test -m acceptance installs them"
    run = home / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = {"HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "XDG_RUNTIME_DIR": str(run)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DBUS")} | own
    unlock = "printf 'the login password' | gnome-keyring-daemon --unlock --components=secrets >&2;"
    script = (unlock if unlocked else "") + " echo $DBUS_SESSION_BUS_ADDRESS; exec cat"
    bus = subprocess.Popen(
        ["dbus-run-session", "--", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    watchdog = threading.Timer(SESSION_S, bus.kill)  # instead of waiting for ever for the line
    watchdog.start()
    try:
        address = bus.stdout.readline().decode().strip()
        watchdog.cancel()
        assert address, "the session did not start"
        yield {**environment, "DBUS_SESSION_BUS_ADDRESS": address}
    finally:
        watchdog.cancel()
        bus.stdin.close()
        bus.wait(SESSION_S)
        bus.stdout.close()


@pytest.fixture
def drive(tmp_path) -> Iterator[Drive]:
    made = Drive(tmp_path / "machine", [(tmp_path / f"host{number}").as_uri() for number in range(2)])
    yield made
    made.close()
    assert made.complaints() == []


READ = "import keyring, sys; print(keyring.get_keyring().name); print(keyring.get_password('megafs', sys.argv[1]))"


def kept(drive: Drive, environment: dict[str, str]) -> tuple[str, str]:
    """(what keeps it, what it keeps), asked with the library alone."""
    command = [sys.executable, "-c", READ, str(drive.state / "v")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SESSION_S, check=True)
    name, key = said.stdout.splitlines()
    return name, key


def test_create_mount_lock_unlock_by_a_secret_service(drive, tmp_path):
    given = ["--passphrase-file", drive.phrase]
    alone = dict(os.environ, DBUS_SESSION_BUS_ADDRESS="", HOME=str(tmp_path))
    with session(tmp_path / "home") as desktop:
        done = drive.run("create", "v", *drive.hosts(), *given, "--remember", env=desktop)
        drive.words.write_text(done.stdout)
        name, key = kept(drive, desktop)
        assert "SecretService" in name
        assert KEY_TEXT.fullmatch(key), "a key of its own, not the passphrase"
        drive.run("mount", "v", drive.mountpoint, env=desktop)  # asks nobody
        (drive.mountpoint / "file").write_text("content")
        drive.run("lock", "v")
        with pytest.raises(OSError, match="expired"):
            (drive.mountpoint / "file").read_text()
        drive.run("unlock", "v", env=desktop)
        assert (drive.mountpoint / "file").read_text() == "content"
        drive.run("lock", "v")
        refused = drive.run("unlock", "v", status=2, env=alone, stdin=subprocess.DEVNULL, start_new_session=True)
        assert "passphrase" in refused.stderr.splitlines()[-1], "the control: without the session it has to ask"
        drive.run("unlock", "v", *given)
        drive.unmount()
    with session(tmp_path / "home") as desktop:  # after the next login
        drive.run("mount", "v", drive.mountpoint, env=desktop)
        assert (drive.mountpoint / "file").read_text() == "content"
        drive.unmount()


def test_a_key_is_added_and_renewed(drive, tmp_path):
    given = ["--passphrase-file", drive.phrase]
    drive.create()
    with session(tmp_path / "home") as desktop:
        drive.run("passphrase", "v", "add", "--keyring", *given, env=desktop)
        _, first = kept(drive, desktop)
        assert "keyring" in drive.run("passphrase", "v", "list").stdout
        drive.run("mount", "v", drive.mountpoint, env=desktop)
        drive.unmount()
        new = tmp_path / "new"
        new.write_text("another horse\n")
        new.chmod(0o600)
        drive.run("passphrase", "v", "change", "--only", *given, "--new-passphrase-file", new, env=desktop)
        refused = drive.run("mount", "v", drive.mountpoint, status=2, env=desktop, start_new_session=True)
        assert "does not open v any more; --remember renews it" in refused.stderr
        drive.run("mount", "v", drive.mountpoint, "--passphrase-file", new, "--remember", env=desktop)
        drive.unmount()
        _, second = kept(drive, desktop)
        assert KEY_TEXT.fullmatch(second)
        assert second != first
        drive.run("mount", "v", drive.mountpoint, env=desktop)
        drive.unmount()


def test_a_keyring_that_is_not_there_is_said(drive, tmp_path):
    drive.create()
    with session(tmp_path / "home", unlocked=False) as desktop:
        desktop["PATH"] = ""  # nothing is started on demand either
        given = ["--keyring", "--passphrase-file", drive.phrase]
        refused = drive.run("passphrase", "v", "add", *given, status=1, env=desktop)
    assert "no desktop keyring takes a key here" in refused.stderr
    assert "keyring" not in drive.run("passphrase", "v", "list").stdout
