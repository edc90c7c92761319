"""What rots on this device's disk before any host has it: it never travels, its file is named, and once that is removed
all else ships. Driven by command lines on a real mount."""

import os

import pytest

pytestmark = pytest.mark.mounted
INCOMPLETE, DAMAGED = 7, 9


@pytest.fixture
def drive(drives, folders):
    """Two hosts, one pack; hosts that stay away are not waited for."""
    drive = drives("device", [folder.as_uri() for folder in folders[:2]])
    drive.create()
    drive.expect("rotted on the disk of the state directory before any host had them")
    drive.set("host_patience_s = 8.0\n")
    drive.lighten()
    drive.mount()
    return drive


def packs(drive):
    return sorted((drive.state / "v" / "packs").iterdir())


def written(drive):
    """Three files of one pack; their contents."""
    contents = {}
    for name in ("one", "two", "three"):
        contents[name] = os.urandom(200_000)
        (drive.mountpoint / name).write_bytes(contents[name])
    drive.run("sync", "v", "--local")
    return contents


def sealed(drive, name, contents):
    """Where a file lies in the only pack: files are sealed in the order in which they were written."""
    (pack,) = packs(drive)
    return pack, list(contents).index(name) * 200_000 + 100_000


def flip(pack, at):
    with pack.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def on_hosts(folders):
    """The largest object of each host."""
    return [max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0) for folder in folders]


def cold(drive):
    drive.unmount()
    drive.mount()


def test_before_the_pack_is_closed(drive, folders):
    contents = written(drive)
    flip(*sealed(drive, "two", contents))
    said = drive.run("sync", "v", status=INCOMPLETE).stderr
    assert "megafs check" in said
    assert max(on_hosts(folders[:2])) < 200_000, "it must not travel"
    found = drive.run("check", "v", status=DAMAGED)
    assert "two" in found.stdout
    assert "three" not in found.stdout
    (drive.mountpoint / "two").unlink()
    drive.sync()
    assert drive.told("check", "v", "--full")["findings"] == []
    cold(drive)
    assert (drive.mountpoint / "one").read_bytes() == contents["one"]
    assert (drive.mountpoint / "three").read_bytes() == contents["three"]


@pytest.mark.crash
def test_between_closing_and_leaving(drive, folders):
    """The hosts are away until it has rotted; one of its files is written anew then."""
    away = [folder.rename(folder.with_name(f"{folder.name}-away")) for folder in folders[:2]]
    contents = written(drive)
    drive.run("sync", "v", status=INCOMPLETE)
    flip(*sealed(drive, "three", contents))
    for folder, back in zip(away, folders, strict=False):
        folder.rename(back)
    assert "megafs check" in drive.run("sync", "v", status=INCOMPLETE).stderr
    assert max(on_hosts(folders[:2])) < 200_000, "it must not travel"
    (drive.mountpoint / "three").write_bytes(contents["one"])
    drive.sync()
    assert min(on_hosts(folders[:2])) > 400_000
    assert drive.told("check", "v", "--full")["findings"] == []
    cold(drive)
    drive.unmount()
    drive.forget_cache()
    drive.mount()
    assert (drive.mountpoint / "two").read_bytes() == contents["two"]
    assert (drive.mountpoint / "three").read_bytes() == contents["one"]
