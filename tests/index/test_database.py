"""The connection: commits with their log, ids, encryption, the WAL, and disks that refuse."""

import errno
import os
import subprocess
import threading
from pathlib import Path

import apsw
import pytest

import megafs
from megafs.config import WAL_CHECKPOINT_BYTES
from megafs.errors import Corrupt, DiskError, NoSpace
from megafs.index.database import PAGE_BYTES, Database
from megafs.index.inodes import Inodes
from megafs.model import COUNTER_BITS, ROOT_INO, Ino

KEY = bytes(range(32))
FILE = 0o100644
CANARY = os.urandom(24)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.db"


def created(path) -> Database:
    database = Database(path, KEY, create=True)
    database.connection.execute("INSERT INTO device VALUES (1, x'01', x'', x'', 0)")
    database.adopt(1)
    Inodes(database).insert_root(0o40755, 0, 0, 0)
    database.commit(0)
    return database


@pytest.fixture
def database(path):
    opened = created(path)
    yield opened
    opened.close()


def reopened(path) -> Database:
    database = Database(path, KEY)
    database.adopt(1)
    return database


def make(database: Database, name: bytes) -> Ino:
    inodes = Inodes(database)
    ino = inodes.insert(FILE, 0, 0, 0, 0, Ino(0), None).ino
    inodes.link(ROOT_INO, name, ino)
    return ino


def test_a_commit_survives_and_what_came_after_does_not(path):
    database = created(path)
    kept = make(database, b"kept")
    database.commit(0)
    lost = make(database, b"lost")
    database.close()
    database = reopened(path)
    assert Inodes(database).get(kept) is not None
    assert Inodes(database).get(lost) is None
    database.close()


def test_every_commit_carries_its_own_log(database, tmp_path):
    """Its changesets, applied to an empty index, make the same rows."""
    make(database, b"one")
    first = database.commit(7)
    make(database, b"two")
    Inodes(database).unlink(ROOT_INO, b"one")
    second = database.commit(9)
    assert second == first + 1
    rows = database.connection.execute("SELECT changeset, pack, seq FROM outbox ORDER BY n").fetchall()
    assert [row[1:] for row in rows] == [(0, 0), (7, 0), (9, 0)]
    other = Database(tmp_path / "other.db", KEY, create=True)
    with other.unlogged() as connection:
        for changeset, _, _ in rows:
            apsw.Changeset.apply(changeset, connection)
    for table in ("inode", "dirent", "device"):
        query = f"SELECT * FROM {table} ORDER BY 1"
        assert other.connection.execute(query).fetchall() == database.connection.execute(query).fetchall()
    other.commit(0)
    assert other.connection.execute("SELECT count(*) FROM outbox").get == 0, "what was applied is nobody's own"
    other.close()


def test_a_commit_without_changes_logs_nothing(database):
    newest = database.commit(0)
    assert database.commit(0) == newest
    database.set_state("key", b"local")
    assert database.commit(0) == newest, "this device's own rows do not travel"
    assert database.state("key") == b"local"


def test_a_rollback_forgets_rows_and_log(database):
    newest = database.commit(0)
    ino = make(database, b"gone")
    database.rollback()
    assert Inodes(database).get(ino) is None
    assert database.commit(0) == newest


def test_ids_are_never_given_out_twice(path):
    seen = set()
    for life in range(4):
        database = created(path) if not life else reopened(path)
        for _ in range(10):
            ident = database.new_id()
            assert ident >> COUNTER_BITS == 1
            assert ident not in seen
            seen.add(ident)
            Inodes(database).insert(FILE, 0, 0, 0, 0, Ino(0), None)
        database.commit(0)
        database.close()
        seen |= {row[0] for row in rows_of(path)}


def rows_of(path):
    database = reopened(path)
    rows = database.connection.execute("SELECT id FROM inode").fetchall()
    database.close()
    return rows


def test_the_files_hold_nothing_readable(path):
    database = created(path)
    make(database, CANARY)
    database.commit(0)
    database.sync_wal()
    for file in path.parent.iterdir():
        content = file.read_bytes()
        assert CANARY not in content
        assert b"SQLite format" not in content
        assert b"CREATE TABLE" not in content
    database.close()
    assert CANARY not in path.read_bytes()


def test_a_canary_in_a_plain_index_is_found(tmp_path):
    """Negative control of the one above."""
    plain = apsw.Connection(str(tmp_path / "plain.db"))
    plain.execute("CREATE TABLE t (x)")
    plain.execute("INSERT INTO t VALUES (?)", (CANARY,))
    plain.close()
    assert CANARY in (tmp_path / "plain.db").read_bytes()


def test_a_wrong_key_and_a_damaged_file_are_told(path):
    created(path).close()
    with pytest.raises(Corrupt):
        Database(path, bytes(32))
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = os.urandom(len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(Corrupt):
        Database(path, KEY)
    with pytest.raises(Corrupt):
        Database(path.with_name("absent.db"), KEY)


def test_another_schema_is_refused(path):
    database = created(path)
    database.connection.pragma("user_version", 99)
    database.commit(0)
    database.close()
    with pytest.raises(Corrupt, match="schema 99"):
        Database(path, KEY)


def test_a_snapshot_sees_the_last_commit_only(database):
    make(database, b"one")
    database.commit(0)
    found = []

    def look():
        with database.snapshot() as connection:
            found.append(connection.execute("SELECT count(*) FROM dirent").get)
            make_done.wait(5)
            found.append(connection.execute("SELECT count(*) FROM dirent").get)

    make_done = threading.Event()
    thread = threading.Thread(target=look)
    thread.start()
    make(database, b"two")
    database.commit(0)
    make_done.set()
    thread.join()
    assert found[0] == found[1]


def test_who_commits_does_not_wait_for_a_snapshot(database):
    """A checkpoint object of a large vault takes a minute to cut; a second look gets a connection of its own."""
    make(database, b"one")
    database.commit(0)
    with database.snapshot() as first:
        assert not database.checkpoint_wal(), "in use"
        with database.snapshot() as second:
            assert second is not first
            assert second.execute("SELECT count(*) FROM dirent").get == 1
    assert database.checkpoint_wal()
    with database.snapshot() as again:
        assert again is first, "kept"


def test_the_wal_stays_bounded_in_a_storm(database):
    """As the committer does it: the bulk in a thread, the remainder directly after a COMMIT."""
    peak, copied, inodes = 0, 0, Inodes(database)
    for number in range(90):
        for row in range(250):
            ino = make(database, b"%d-%d" % (number, row))
            inodes.set_xattr(ino, b"user.x", os.urandom(4000))
        database.commit(0)
        peak = max(peak, database.wal_bytes())
        if database.wal_is_long():
            copied += 1
            thread = threading.Thread(target=database.checkpoint_wal)
            thread.start()
            thread.join()
            database.note_bulk_copied()
    assert WAL_CHECKPOINT_BYTES < peak < 2 * WAL_CHECKPOINT_BYTES
    assert 0 < copied < 10, "the file stays long when the WAL begins anew: that is no reason to copy with every commit"
    assert database.connection.execute("SELECT count(*) FROM dirent").get == 90 * 250


def storm(database: Database, commits: int) -> list[int]:
    """The length of the WAL after each of so many commits of 1 MB, as the committer treats it."""
    lengths, inodes = [], Inodes(database)
    for _ in range(commits):
        for _ in range(20):
            inodes.set_xattr(make(database, os.urandom(8).hex().encode()), b"user.x", os.urandom(50_000))
        database.commit(0)
        lengths.append(database.wal_bytes())
        if database.wal_is_long() and database.checkpoint_wal():
            database.note_bulk_copied()
    return lengths


def test_a_long_snapshot_holds_nobody_up_and_the_wal_is_used_again_after_it(database):
    """A commit must not wait for who reads a snapshot; the WAL grows as long as that is read, and no longer."""
    database.commit(0)
    begun, end = threading.Event(), threading.Event()

    def read():
        with database.snapshot() as connection:
            connection.execute("SELECT count(*) FROM inode").get  # noqa: B018 - the snapshot begins with a read
            begun.set()
            assert end.wait(60)

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(60)
    before = storm(database, 60)
    assert not database.checkpoint_wal(), "it would wait for the reader"
    assert before == sorted(before)
    assert before[-1] > WAL_CHECKPOINT_BYTES
    end.set()
    reader.join()
    after = storm(database, 60)
    assert max(after) < before[-1] + WAL_CHECKPOINT_BYTES // 4
    assert not database.wal_is_long(), "or every commit from now on would copy it"


def test_a_statement_left_unfinished_keeps_the_wal_long_and_nothing_else(database):
    """SQLite refuses a checkpoint then; it comes with the next commit."""
    database.commit(0)
    database.checkpoint_wal()
    database.note_bulk_copied()
    unfinished = database.connection.cursor()
    assert next(unfinished.execute("SELECT name FROM sqlite_schema")) is not None
    make(database, b"one")
    database.commit(0)
    before = database.wal_bytes()
    unfinished.close()
    make(database, b"two")
    database.commit(0)  # copies the remainder, so the next one begins the WAL anew
    make(database, b"three")
    database.commit(0)
    assert database.wal_bytes() <= before + 20 * PAGE_BYTES
    assert not database._bulk_copied


def test_no_statement_is_left_unfinished():
    """A cursor that is kept holds its statement, and with it the WAL, until it is used again."""
    sources = [path.read_text() for path in Path(megafs.__file__).parent.rglob("*.py")]
    assert len(sources) > 100
    assert not any(".fetchone()" in source for source in sources), ".get reads to the end"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, small enough to be filled."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], check=False).returncode:
        pytest.fail("cannot mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.needs_root
def test_a_full_disk_leaves_the_transaction_open(small_disk):
    database = created(small_disk / "index.db")
    ino = make(database, b"accepted")
    ballast = small_disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:  # a buffer would complain once more when it is closed
        try:
            while True:
                file.write(bytes(65_536))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - filling the disk is the point
    for _ in range(3):
        with pytest.raises(NoSpace):
            database.commit(0)
        assert Inodes(database).get(ino) is not None, "what was accepted is still there"
    ballast.unlink()
    database.commit(0)
    database.sync_wal()
    database.close()
    database = reopened(small_disk / "index.db")
    assert Inodes(database).lookup(ROOT_INO, b"accepted") == ino
    assert database.connection.execute("SELECT count(*) FROM outbox").get == 2
    database.close()


class FailingOnce(Database):
    """Its next syncs of the WAL fail."""

    failures = 0

    def _open_wal(self):
        super()._open_wal()
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "input/output error")


def test_after_a_failed_sync_the_wal_is_written_again(path):
    """Linux calls pages clean that it failed to write: a second sync alone would lie."""
    created(path).close()
    database = FailingOnce(path, KEY)
    database.adopt(1)
    make(database, b"doubtful")
    database.commit(0)
    database.failures = 1
    with pytest.raises(DiskError):
        database.sync_wal()
    assert database._wal_doubtful
    before = path.with_name("index.db-wal").read_bytes()
    database.commit(0)
    assert not database._wal_doubtful
    assert path.with_name("index.db-wal").read_bytes()[: len(before)] == before
    database.sync_wal()
    database.close()


def test_an_index_of_an_older_program_gets_the_tables_of_this_device_that_it_lacks(path):
    database = created(path)
    make(database, b"kept")
    database.commit(0)
    database.connection.execute("DROP TABLE expired")
    database.connection.execute("COMMIT")
    database.close()
    again = reopened(path)
    assert again.connection.execute("SELECT count(*) FROM expired").get == 0
    assert again.connection.execute("SELECT count(*) FROM dirent").get == 1
    again.close()


def plan(database: Database, statement: str) -> str:
    return " ".join(row[3] for row in database.connection.execute("EXPLAIN QUERY PLAN " + statement))


def test_an_index_of_an_older_program_gets_what_it_lacks(path):
    """Its tables of this device and its indices; what a mount asks of a million inodes is then answered by those."""
    older = created(path)
    ino = make(older, b"name")
    older.connection.execute("DROP INDEX inode_unlinked; DROP INDEX outbox_seq; DROP TABLE pin")
    older.commit(0)
    assert "SCAN inode" in plan(older, "SELECT id FROM inode WHERE nlink = 0"), "the control: every page of them"
    older.close()
    database = reopened(path)
    assert plan(database, "SELECT id FROM inode WHERE nlink = 0").endswith("inode_unlinked")
    assert plan(database, "SELECT count(DISTINCT seq) FROM outbox WHERE n > 1").endswith("outbox_seq")
    assert list(database.connection.execute("SELECT * FROM pin")) == []
    inodes = Inodes(database)
    assert inodes.unlinked() == []
    inodes.set_links(ino, 0, 1)
    assert inodes.unlinked() == [ino]
    database.close()


def test_a_damaged_index_of_an_older_program_opens_without_what_cannot_be_added(path):
    """The page that a new index would read is bad: what reads others goes on, and what mends the vault can begin."""
    older = created(path)
    make(older, b"name")
    older.connection.execute("DROP INDEX outbox_seq; DROP INDEX inode_unlinked")
    older.connection.execute("INSERT INTO outbox (changeset, pack, made_s, seq) VALUES (zeroblob(400000), 0, 0, 7)")
    older.commit(0)
    older.close()
    with open(path, "r+b") as file:  # nearly all of it are pages behind that row's first
        file.seek(os.stat(path).st_size // 2 // PAGE_BYTES * PAGE_BYTES + 1000)
        file.write(b"rot" * 10)
    database = reopened(path)
    there = {name for (name,) in database.connection.execute("SELECT name FROM sqlite_schema")}
    assert "inode_unlinked" in there
    assert "outbox_seq" not in there
    assert Inodes(database).lookup(ROOT_INO, b"name") is not None
    make(database, b"more")
    database.commit(0)
    database.close()
    again = reopened(path)
    assert Inodes(again).lookup(ROOT_INO, b"more") is not None
    again.close()
