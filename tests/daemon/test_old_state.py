"""An older copy of the state directory is put back and written to while no host answers: nothing of it disappears."""

import os
import shutil
import subprocess
import time

import pytest

from tests.daemon.drive import MEGAFS, ROOT

pytestmark = pytest.mark.mounted
LIMIT_S = 60


def found_in(place, count):
    """Files below ``place`` once there are so many; another process makes them."""
    limit = time.monotonic() + LIMIT_S
    while True:
        found = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file() or path.is_symlink()}
        if len(found) >= count or time.monotonic() > limit:
            return found
        time.sleep(0.05)


@pytest.fixture
def old(drives, folders):
    """A drive whose state is older than its hosts', with changes of its own."""
    folders = folders[:3]
    drive = drives("device", [folder.as_uri() for folder in folders])
    drive.expect(
        "commits older than the hosts'", "an older copy of the state directory", "differ from the hosts' newer"
    )
    drive.create()
    drive.mount()
    kept = drive.mountpoint / "kept"
    kept.write_text("first")
    (drive.mountpoint / "same").write_text("same")
    drive.sync()
    drive.unmount()
    shutil.copytree(drive.state, drive.folder / "older")
    drive.mount()
    kept.write_text("second")
    (drive.mountpoint / "later").write_text("later")
    drive.sync()
    drive.unmount()
    shutil.rmtree(drive.state)
    (drive.folder / "older").rename(drive.state)
    for folder in folders:
        folder.rename(folder.with_name(f"{folder.name}-away"))
    drive.mount()
    kept.write_text("other")
    deep = drive.mountpoint / "deep" / "er"
    deep.mkdir(parents=True)
    data = os.urandom(700_000)
    (deep / "file").write_bytes(data)
    os.setxattr(deep / "file", "user.mark", b"marked")
    os.utime(deep / "file", ns=(5, 123_456_789))
    (deep / "file").chmod(0o640)
    (deep / "link").symlink_to("../../kept")
    drive.run("sync", "v", "--local")
    drive.unmount()
    for folder in folders:
        folder.with_name(f"{folder.name}-away").rename(folder)
    drive.data = data
    return drive


def test_what_only_it_had_is_in_lost_and_found(old):
    old.mount()
    assert (old.mountpoint / "kept").read_text() == "second"
    assert (old.mountpoint / "later").read_text() == "later"
    (folder,) = (old.mountpoint / "lost+found").iterdir()
    found = found_in(folder, 3)
    assert sorted(found) == ["deep/er/file", "deep/er/link", "kept"], "what is the same is not there twice"
    aside = old.state / "v" / "aside"
    limit = time.monotonic() + LIMIT_S
    while list(aside.iterdir()) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not list(aside.iterdir())
    file = found["deep/er/file"]
    assert file.read_bytes() == old.data
    assert (file.stat().st_mode & 0o777, file.stat().st_mtime_ns) == (0o640, 123_456_789)
    assert os.getxattr(file, "user.mark") == b"marked"
    assert os.readlink(found["deep/er/link"]) == "../../kept"
    assert found["kept"].read_text() == "other"
    assert '"kind": "own-state"' in old.run("status", "v", "--json", status=10).stdout
    assert not old.told("check", "v", "--full")["findings"]
    old.sync()
    old.unmount()
    old.mount()
    assert len(list((old.mountpoint / "lost+found").iterdir())) == 1, "once"
    old.unmount()


def test_a_kill_meanwhile_loses_nothing(old):
    """The rows stay until the files are durable."""
    where = ["--state-dir", old.state, "--passphrase-file", old.phrase]
    for _ in range(2):
        daemon = subprocess.Popen([*MEGAFS, "mount", "v", old.mountpoint, "--foreground", *where], cwd=ROOT)
        limit = time.monotonic() + LIMIT_S
        while not (old.mountpoint / "later").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        daemon.kill()
        daemon.wait()
    old.mount()
    folders = list((old.mountpoint / "lost+found").iterdir())
    found = found_in(folders[0], 3)
    assert (len(folders), sorted(found)) == (1, ["deep/er/file", "deep/er/link", "kept"])
    assert found["deep/er/file"].read_bytes() == old.data
    old.sync()
    old.unmount()
    assert not old.told("check", "v", "--full", "--passphrase-file", old.phrase)["findings"]
