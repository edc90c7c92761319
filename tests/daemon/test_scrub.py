"""``megafs scrub`` and the hours of the day, by the command line on a mount."""

import random
import time

import pytest

from tests.daemon.drive import LIMIT_S

pytestmark = pytest.mark.mounted
CONTENT = random.Random(1).randbytes(3 << 20)


def objects(folder):
    """Of a host, the largest first: packs, then what the index is made of."""
    return sorted((path for path in folder.glob("??/*")), key=lambda path: -path.stat().st_size)


@pytest.mark.parametrize("full", [False, True])
def test_scrub_finds_counts_and_repairs(drives, folders, full):
    drive = drives("first", [folder.as_uri() for folder in folders[:3]])
    drive.create("--copies", 3)
    boots = [objects(folder)[0] for folder in folders[:3]]
    more = ("--full",) if full else ()
    drive.run("scrub", "v", *more, status=8)
    drive.mount()
    (drive.mountpoint / "file").write_bytes(CONTENT)
    drive.sync()
    clean = drive.told("scrub", "v", *more)
    assert all(host["checked"] >= 2 and not host["bad"] and not host["silent"] for host in clean)
    good = {path: path.read_bytes() for folder in folders[:3] for path in objects(folder)}
    lost, zeroed, cut = (objects(folder)[0] for folder in folders[:3])
    lost.unlink()
    zeroed.write_bytes(bytes(len(good[zeroed])))
    told = {host["label"]: host for host in drive.told("scrub", "v", *more)}
    assert [told[f"file-{n}"]["bad"] for n in (1, 2, 3)] == [1, 1, 0]
    assert [told[f"file-{n}"]["repaired"] for n in (1, 2, 3)] == [1, 1, 0]
    assert {path: path.read_bytes() for path in good} == good
    cut.write_bytes(good[cut][:-1])
    told = {host["label"]: host for host in drive.told("scrub", "v", *more)}
    assert [told[f"file-{n}"]["repaired"] for n in (1, 2, 3)] == [0, 0, 1]
    assert cut.read_bytes() == good[cut]
    boots[2].unlink()
    told = {host["label"]: host for host in drive.told("scrub", "v", *more)}
    assert [told[f"file-{n}"]["repaired"] for n in (1, 2, 3)] == [0, 0, 1]
    assert boots[2].read_bytes() == good[boots[2]], "what the 24 words find"
    status = drive.told("status", "v")
    assert [host["scrub_bad"] - host["scrub_repaired"] for host in status["hosts"]] == [0, 0, 0]
    assert "checked, 2 bad, 2 repaired" in drive.run("status", "v").stdout
    drive.unmount()


def test_what_nobody_has_right_is_said(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    drive.expect("cannot be repaired now: too few hosts have the pack right")
    drive.create("--copies", 2)
    drive.mount()
    (drive.mountpoint / "file").write_bytes(CONTENT)
    drive.sync()
    drive.unmount()
    drive.forget_cache()
    for folder in folders[:2]:
        largest = objects(folder)[0]
        largest.write_bytes(bytes(largest.stat().st_size))
    drive.mount()
    told = drive.run("scrub", "v", "--full", status=9)
    assert "2 objects on hosts are bad" in told.stderr
    folders[0].rename(folders[3])
    assert "does not answer" in drive.run("scrub", "v", status=9).stdout
    folders[3].rename(folders[0])
    drive.unmount()


def test_shipping_keeps_to_its_hours_unless_somebody_waits(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    drive.create()
    minute = (time.localtime().tm_hour * 60 + time.localtime().tm_min + 720) % 1440
    hours = f"{minute // 60:02}:{minute % 60:02}-{(minute // 60 + 1) % 24:02}:{minute % 60:02}"
    drive.set(f'ship_hours = "{hours}"\nbackground_hours = "{hours}"\npack_idle_s = 0.2\n')
    drive.mount()
    (drive.mountpoint / "file").write_bytes(CONTENT)
    deadline = time.monotonic() + LIMIT_S
    while not (status := drive.told("status", "v"))["unshipped_commits"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)  # another process works, which no event tells
    assert status["shipping_from"] == status["background_from"] == hours[:5]
    assert f"rests until {hours[:5]}" in drive.run("status", "v").stdout
    assert not any(host["objects"] for host in status["hosts"])
    drive.sync()
    assert all(host["objects"] for host in drive.told("status", "v")["hosts"])
    drive.unmount()
