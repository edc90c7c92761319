"""An index under another key, whole or as it was, wherever it is cut off."""

import os
import shutil

import pytest

from megafs.errors import DamagedIndex, DiskError, NoSpace
from megafs.index.database import Database
from megafs.index.rekey import PARTIAL, rekey

FORMER, NEW = b"f" * 32, b"n" * 32


def rows(path, key):
    database = Database(path, key)
    try:
        return [
            sorted(database.connection.execute(f"SELECT * FROM {table}")) for table in ("setting", "state", "outbox")
        ]
    finally:
        database.close()


@pytest.fixture
def index(tmp_path):
    """As a kill leaves it: the last commits only in the log."""
    path = tmp_path / "a 'strange' name %41?#" / "index.db"
    path.parent.mkdir()
    database = Database(path, FORMER, create=True)
    for number in range(300):
        database.connection.execute("INSERT INTO setting VALUES (?, zeroblob(500))", (f"key {number}",))
        database.set_state("state", b"%d" % number)
        database.commit(0)
    left = path.with_name("left")
    left.mkdir()
    for name in os.listdir(path.parent):
        if name.startswith("index.db"):
            shutil.copy(path.with_name(name), left / name)
    database.close()
    assert (left / "index.db-wal").stat().st_size > 100_000
    return left / "index.db"


def test_everything_is_there_under_the_new_key_alone(index):
    copy = index.parent / "copy"
    copy.mkdir()
    for name in ("index.db", "index.db-wal"):
        shutil.copy(index.with_name(name), copy / name)
    before = rows(copy / "index.db", FORMER)
    assert len(before[0]) == 300
    index.with_name("index.db" + PARTIAL).write_bytes(b"what a kill left of an attempt")
    rekey(index, FORMER, NEW)
    assert rows(index, NEW) == before
    with pytest.raises(DamagedIndex):
        Database(index, FORMER)
    assert not index.with_name("index.db" + PARTIAL).exists()


@pytest.mark.parametrize("step", range(1, 6))
def test_killed_at_any_step_one_of_the_keys_has_it_all(index, monkeypatch, step):
    class Killed(BaseException):
        pass

    left = step

    def counted(do):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return do(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr("megafs.index.rekey._sync", counted(lambda path: None))
        patched.setattr("megafs.index.rekey._remove", counted(lambda path: path.unlink(missing_ok=True)))
        with pytest.raises(Killed):
            rekey(index, FORMER, NEW)
    key = FORMER
    try:
        Database(index, FORMER).close()
    except DamagedIndex:
        key = NEW
    assert len(rows(index, key)[0]) == 300
    if key == FORMER:
        rekey(index, FORMER, NEW)
        assert len(rows(index, NEW)[0]) == 300


def test_a_wrong_key_and_a_full_disk_leave_it_as_it_was(index, monkeypatch):
    with pytest.raises(DamagedIndex):
        rekey(index, NEW, FORMER)

    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("megafs.index.rekey._sync", full)
        with pytest.raises((NoSpace, DiskError)):
            rekey(index, FORMER, NEW)
    assert len(rows(index, FORMER)[0]) == 300
