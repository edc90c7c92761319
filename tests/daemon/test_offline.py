"""Offline is normal: what is here is read, what is not says so in time; pins, fetch, and the state of a file."""

import errno
import os
import random
import shutil
import signal
import time
from contextlib import ExitStack

import pytest

from tests import servers

pytestmark = pytest.mark.mounted
STATE = "user.megafs.state"


def content(number, size):
    return random.Random(number).randbytes(size)


def state(path):
    return os.getxattr(path, STATE).decode()


def put_away(folders):
    for folder in folders:
        folder.rename(folder.with_name(folder.name + ".away"))


def bring_back(folders):
    for folder in folders:
        folder.with_name(folder.name + ".away").rename(folder)


def until(question, limit_s=40.0):
    """Bounded polling of another process."""
    deadline = time.monotonic() + limit_s
    while not question():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


@pytest.fixture
def drive(drives, folders):
    made = drives("first", [folder.as_uri() for folder in folders[:2]])
    made.create()
    return made


def settings(drive, text):
    (drive.state / "v" / "vault.toml").write_text(text)


@pytest.mark.acceptance
def test_what_is_not_here_fails_in_time_and_with_one_line(drive, folders):
    settings(drive, "read_patience_s = 4\n")
    drive.mount()
    for number in range(3):
        (drive.mountpoint / f"far {number}").write_bytes(content(number, 100_000))
    drive.sync()
    drive.unmount()
    drive.forget_cache()
    put_away(folders[:2])
    drive.mount()
    (drive.mountpoint / "near").write_bytes(b"written offline")
    assert (drive.mountpoint / "near").read_bytes() == b"written offline"
    assert (drive.mountpoint / "far 0").stat().st_size == 100_000
    for number in range(3):
        began = time.monotonic()
        with pytest.raises(OSError) as caught:
            (drive.mountpoint / f"far {number}").read_bytes()
        assert caught.value.errno == errno.EIO
        assert time.monotonic() - began < 8
    assert drive.told("status", "v")["offline"] is True
    assert "offline" in drive.run("status", "v").stdout
    log = (drive.state / "v" / "log" / "megafs.log").read_text()
    assert log.count("too few hosts answer") == 1, "one notice, not one for each read"
    assert state(drive.mountpoint / "near") == "local"
    bring_back(folders[:2])
    until(lambda: _reads(drive.mountpoint / "far 1", content(1, 100_000)))
    assert drive.told("status", "v")["offline"] is False
    drive.sync()
    assert state(drive.mountpoint / "near") == "safe 2/2", "what waited was shipped"
    drive.unmount()


def _reads(path, wanted):
    try:
        return path.read_bytes() == wanted
    except OSError:
        return False


def far_away(drives, folder, hosts, copies, size):
    """Mounted, with a file that only these servers have."""
    secrets, urls = folder / "secrets.toml", [host.place("vault") for host in hosts]
    rows = [(url, name, value) for url, host in zip(urls, hosts, strict=True) for name, value in host.secrets.items()]
    secrets.write_text("".join(f'["{url}"]\n{name} = "{value}"\n' for url, name, value in rows))
    secrets.chmod(0o600)
    drive = drives("hung", urls)
    drive.create("--copies", copies, "--secrets-file", secrets)
    settings(drive, "read_patience_s = 4\n")
    drive.mount()
    (drive.mountpoint / "far").write_bytes(content(1, size))
    drive.sync()
    drive.unmount()
    drive.forget_cache()
    drive.mount()
    return drive


@pytest.mark.servers
def test_hosts_that_hang_do_not_hang_a_reader(drives, tmp_path):
    with servers.rclone(tmp_path / "dav", "webdav") as server:
        drive = far_away(drives, tmp_path, [server], 1, 100_000)
        server.process.send_signal(signal.SIGSTOP)
        try:
            for limit_s in (8, 3):  # the second knows already
                began = time.monotonic()
                with pytest.raises(OSError) as caught:
                    (drive.mountpoint / "far").read_bytes()
                assert caught.value.errno == errno.EIO
                assert time.monotonic() - began < limit_s
        finally:
            server.process.send_signal(signal.SIGCONT)
        until(lambda: _reads(drive.mountpoint / "far", content(1, 100_000)))
        drive.unmount()


def test_the_state_of_a_file(drive, folders, tmp_path):
    drive.mount()
    file = drive.mountpoint / "file"
    file.write_bytes(content(1, 100_000))
    assert state(file) == "local"
    drive.sync()
    assert state(file) == "safe 2/2"
    assert os.listxattr(file) == [], "copies do not take it along"
    for refused in (lambda: os.setxattr(file, STATE, b"safe 9/9"), lambda: os.removexattr(file, STATE)):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.EPERM
    with pytest.raises(OSError) as caught:
        os.getxattr(drive.mountpoint, STATE)
    assert caught.value.errno == errno.ENODATA
    file.write_bytes(content(2, 100_000))
    assert state(file) == "local", "a changed file is not what the hosts have"
    drive.sync()
    (drive.mountpoint / "empty").touch()
    assert state(drive.mountpoint / "empty") == "shipping"
    drive.unmount()
    drive.forget_cache()
    drive.mount()
    assert state(file) == "remote"
    assert file.read_bytes() == content(2, 100_000)
    assert state(file) == "safe 2/2"
    folders[0].rename(folders[0].with_name("gone"))
    file.write_bytes(content(3, 100_000))
    until(lambda: state(file) in ("shipping", "local"))
    drive.unmount()


@pytest.mark.acceptance
def test_pins_stay_here_and_what_comes_into_them_too(drive, folders):
    drive.mount()
    (drive.mountpoint / "tree" / "deep").mkdir(parents=True)
    kept = {drive.mountpoint / "tree" / "deep" / f"{n}": content(n, 300_000) for n in range(4)}
    for path, data in kept.items():
        path.write_bytes(data)
    outside = drive.mountpoint / "outside"
    outside.write_bytes(content(9, 300_000))
    drive.sync()
    drive.unmount()
    drive.forget_cache()
    drive.mount()
    assert {state(path) for path in kept} == {"remote"}
    assert "kept here" in drive.run_plain("pin", drive.mountpoint / "tree").stdout
    assert {state(path) for path in kept} == {"safe 2/2"}
    assert state(outside) == "remote", "only what was asked for"
    assert "1.1 MiB of 1.1 MiB here" in drive.run_plain("pin", "--list", drive.mountpoint).stdout
    outside.rename(drive.mountpoint / "tree" / "inside")
    drive.sync()
    drive.unmount()
    drive.mount()  # looks through its pins at once
    until(lambda: state(drive.mountpoint / "tree" / "inside") == "safe 2/2")
    put_away(folders[:2])
    for path, data in kept.items():
        assert path.read_bytes() == data
    assert (drive.mountpoint / "tree" / "inside").read_bytes() == content(9, 300_000)
    bring_back(folders[:2])
    drive.run_plain("unpin", drive.mountpoint / "tree")
    assert drive.run_plain("unpin", drive.mountpoint / "tree", status=2)
    assert drive.run_plain("pin", "--list", drive.mountpoint).stdout == ""
    drive.unmount()


@pytest.mark.acceptance
def test_fetch_brings_once_and_a_tree_that_does_not_fit_is_refused(drive, tmp_path):
    drive.mount()
    file = drive.mountpoint / "file"
    file.write_bytes(content(1, 3 << 20))
    with (drive.mountpoint / "large").open("wb") as large:
        for number in range(50):
            large.write(content(number, 1 << 20))
    drive.sync()
    drive.unmount()
    drive.forget_cache()
    drive.mount("--cache-size", "64M")
    assert state(file) == "remote"
    drive.run_plain("fetch", file)
    assert state(file) == "safe 2/2"
    assert "--cache-size" in drive.run_plain("pin", drive.mountpoint / "large", status=1).stderr
    assert "not in a mounted vault" in drive.run_plain("pin", tmp_path, status=8).stderr
    drive.run_plain("pin", file)
    for number in range(50):  # more passes through the cache than it holds
        with (drive.mountpoint / "large").open("rb") as large:
            large.seek(number << 20)
            assert large.read(1 << 20) == content(number, 1 << 20)
        (drive.mountpoint / f"new {number}").write_bytes(content(100 + number, 1 << 20))
    drive.sync()
    assert state(file) == "safe 2/2"
    assert drive.told("status", "v")["pinned_here_bytes"] >= 3 << 20
    drive.unmount()


@pytest.mark.acceptance
def test_fsync_that_waits_for_hosts(drive, drives, folders, tmp_path):
    settings(drive, "host_patience_s = 2\n")
    assert "durability" in drive.run("mount", "v", drive.mountpoint, "--durability", "far", status=2).stderr
    drive.mount("--durability", "remote=2")
    with (drive.mountpoint / "promised").open("wb") as file:
        file.write(content(1, 500_000))
        file.flush()
        os.fsync(file.fileno())
        assert state(drive.mountpoint / "promised") == "safe 2/2"
        seen = tmp_path / "seen"  # what the hosts have at this moment; this machine is lost with all its state
        for folder in folders[:2]:
            shutil.copytree(folder, seen / folder.name)
    put_away(folders[:1])
    with (drive.mountpoint / "owed").open("wb") as file:
        file.write(b"only here")
        file.flush()
        began = time.monotonic()
        with pytest.raises(OSError) as caught:
            os.fsync(file.fileno())
        assert caught.value.errno == errno.EIO
        assert time.monotonic() - began < 20, "bounded"
    assert (drive.mountpoint / "owed").read_bytes() == b"only here"
    bring_back(folders[:1])
    drive.unmount()
    for folder in folders[:2]:
        shutil.rmtree(folder)
        (seen / folder.name).rename(folder)
    other = drives("other", [folder.as_uri() for folder in folders[:2]])
    other.attach(drive.words)
    other.mount()
    assert (other.mountpoint / "promised").read_bytes() == content(1, 500_000)
    other.unmount()


@pytest.mark.acceptance
def test_an_fsync_of_this_device_alone_promises_the_hosts_nothing(drive, drives, folders, tmp_path):
    """The control of the test above: with the default the same moment is not on the hosts."""
    settings(drive, "pack_idle_s = 3600\npack_age_s = 3600\n")
    drive.mount()
    drive.sync()
    with (drive.mountpoint / "promised").open("wb") as file:
        file.write(content(1, 500_000))
        file.flush()
        os.fsync(file.fileno())
    assert state(drive.mountpoint / "promised") == "local"
    seen = tmp_path / "seen"
    for folder in folders[:2]:
        shutil.copytree(folder, seen / folder.name)
    drive.unmount()
    other = drives("other", [(seen / folder.name).as_uri() for folder in folders[:2]])
    other.attach(drive.words)
    other.mount()
    assert not (other.mountpoint / "promised").exists()
    other.unmount()


def test_a_vault_of_which_the_hosts_have_nothing_yet_is_not_attached(drive, drives, folders):
    other = drives("other", [folder.as_uri() for folder in folders[:2]])
    assert "no commit of the vault yet" in other.attach(drive.words, status=7).stderr
    assert not (other.state / "v").exists()


@pytest.mark.servers
@pytest.mark.parametrize("is_back", [False, True])
def test_hosts_that_hang_do_not_keep_a_mount_from_ending(drives, tmp_path, is_back):
    """With readers waiting for them, packs on their way to them, and after they went on."""
    kinds = ("webdav", "s3", "sftp")
    with ExitStack() as stack:
        hosts = [stack.enter_context(servers.rclone(tmp_path / kind, kind)) for kind in kinds]
        drive = far_away(drives, tmp_path, hosts, 2, 5_000_000)
        for host in hosts:
            host.process.send_signal(signal.SIGSTOP)
        try:
            (drive.mountpoint / "near").write_bytes(content(2, 20 << 20))
            with pytest.raises(OSError, match="Input/output error"):
                (drive.mountpoint / "far").read_bytes()
            until(lambda: drive.told("status", "v")["unshipped_bytes"] > 16 << 20)
            if is_back:
                for host in hosts:
                    host.process.send_signal(signal.SIGCONT)
            began = time.monotonic()
            drive.unmount()
            took_s = time.monotonic() - began
            assert took_s < 30
        finally:
            for host in hosts:
                host.process.send_signal(signal.SIGCONT)
        drive.mount()
        assert (drive.mountpoint / "near").read_bytes() == content(2, 20 << 20)
        assert (drive.mountpoint / "far").read_bytes() == content(1, 5_000_000)
        drive.unmount()
        print(f"unmounted in {took_s:.1f} s")
