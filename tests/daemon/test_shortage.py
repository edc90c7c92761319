"""Two hosts, two copies, one of them away: what is written meanwhile comes back from the other one alone."""

import os
import random
import shutil

import pytest

from tests.daemon.test_offline import bring_back, put_away, state, until

pytestmark = pytest.mark.mounted
QUICK = "host_patience_s = 3\nhost_gone_s = 40\n"  # of the first half passes before something leaves with one copy


def content(number):
    return random.Random(number).randbytes(300_000)


@pytest.fixture
def drive(drives, folders):
    made = drives("first", [folder.as_uri() for folder in folders[:2]])
    made.create()
    made.set(QUICK)
    made.lighten()
    made.mount()
    (made.mountpoint / "both").write_bytes(content(0))
    made.sync()
    put_away(folders[1:2])
    (made.mountpoint / "one").write_bytes(content(1))
    assert "file-2 lacks" in made.run("sync", "v", status=7).stderr
    return made


def reads(drive):
    return (drive.mountpoint / "both").read_bytes() == content(0) and (
        drive.mountpoint / "one"
    ).read_bytes() == content(1)


def converged(drive):
    """Both hosts have everything, and nobody was blamed."""
    told = drive.told("status", "v")
    assert told["alarms"] == []
    return not (told["thin_bytes"] or told["unshipped_bytes"] or told["unshipped_commits"])


@pytest.mark.acceptance
def test_the_machine_is_lost_while_a_host_is_away(drive, drives, folders):
    told = drive.run("status", "v").stdout
    assert "few copies  " in told
    assert "are on fewer hosts than the policy wants" in told
    assert "not shipped nothing" in told
    assert state(drive.mountpoint / "one") == "safe 1/2"
    drive.unmount()
    other = drives("second", drive.urls)
    other.attach(drive.words, urls=drive.urls[:1])
    other.set(QUICK)
    other.mount()
    assert reads(other)
    bring_back(folders[1:2])
    until(lambda: converged(other), 150)
    other.sync()
    until(lambda: objects(folders[1]) >= objects(folders[0]), 150)  # it is looked at a minute after the mount
    other.unmount()
    shutil.rmtree(folders[0])
    third = drives("third", drive.urls)
    third.attach(drive.words, urls=drive.urls[1:])
    third.mount()
    assert reads(third)
    third.unmount()


@pytest.mark.acceptance
def test_the_host_is_back_before_the_machine_is_lost(drive, drives, folders):
    bring_back(folders[1:2])
    until(lambda: converged(drive))
    drive.sync()
    drive.unmount()
    shutil.rmtree(folders[0])
    other = drives("second", drive.urls)
    other.attach(drive.words, urls=drive.urls[1:])
    other.mount()
    assert reads(other)
    assert other.told("status", "v")["alarms"] == []
    other.unmount()


def objects(folder):
    return sum(1 for path in folder.rglob("*") if path.is_file())


def test_an_fsync_is_not_to_wait_for_hosts_that_there_are_not(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    drive.create()
    drive.lighten()
    drive.expect("fsync is to wait for")
    where = ("mount", "v", drive.mountpoint, "--passphrase-file", drive.phrase)
    assert "wait for 3 hosts" in drive.run(*where, "--durability", "remote=3", status=2).stderr
    drive.set('durability = "remote=3"\n')
    assert "wait for 3 hosts" in drive.run(*where, status=2).stderr
    drive.run(*where, "--durability", "remote=2")
    assert drive.told("status", "v")["fsync_fails"] == ""
    drive.run("hosts", "v", "remove", "file-2", "--force")
    assert "fsync fails fsync is to wait for 2 hosts" in drive.run("status", "v").stdout
    with (drive.mountpoint / "file").open("wb") as file, pytest.raises(OSError, match="Input/output"):
        os.fsync(file.fileno())
    drive.unmount()


def test_a_folder_is_made_and_named_and_no_way_to_it(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    mistyped = folders[2] / "deeper"
    given = ("--host", mistyped.as_uri(), "--passphrase-file", drive.phrase)
    refused = drive.run("create", "v", *given, status=6)
    assert f"the folder {folders[2]} is not there" in refused.stderr
    assert not folders[2].exists()
    folders[0].mkdir()
    made = drive.run("create", "v", *drive.hosts(), "--passphrase-file", drive.phrase)
    assert f"made the folder {folders[1]}" in made.stderr
    assert str(folders[0]) not in made.stderr, "it was there"
