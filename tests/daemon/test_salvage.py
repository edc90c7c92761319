"""``attach --repair`` of damaged indexes: what was newer here than on any host is in lost+found, or is named."""

import fcntl
import os
import re
import time

import pytest

from megafs.config import VaultPaths
from megafs.crypto.slot import open_slots
from megafs.daemon.device import Device
from megafs.index.database import PAGE_BYTES, SICK, connect
from megafs.index.salvage import rows
from tests.daemon.drive import LIMIT_S
from tests.daemon.test_old_state import found_in

pytestmark = pytest.mark.mounted
MANY = 200


@pytest.fixture
def drive(drives, folders):
    """Shipped files, then newer ones that no host has; not mounted, the hosts are there."""
    folders = folders[:2]
    drive = drives("device", [folder.as_uri() for folder in folders])
    drive.expect("that this device had and never shipped differ from the hosts' newer state")
    drive.create()
    drive.lighten()
    drive.mount()
    drive.contents = {}
    for name in ("kept", "same", "dressed"):
        (drive.mountpoint / name).write_bytes(os.urandom(2000))
    (drive.mountpoint / "gone").write_bytes(b"removed here")
    drive.sync()
    drive.unmount()
    away = [folder.rename(folder.with_name(f"{folder.name}-away")) for folder in folders]
    drive.mount()
    deep = drive.mountpoint / "deep" / "er"
    deep.mkdir(parents=True)
    drive.contents = {f"deep/er/{n:03d}": os.urandom(300 + n) for n in range(MANY)} | {
        "kept": os.urandom(300_000),
        "large": os.urandom(700_000),
    }
    for name, data in drive.contents.items():
        (drive.mountpoint / name).write_bytes(data)
    os.setxattr(drive.mountpoint / "large", "user.mark", b"marked")
    (drive.mountpoint / "large").chmod(0o640)
    os.utime(drive.mountpoint / "large", ns=(5, -123_456_789))
    (drive.mountpoint / "dressed").chmod(0o604)
    os.setxattr(drive.mountpoint / "dressed", "user.mark", b"anew")
    (drive.mountpoint / "link").symlink_to("kept")
    (drive.mountpoint / "gone").unlink()
    drive.run("sync", "v", "--local")
    drive.unmount()
    for folder, back in zip(away, folders, strict=True):
        folder.rename(back)
    return drive


def index_of(drive):
    """Its path and key, once no daemon has it."""
    paths = VaultPaths(root=drive.state / "v")
    device = Device.of(open_slots("correct horse", paths.slot.read_bytes()))
    with paths.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    return paths.index, device.keyring.index_key(device.id)


def damage(drive, *pages):
    path, key = index_of(drive)
    connect(path, key, 1000).close()  # what the WAL held is in the file
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE_BYTES + 1000)
            file.write(b"rot")


def page_of(drive, table):
    path, key = index_of(drive)
    connection = connect(path, key, 1000)
    page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    connection.close()
    return page


def repaired(drive):
    """What it says; mounted again."""
    said = drive.attach(drive.words, "--repair").stderr
    drive.mount()
    return said


def in_lost_and_found(drive):
    """The folder and what is in it, once the daemon has brought all of it."""
    limit = time.monotonic() + LIMIT_S
    while any((drive.state / "v" / "aside").iterdir()):
        assert time.monotonic() < limit
        time.sleep(0.05)
    (folder,) = (drive.mountpoint / "lost+found").iterdir()
    return folder, found_in(folder, 0)


def test_whatever_was_newer_here_is_in_lost_and_found(drive):
    damage(drive, page_of(drive, "scrub"))
    said = repaired(drive)
    assert f"{MANY + 4} files were newer here" in said
    assert "  deep/er/000\n" in said
    assert f"  and {MANY + 4 - 20} more\n" in said
    assert "could not be read" not in said
    assert {path.name for path in drive.mountpoint.iterdir()} == {"dressed", "gone", "kept", "lost+found", "same"}
    folder, found = in_lost_and_found(drive)
    assert set(found) == {*drive.contents, "dressed", "link"}
    for name, data in drive.contents.items():
        assert (folder / name).read_bytes() == data
    large = folder / "large"
    assert os.getxattr(large, "user.mark") == b"marked"
    assert large.stat().st_mode & 0o777 == 0o640
    assert large.stat().st_mtime_ns == -123_456_789, "before 1970"
    assert (folder / "link").readlink().name == "kept"
    dressed = folder / "dressed"  # only its attributes were newer
    assert dressed.read_bytes() == (drive.mountpoint / "dressed").read_bytes()
    assert (dressed.stat().st_mode & 0o777, os.getxattr(dressed, "user.mark")) == (0o604, b"anew")
    drive.sync()
    assert drive.told("check", "v", "--full")["findings"] == []


@pytest.mark.parametrize(
    "table",
    ["outbox", *(pytest.param(name, marks=pytest.mark.crash) for name in ("inode", "extent", "chunk", "dirent"))],
)
def test_nothing_newer_disappears_without_a_word(drive, table):
    """Pages of a table all over are damaged: each file is whole in lost+found, or is named, or lost its name."""
    path, key = index_of(drive)
    connection = connect(path, key, 1000)
    query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY pageno"
    try:
        leaves = [page for (page,) in connection.execute(query, (table,))]
    finally:
        connection.close()
    damage(drive, *leaves[1::3])
    said = repaired(drive)
    assert "cannot be read" in said
    assert (drive.mountpoint / "same").exists()
    folder, found = in_lost_and_found(drive)
    drive.sync()
    whole = sum(
        (folder / name).read_bytes() in set(drive.contents.values())
        for name, path in found.items()
        if not path.is_symlink()
    )
    print(f"{table}: {len(leaves[1::3])} of {len(leaves)} leaves damaged, {whole} of {len(drive.contents)} files whole")
    assert whole
    assert "what only they said is lost" in said
    if table in ("inode", "extent", "chunk"):  # every name is known
        lost = re.search(r"(\d+) files were newer here and could not be read, or not wholly", said)
        assert lost is not None, said
        assert whole + int(lost[1]) >= len(drive.contents)


def test_content_outlives_the_damaged_attributes_of_its_file(drive):
    damage(drive, page_of(drive, "inode"))
    said = repaired(drive)
    named = re.search(r"(\d+) files were newer here and could not be read, or not wholly", said)
    assert named is not None, said
    assert int(named[1]) >= len(drive.contents) + 2, "of the link and of what has new attributes nothing else is known"
    folder, _ = in_lost_and_found(drive)
    for name, data in drive.contents.items():
        assert (folder / name).read_bytes() == data
    assert (folder / "deep/er/000").stat().st_mode & 0o077 == 0, "who might read it is not known"


def test_an_index_without_damage_is_said_to_be_so(drive):
    said = repaired(drive)
    assert "is not damaged: megafs mount goes on with it" in said
    assert f"{MANY + 4} files were newer here" in said
    folder, found = in_lost_and_found(drive)
    assert (folder / "kept").read_bytes() == drive.contents["kept"]
    assert len(found) == MANY + 4


def test_one_that_cannot_be_opened_is_said_to_be_so(drive):
    damage(drive, 1)
    said = drive.attach(drive.words, "--repair").stderr
    assert "nothing of the former index can be read" in said
    assert "in it" in said


def test_rows_behind_a_damaged_page_are_found(tmp_path):
    path, key = tmp_path / "index", bytes(32)
    connection = connect(path, key, 1000, create=True)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB NOT NULL)")
    every = [n if n < 3000 else 1 << 40 | n * 7 for n in range(5000)]  # without gaps, and with
    with connection:
        connection.executemany("INSERT INTO t VALUES (?, randomblob(100))", [(n,) for n in every])
    query = "SELECT pageno FROM dbstat WHERE name = 't' AND pagetype = 'leaf' ORDER BY pageno"
    leaves = [page for (page,) in connection.execute(query)]
    connection.close()
    for damaged in (leaves[:1], leaves[1::3], leaves[5:8] + leaves[90:91], leaves[-1:]):
        good = path.read_bytes()
        with path.open("r+b") as file:
            for page in damaged:
                file.seek((page - 1) * PAGE_BYTES + 500)
                file.write(b"rot")
        connection = connect(path, key, 1000)
        unread = set()
        found = [row[0] for row in rows(connection, "t", unread)]
        with pytest.raises(SICK):
            connection.execute("SELECT count(x) FROM t WHERE length(x) > 1").fetchall()
        connection.close()
        path.write_bytes(good)
        assert unread == {"t"}
        assert found == sorted(set(found))
        assert len(every) - 40 * len(damaged) <= len(found) < len(every)
