"""Hosts of a living vault, by the command line: added, tested, planned, drained, removed; the policy changed."""

import json
import random
import shutil
import subprocess
import time

import pytest

from tests import servers
from tests.daemon.drive import LIMIT_S

pytestmark = pytest.mark.mounted
CONTENT = random.Random(1).randbytes(2 << 20)


def until(drive, what, wanted):
    """Wait for the daemon's background work: until ``what`` (hosts in JSON) satisfies ``wanted``."""
    deadline = time.monotonic() + LIMIT_S
    while not wanted(found := drive.told(*what)):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)  # another process works, which no event tells
    return found


def test_a_host_joins_takes_over_and_suffices_alone(drives, folders):
    drive = drives("first", [folders[0].as_uri()])
    drive.create()
    drive.mount()
    (drive.mountpoint / "file").write_bytes(CONTENT)
    drive.sync()
    drive.run("hosts", "v", "remove", "file-1", status=2)  # the only one
    added = drive.run("hosts", "v", "add", folders[1].as_uri(), "--label", "new", "--recovery-key-file", drive.words)
    assert "new is a host" in added.stdout
    assert "older hosts" not in added.stdout
    drive.run("hosts", "v", "add", folders[1].as_uri(), status=2)
    assert [each["error"] for each in drive.told("hosts", "v", "test")] == ["", ""]
    assert drive.run("hosts", "v", "remove", "file-1", status=7).stderr.count("\n") == 1
    drive.run("hosts", "v", "drain", "file-1")
    by_label = until(
        drive,
        ("hosts", "v"),
        lambda hosts: not any(host["objects"] for host in hosts if host["label"] == "file-1"),
    )
    assert {host["label"]: host["state"] for host in by_label} == {"file-1": "draining", "new": "ok"}
    drive.sync()
    drive.run("hosts", "v", "remove", "file-1")
    assert [host["label"] for host in drive.told("hosts", "v")] == ["new"]
    (drive.mountpoint / "later").write_bytes(CONTENT[:1000])
    drive.sync()
    drive.unmount()
    shutil.rmtree(folders[0])
    other = drives("second", [folders[1].as_uri()])
    other.attach(drive.words)
    other.mount()
    assert (other.mountpoint / "file").read_bytes() == CONTENT
    assert (other.mountpoint / "later").read_bytes() == CONTENT[:1000]
    other.unmount()


def test_the_policy_of_a_living_vault(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:3]])
    drive.create("--copies", 2)
    drive.mount()
    (drive.mountpoint / "file").write_bytes(CONTENT)
    drive.sync()
    drive.run("policy", "v", "--shards", "2+2", status=2)
    told = drive.run("hosts", "v", "add", folders[3].as_uri(), "--price-storage", "0.01", "--limit", "1G")
    assert "older hosts" in told.stdout
    plan = drive.told("hosts", "v", "plan", "--shards", "2+2")
    assert (plan["survives_hosts"], plan["places_found"]) == (2, 4)
    assert drive.told("hosts", "v", "plan")["survives_hosts"] == 1
    drive.run("policy", "v", "--shards", "2+2")
    assert drive.told("policy", "v") == {"copies": 0, "k": 2, "m": 2}
    half = len(CONTENT) // 2
    until(
        drive,
        ("hosts", "v"),
        lambda hosts: all(host["objects"] and half <= host["stored_bytes"] < len(CONTENT) for host in hosts),
    )
    drive.sync()
    drive.unmount()
    drive.forget_cache()
    for folder in folders[:2]:
        shutil.rmtree(folder)
    drive.mount()
    assert (drive.mountpoint / "file").read_bytes() == CONTENT
    drive.unmount()


def test_what_is_said_of_a_host_counts_at_once_and_on_other_devices(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    drive.create()
    drive.lighten()
    drive.mount()
    (drive.mountpoint / "file").write_bytes(CONTENT)
    drive.sync()
    said = ("--operator", "acme", "--region", "north", "--price-storage", "0.02", "--price-egress", "0.5")
    drive.run("hosts", "v", "set", "file-2", *said, "--limit", "1G", "--append-only", "--label", "shed")
    shown = drive.run("hosts", "v").stdout
    assert "operator acme, region north, 0.02 a GiB and month, 0.5 a GiB read, append-only" in shown
    assert " of 1.0 GiB " in shown
    plan = drive.run("hosts", "v", "plan").stdout
    assert "operator acme, region north" in plan
    assert "room for 1.0 GiB" in plan
    drive.run("hosts", "v", "set", "shed", "--limit", "1M")
    assert {host["label"]: host["state"] for host in drive.told("hosts", "v")} == {"file-1": "ok", "shed": "full"}
    drive.run("hosts", "v", "set", "shed", "--limit", "0", "--no-append-only", "--region", "")
    drive.run("hosts", "v", "set", "shed", status=2)
    drive.run("hosts", "v", "set", "shed", "--label", "file-1", status=2)
    drive.run("hosts", "v", "set", "shed", "--price-egress", "much", status=2)
    drive.run("hosts", "v", "set", "shed", "--label", "file:///mnt", status=2)
    drive.run("hosts", "v", "set", "shed", "--operator", "a\x1b[31mb", status=2)
    asked = [drive.run(*call, "--copies", "3", status=2).stderr for call in (("policy", "v"), ("hosts", "v", "plan"))]
    assert asked[0] == asked[1], "what cannot be is refused in the same words"
    drive.sync()
    drive.unmount()
    other = drives("second", drive.urls)
    other.attach(drive.words)
    other.mount()
    (shed,) = [host for host in other.told("hosts", "v") if host["label"] == "shed"]
    found = [shed[name] for name in ("operator", "region", "price_storage", "limit_bytes", "append_only", "state")]
    assert found == ["acme", "", "0.02", 0, False, "ok"]
    folders[1].rename(folders[2])
    (other.mountpoint / "more").write_bytes(CONTENT)
    until(other, ("hosts", "v"), lambda hosts: any(host["asks_again_s"] for host in hosts))
    assert "  asks again at " in other.run("hosts", "v").stdout
    folders[2].rename(folders[1])
    until(other, ("hosts", "v"), lambda hosts: all(host["state"] == "ok" for host in hosts))
    assert ", over: file-2: the folder" in other.run("hosts", "v").stdout.replace("shed: the", "file-2: the")
    other.unmount()


def test_a_server_that_was_stopped_is_said_to_be_away_and_is_asked_when_somebody_waits(drives, tmp_path):
    """S3 says nothing of its space, so nothing but a request tells whether it is there."""
    with servers.moto(tmp_path / "moto") as server:
        drive = drives("first", [server.place("one"), (tmp_path / "folder").as_uri()])
        secrets = tmp_path / "secrets.toml"
        secrets.write_text(f'["{drive.urls[0]}"]\nsecret_key = "{servers.SECRET}"\n')
        secrets.chmod(0o600)
        drive.create("--secrets-file", secrets)
        drive.mount()
        drive.sync()
        server.process.kill()
        server.process.wait()
        states = {host["label"]: host["state"] for host in drive.told("hosts", "v")}
        assert states == {"s3-1": "unreachable", "file-2": "ok"}
        assert "no connection (ConnectError)" in drive.run("hosts", "v").stdout
        failed = drive.run("hosts", "v", "test", "s3-1", status=6).stdout
        assert "not asked" not in failed
        drive.unmount()


def test_secrets_are_kept_apart(drives, tmp_path):
    """S3, from its secret in a file to a mount; no secret in arguments, environment or the clear of anything else."""
    with servers.moto(tmp_path / "moto") as server:
        urls = [server.place("one"), server.place("two")]
        drive = drives("first", urls)
        refused = drive.run(
            "create", "v", *drive.hosts(), "--passphrase-file", drive.phrase, status=2, start_new_session=True
        )
        assert "secret key" in refused.stderr
        assert "--secrets-file" in refused.stderr
        file = tmp_path / "secrets.toml"
        file.write_text("".join(f'["{url}"]\nsecret_key = "{servers.SECRET}"\n' for url in urls))
        file.chmod(0o600)
        drive.create("--secrets-file", file)
        drive.mount("--bandwidth", "50M/50M")
        (drive.mountpoint / "file").write_bytes(CONTENT)
        drive.sync()
        listed = drive.run("hosts", "v")
        assert servers.SECRET not in listed.stdout + listed.stderr
        processes = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout.splitlines()
        ours = [line for line in processes if " -m megafs" in line]  # servers of other tests are told theirs
        assert ours, "the mount at least"
        assert not [line for line in ours if servers.SECRET in line]
        drive.unmount()
        kept = [
            path for path in drive.state.rglob("*") if path.is_file() and servers.SECRET.encode() in path.read_bytes()
        ]
        assert kept == [], "sealed under the vault's keys"
        assert (drive.state / "v" / "secrets.sealed").stat().st_mode & 0o777 == 0o600

        other = drives("second", urls[:1])
        other.attach(drive.words, "--secrets-file", file, urls=urls[1:])
        (other.state / "v" / "secrets.sealed").unlink()
        other.mount()
        assert json.loads(other.run("hosts", "v", "--json").stdout)[0]["state"] == "unreachable"
        other.unmount()
        other.run("hosts", "v", "secrets", urls[0], "--secrets-file", file)
        assert servers.SECRET in (other.state / "v" / "secrets").read_text(), "nobody could seal it yet: the control"
        other.mount()
        assert not (other.state / "v" / "secrets").exists()
        assert (other.mountpoint / "file").read_bytes() == CONTENT
        other.unmount()


def test_a_host_given_up_by_force_is_made_up_for_and_a_drained_one_may_return(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:3]])
    drive.create("--copies", 2)
    drive.mount()
    (drive.mountpoint / "file").write_bytes(CONTENT)
    drive.sync()
    held = next(host for host in drive.told("hosts", "v") if host["objects"])
    drive.run("hosts", "v", "drain", held["label"])
    assert "again" in drive.run("hosts", "v", "add", held["url"]).stdout
    assert {host["state"] for host in drive.told("hosts", "v")} == {"ok"}
    shutil.rmtree(folders[int(held["label"][-1]) - 1])  # file-1 is the first folder
    drive.run("hosts", "v", "remove", held["url"], "--force")
    gone = f"{held['label']} (gone)"
    found = until(
        drive,
        ("hosts", "v"),
        lambda hosts: all(bool(host["objects"]) is (host["label"] != gone) for host in hosts),
    )
    assert [host["state"] for host in found if host["label"] == gone] in ([], ["gone"])
    drive.unmount()
    drive.forget_cache()
    drive.mount()
    assert (drive.mountpoint / "file").read_bytes() == CONTENT
    drive.unmount()
