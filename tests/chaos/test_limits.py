"""What an owner or a disk allows a host, by the command line on a mount, with real servers: room, rate, connections."""

import random
import threading
import time

import pytest

from tests import servers
from tests.chaos.weather import secrets_of, sites
from tests.daemon.test_hosts import until
from tests.hosts.test_full import small_disk

pytestmark = [pytest.mark.mounted, pytest.mark.servers]
MIB = 1 << 20
PACK = 16 * MIB


def content(number, size):
    return random.Random(number).randbytes(size)


def write(drive, name, data):
    (drive.mountpoint / name).write_bytes(data)
    return data


def host(drive, label):
    return next(each for each in drive.told("hosts", "v") if each["label"] == label)


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.needs_root
@pytest.mark.skipif(not servers.has("sshd"), reason="a machine without an SSH server")
def test_a_disk_fills_up_and_is_given_room_again(drives, folders, tmp_path):
    with (
        small_disk(tmp_path / "disk", 48 * MIB),
        servers.openssh(tmp_path / "ssh") as server,
    ):
        (server.root / "small").symlink_to(tmp_path / "disk")
        drive = drives("first", [folder.as_uri() for folder in folders[:2]])
        drive.create("--copies", 2)
        drive.set("host_patience_s = 3.0\n")
        drive.mount()
        url = server.place("small/vault")
        drive.run("hosts", "v", "add", url, "--label", "small", "--operator", "another")  # first choice of every pack
        files = {"before": write(drive, "before", content(1, 3 * MIB))}
        drive.sync()
        assert (host(drive, "small")["state"], host(drive, "small")["objects"]) == ("ok", 1), "the control"

        ballast = tmp_path / "disk" / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(64 << 10))
        files["full"] = write(drive, "full", content(2, 3 * MIB))
        told = drive.run("sync", "v", status=7)
        assert "small" in told.stdout + told.stderr
        status = {each["label"]: each for each in drive.told("status", "v")["hosts"]}
        assert {label: each["state"] for label, each in status.items()} == {
            "file-1": "ok",
            "file-2": "ok",
            "small": "full",
        }
        assert "full" in drive.run("status", "v").stdout
        assert sum(each["objects"] for each in status.values()) == 4, "two packs, each on two hosts"
        assert status["small"]["objects"] == 1

        ballast.unlink()
        until(drive, ("hosts", "v"), lambda hosts: {each["state"] for each in hosts} == {"ok"})
        files["after"] = write(drive, "after", content(3, 3 * MIB))
        drive.sync()
        assert host(drive, "small")["objects"] >= 2
        newest = {each["newest_commit"] for each in drive.told("hosts", "v")}
        assert len(newest) == 1, "and it has every commit that it missed"
        drive.unmount()
        drive.forget_cache()
        drive.mount()
        assert {name: (drive.mountpoint / name).read_bytes() for name in files} == files
        drive.unmount()


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", ["s3", "webdav"])
def test_web_servers_that_do_not_say_that_they_are_full_are_found_out(drives, folders, tmp_path, kind):
    with small_disk(tmp_path / "disk", 24 * MIB), servers.rclone(tmp_path / "disk" / "server", kind) as server:
        drive = drives("first", [folder.as_uri() for folder in folders[:2]])
        drive.create("--copies", 2)
        drive.mount()
        secrets, url = tmp_path / "secrets.toml", server.place("vault")
        (name, value), *_ = server.secrets.items()
        secrets.write_text(f'["{url}"]\n{name} = "{value}"\n')
        secrets.chmod(0o600)
        told = ("--label", "small", "--operator", "another", "--secrets-file", secrets)  # first choice of every pack
        drive.run("hosts", "v", "add", url, *told)
        files = {"before": write(drive, "before", content(1, 3 * MIB))}
        drive.sync()
        assert (host(drive, "small")["state"], host(drive, "small")["objects"]) == ("ok", 1), "the control"
        (tmp_path / "disk" / "ballast").write_bytes(bytes(19 * MIB))
        for number in range(3):
            files[f"full {number}"] = write(drive, f"full {number}", content(2 + number, 3 * MIB))
            drive.sync()
        hosts = {each["label"]: each for each in drive.told("status", "v")["hosts"]}
        assert hosts["small"]["state"] == "full"
        assert "taken for full" in hosts["small"]["last_error"]
        assert "full" in drive.run("status", "v").stdout
        assert sum(each["objects"] for each in hosts.values()) == 8, "four packs, each on two hosts"
        drive.unmount()
        drive.forget_cache()
        drive.mount()
        assert {name: (drive.mountpoint / name).read_bytes() for name in files} == files
        drive.unmount()


def test_a_host_gets_no_more_than_its_owner_allows(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    drive.create("--copies", 2)
    drive.mount()
    url, limit = folders[2].as_uri(), 20 * MIB  # one full pack
    drive.run("hosts", "v", "add", url, "--label", "small", "--operator", "another", "--limit", "20M")
    data = write(drive, "file", content(4, 66 * MIB))  # four packs and a bit, at once
    drive.sync()
    hosts = {each["label"]: each for each in drive.told("hosts", "v")}
    stored = {label: each["stored_bytes"] for label, each in hosts.items()}
    assert PACK <= stored["small"] <= bytes_in(folders[2]) <= limit, "first choice of every pack, until it is full"
    assert sum(stored.values()) >= 2 * len(data), "the others took the rest"
    print(f"{stored} with {bytes_in(folders[2])} on the host in all, of {limit} allowed")
    assert [hosts[label]["state"] for label in ("file-1", "file-2", "small")] == ["ok", "ok", "full"]
    drive.unmount()
    drive.forget_cache()
    drive.mount()
    assert (drive.mountpoint / "file").read_bytes() == data
    drive.unmount()


class Watcher:
    """When which byte had passed a proxy, as seen every few milliseconds by a thread of its own."""

    def __init__(self, count):
        self._count, self._over = count, threading.Event()
        self._seen = []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        start = self._count()
        while not self._over.wait(0.01):
            self._seen.append((time.monotonic(), self._count() - start))

    def rate(self, low, high):
        """Bytes a second between the first ``low`` and the first ``high`` bytes."""
        first = next(at for at, passed in self._seen if passed >= low)
        last = next(at for at, passed in self._seen if passed >= high)
        return (high - low) / max(last - first, 0.01)


def shipped_and_read(drive, proxy, bandwidth):
    """Rates up and down of 48 MiB. Up, a pack passes as a whole and the next ones wait for it: so without the first."""
    size = 3 * PACK
    drive.mount(*bandwidth)
    with Watcher(lambda: proxy.bytes_up) as up:
        data = write(drive, f"file{len(bandwidth)}", content(len(bandwidth), size))
        drive.sync()
    drive.unmount()
    drive.forget_cache()
    drive.mount(*bandwidth)
    with Watcher(lambda: proxy.bytes_down) as down:
        assert (drive.mountpoint / f"file{len(bandwidth)}").read_bytes() == data
    drive.unmount()
    return up.rate(PACK, size), down.rate(2 * MIB, size)


def test_rates_and_connections_of_a_real_server(drives, tmp_path):
    with sites(tmp_path / "servers", ["rclone webdav"]) as (site,):
        secrets = secrets_of([site], tmp_path / "secrets.toml")
        drive = drives("first", [site.url])
        drive.create("--copies", 1, "--secrets-file", secrets, "--cache-size", "256M")
        toml = drive.state / "v" / "vault.toml"
        usual = toml.read_text()
        asked = 8 * MIB
        toml.write_text(usual + "connections = 2\n")
        site.proxy.most_open = 0  # create had its own
        up, down = shipped_and_read(drive, site.proxy, ("--bandwidth", "8M/8M"))
        assert 0.8 * asked < up < 1.2 * asked
        assert 0.8 * asked < down < 1.2 * asked
        assert site.proxy.most_open <= 2
        toml.write_text(usual + "connections = 8\n")
        free_up, free_down = shipped_and_read(drive, site.proxy, ())
        assert site.proxy.most_open > 2, "the control"
        assert min(free_up, free_down) > 1.5 * asked, "the control"
        print(
            f"of {asked} bytes/s asked: {up:.0f} up, {down:.0f} down; "
            f"with no limit {free_up:.0f} and {free_down:.0f}, {site.proxy.most_open} connections"
        )
