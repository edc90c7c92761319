"""The one connection to the index: opens it, commits with its own log, syncs and checkpoints the WAL.

A transaction is always open; everything between two commits is atomic. ``commit`` takes the changeset of the
replicated tables, puts it into ``outbox`` inside the same transaction and begins the next one. It does not make
anything durable: that is ``sync_wal``, which blocks and belongs in a thread. All methods but those named
"thread" run on the trio thread and never wait for a disk write other than into the page cache.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from megafs.config import WAL_CHECKPOINT_BYTES
from megafs.errors import Corrupt, DamagedIndex, DiskError, MegaFSError, NoSpace
from megafs.index.hints import set_aside
from megafs.index.rows import Rows
from megafs.index.schema import REPLICATED, VERSION, missing_indices, missing_tables, statements
from megafs.model import COUNTER_BITS
from megafs.wiping import own, wipe

log = logging.getLogger(__name__)

PAGE_BYTES = 4096
PAGE_CACHE_KIB, SIDE_CACHE_KIB = 65_536, 8_192
OPENED = (
    "PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-{}; PRAGMA busy_timeout=10000; "
    # Cut when it begins anew: a WAL that stayed as long as it once was would be copied after every commit.
    f"PRAGMA journal_size_limit={WAL_CHECKPOINT_BYTES // 4}"
)
PAGES_PER_ROW = 4  # a leaf of the table and of each index; chunk ids are random, so each may be a page of its own
RESERVE_BYTES = 256 * 1024
PASSES, REST_PAGES = 3, 200  # over the WAL in a thread, until the rest costs those who wait a few milliseconds
# What a statement raises when the disk does not give or take a page. EIO on a read comes as CorruptError.
SICK = (apsw.IOError, apsw.CorruptError, apsw.FullError, apsw.CantOpenError, apsw.NotADBError)


def told(error: OSError) -> MegaFSError:
    """The same as an error of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the disk of the state directory is full")
    return DiskError(f"the index cannot be written: {error.strerror}")


def connect(
    path: Path, key: bytes, cache_kib: int, *, create: bool = False, vfs: str | None = None, uri: bool = False
) -> apsw.Connection:
    """An encrypted connection. A wrong key and a damaged file look the same: Corrupt. ``uri``: statements may name
    files with parameters."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    flags |= apsw.SQLITE_OPEN_URI if uri else 0
    try:
        connection = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=200)
        connection.pragma("cipher", "aegis")
        connection.pragma("hexkey", key.hex())
        connection.pragma("journal_mode", "wal")
        connection.pragma("wal_autocheckpoint", 0)
        # One plan a statement. Otherwise SQLite (built with STAT4) prepares every statement with a parameter in a range
        # or LIMIT anew for each execution: 13 µs instead of 2 for the extents of a read.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        connection.execute(OPENED.format(cache_kib)).fetchall()  # read to the end: one that answers stops the rest
        connection.execute("SELECT count(*) FROM sqlite_schema").get  # noqa: B018 - reads, so that a wrong key shows here
    except SICK as error:
        raise DamagedIndex(f"the index cannot be opened: {error}") from error
    return connection


class Database:
    """Owner of the connection, the session, the id counter and the WAL."""

    def __init__(self, path: Path, key: bytes, *, create: bool = False, vfs: str | None = None) -> None:
        """Open ``path`` (or make it). ``vfs`` names another way to the disk, for tests. Raises Corrupt."""
        self.path, self._key, self._vfs = path, own(key), vfs
        self.connection = connect(path, key, PAGE_CACHE_KIB, create=create, vfs=vfs)
        self.connection.set_wal_hook(self._note_wal)
        if create:
            with self.connection:
                for statement in statements():
                    self.connection.execute(statement)
                self.connection.pragma("user_version", VERSION)
        version = self.connection.pragma("user_version")
        if version != VERSION:
            raise Corrupt(f"the index has schema {version}, this program reads {VERSION}")
        self._add_missing()
        self.rows = Rows(self.connection)
        self.device = 0  # number of this device; 0 until adopt()
        self._counter = self._counter_written = 0
        self._changes_at_commit = 0
        self._side: apsw.Connection | None = None
        self._side_lock = threading.Lock()
        self.commits = 0
        self._wal_fd = -1
        self._wal_named = False  # its directory entry is durable
        self._wal_doubtful = False  # a sync failed: Linux then calls the lost pages clean, so a second sync would lie
        self.given_up = ""  # why nothing is committed any more
        self._changes_known = True  # no error ended the transaction in an unknown state
        self._forgotten: bytes | None = None  # what the COMMIT that ended it would have made durable
        self._session: apsw.Session
        self._begin()

    def _add_missing(self) -> None:
        """What a newer program brought, and an older one goes by. Without indices it works, too: on a sick disk."""
        there = {name for (name,) in self.connection.execute("SELECT name FROM sqlite_schema")}
        with self.connection:
            for statement in missing_tables(there):
                self.connection.execute(statement)
        for statement in missing_indices(there):
            with suppress(*SICK):
                self.connection.execute(statement)

    def adopt(self, device: int, given_out: int = 0) -> None:
        """Hand out ids of this device from now on, none up to ``given_out``."""
        self.device = device
        row = self.connection.execute("SELECT counter FROM device WHERE number = ?", (device,)).get
        self._counter_written = int(row or 0)
        self._counter = max(self._counter_written, given_out)

    @property
    def given_out(self) -> int:
        """The counter of the newest id."""
        return self._counter

    @property
    def committed_counter(self) -> int:
        """The id counter as the last commit wrote it."""
        return self._counter_written

    def new_id(self) -> int:
        """The next ``device << 40 | counter``; never handed out again, also after a crash (its rows are gone too)."""
        assert self.device, "ids are handed out only after adopt()"
        self._counter += 1
        return self.device << COUNTER_BITS | self._counter

    def _begin(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self._session = apsw.Session(self.connection, "main")
        for table in REPLICATED:
            self._session.attach(table)
        self._changes_at_commit = self.connection.total_changes()

    @property
    def changed_rows(self) -> int:
        """Rows changed since the last commit."""
        return self.connection.total_changes() - self._changes_at_commit + len(self.rows.late)

    def commit(self, newest_pack: int) -> int:
        """End the transaction with its log and begin the next. ``newest_pack`` is the greatest pack number that a
        row may name. Returns the newest outbox number (0: nothing replicated was ever logged). Raises NoSpace or
        DiskError, the transaction goes on then. An error of SQLite that ended it passes: the rows are gone, so the
        daemon must go too, and is started again with the last commit."""
        connection = self.connection
        if self.given_up:
            raise DiskError(self.given_up)
        assert connection.in_transaction, "an error ended the transaction; the rows of this one are incomplete"
        self.rows.write()
        if self._counter != self._counter_written:
            connection.execute("UPDATE device SET counter = ? WHERE number = ?", (self._counter, self.device))
        changeset = self._session.changeset()
        try:
            self._mend_wal()
            self._reserve(len(changeset))
        except OSError as error:
            raise told(error) from error
        logged = 0
        try:
            if changeset:
                connection.execute(
                    "INSERT INTO outbox (changeset, pack, made_s, seq) VALUES (?, ?, ?, 0)",
                    (changeset, newest_pack, time.time()),
                )
                logged = connection.last_insert_rowid()
            newest = connection.execute("SELECT max(n) FROM outbox").get
            connection.execute("COMMIT")
        except (apsw.FullError, apsw.IOError) as error:
            if connection.in_transaction:  # the session goes on; the row is made anew by the next attempt
                connection.execute("DELETE FROM outbox WHERE n = ?", (logged,))
                raise NoSpace("the disk of the state directory is full") from error
            self._forgotten = changeset
            raise
        self._session.close()
        self._counter_written = self._counter
        self.commits += 1
        self.restart_wal_if_possible()
        self._begin()
        return int(newest or 0)

    def _reserve(self, changeset_bytes: int) -> None:
        """Have the disk set aside what COMMIT is going to append to the WAL, because a COMMIT that meets a full disk
        rolls back. Raises OSError."""
        cached, _ = self.connection.status(apsw.SQLITE_DBSTATUS_CACHE_USED)
        pages = min(cached, self.changed_rows * PAGES_PER_ROW * PAGE_BYTES)
        wanted = pages + 2 * changeset_bytes + RESERVE_BYTES
        self._open_wal()
        set_aside(self._wal_fd, wanted)

    def _mend_wal(self) -> None:
        """After a failed sync: write the WAL over itself, so that the next sync has something to do. Here, between two
        commits on the one thread that writes the WAL, nothing can change under it. Raises OSError."""
        if self._wal_doubtful:
            self._open_wal()
            at = 0
            while part := os.pread(self._wal_fd, 1 << 20, at):
                at += os.pwrite(self._wal_fd, part, at)
            self._wal_doubtful = False

    def give_up(self, error: Exception) -> None:
        """A change may have been broken off in its middle: from now on nothing is committed, so that whoever opens the
        index anew (daemon.anew, or the next mount) finds the last commit, which is whole. What was not synced since is
        lost, as in a crash; reading goes on."""
        if not self.given_up:
            self.given_up = f"the index could not be read ({error}): nothing is accepted until it can"
            log.error("%s", self.given_up)
        if not self.connection.in_transaction:
            self._changes_known = self._forgotten is not None
            self.connection.execute("BEGIN")  # or what the loops still change would be committed one by one

    def forgotten_changes(self) -> bytes | None:
        """After ``give_up``: the changeset of the transaction that will never be committed; None when an error ended it
        before, so that nobody knows what was in it."""
        if not self._changes_known:
            return None
        return self._session.changeset() if self._forgotten is None else self._forgotten

    def stop_writing(self) -> None:
        """After ``give_up``: end the transaction and show the last commit to who still reads here."""
        self.rows.drop()
        self._session.close()
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self.connection.execute("PRAGMA query_only=ON; PRAGMA shrink_memory")

    def is_well(self) -> bool:
        """Thread. Whether every page of the index can be read, and what it says fits together; through a connection of
        its own. Costs as long as reading all of it takes."""
        try:
            probe = connect(self.path, self._key, SIDE_CACHE_KIB, vfs=self._vfs)
            try:
                return bool(probe.execute("PRAGMA quick_check(1)").get == "ok")
            finally:
                probe.close()
        except (DamagedIndex, *SICK):
            return False

    def rollback(self) -> None:
        """Forget the open transaction."""
        self.rows.drop()
        self._session.close()
        self.connection.execute("ROLLBACK")
        self._counter = self._counter_written
        self._begin()

    @contextmanager
    def unlogged(self) -> Iterator[apsw.Connection]:
        """For applying what came from hosts: the changes inside are not logged as this device's own."""
        self.rows.settle()
        self._session.enabled = False
        try:
            yield self.connection
        finally:
            self.rows.settle()
            self._session.enabled = True

    def sync_wal(self) -> None:
        """Thread. Make every COMMIT that has returned durable. Raises NoSpace or DiskError. The WAL may be opened
        beside SQLite, the database and the -shm file may not: closing such a descriptor drops SQLite's POSIX locks."""
        try:
            self._open_wal()
            if not self._wal_named:
                directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
                self._wal_named = True
            os.fdatasync(self._wal_fd)
        except OSError as error:
            self._wal_doubtful = True
            raise told(error) from error

    def _open_wal(self) -> None:
        if self._wal_fd < 0:
            self._wal_fd = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CLOEXEC)

    def wal_bytes(self) -> int:
        """Size of the WAL file."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return 0

    def checkpoint_wal(self) -> bool:
        """Thread. Copy the bulk of the WAL into the database (PASSIVE, on the side connection). Whether hardly anything
        is left: not while a snapshot is read, which may take minutes; nobody waits for that, and the WAL grows."""
        if not self._side_lock.acquire(blocking=False):
            return False
        try:
            left = (self._checkpoint(self._kept()) for _ in range(PASSES))
            return any(pages is not None and pages <= REST_PAGES for pages in left)
        finally:
            self._side_lock.release()

    def _checkpoint(self, connection: apsw.Connection) -> int | None:
        """How many pages are left; None: not done. One that the disk refuses, or that meets a statement whose rows were
        not all read, costs nothing but the length of the WAL: it comes with the next commit."""
        try:
            pages, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.LockedError, apsw.BusyError):
            return None
        except (apsw.FullError, apsw.IOError) as error:
            log.warning("the WAL could not be copied into the index: %s", error)
            return 0
        return pages - copied

    def restart_wal_if_possible(self) -> None:
        """Directly after a COMMIT: copy the remainder, so that the next statement starts the WAL from its beginning.
        Only worth it when the bulk was copied just before, else it would block for the whole WAL."""
        if self._bulk_copied:
            self._bulk_copied = self._checkpoint(self.connection) is None

    _bulk_copied, _wal_pages = False, 0  # the latter as of the last commit; the file may be longer

    def _note_wal(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def wal_is_long(self) -> bool:
        """Whether checkpoint_wal is due."""
        return self._wal_pages * PAGE_BYTES > WAL_CHECKPOINT_BYTES

    def note_bulk_copied(self) -> None:
        """checkpoint_wal has done it: the next commit restarts the WAL."""
        self._bulk_copied = True

    @contextmanager
    def side(self) -> Iterator[apsw.Connection]:
        """Thread. The second connection, outside any transaction (opening costs 40 ms, so it is kept); while somebody
        has it, another one."""
        if self._side_lock.acquire(blocking=False):
            try:
                yield self._kept()
            finally:
                self._side_lock.release()
            return
        another = connect(self.path, self._key, SIDE_CACHE_KIB, vfs=self._vfs)
        try:
            yield another
        finally:
            another.close()

    def _kept(self) -> apsw.Connection:
        self._side = self._side or connect(self.path, self._key, SIDE_CACHE_KIB, vfs=self._vfs)
        return self._side

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """Thread. A consistent read-only view of the last commit; keep it short, it holds the WAL back. Raises
        DiskError: nothing is half done then, so it may be tried again."""
        try:
            with self.side() as connection:
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    if connection.in_transaction:  # some errors end it
                        connection.execute("ROLLBACK")
        except (DamagedIndex, *SICK) as error:
            raise DiskError(f"the index cannot be read: {error}") from error

    def state(self, key: str) -> bytes | None:
        """A value of this device."""
        value = self.connection.execute("SELECT value FROM state WHERE key = ?", (key,)).get
        assert value is None or isinstance(value, bytes)
        return value

    def set_state(self, key: str, value: bytes) -> None:
        """Keep a value of this device; durable with the next commit."""
        self.connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, value))

    def leave_wal(self) -> None:
        """Nothing will be changed: closing must not copy into the file what the WAL holds, either."""
        if self.wal_bytes():
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def close(self) -> None:
        """Commit nothing; end. The open transaction must be empty or is dropped."""
        self._session.close()
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        if self._side is not None:
            self._side.close()
        if self._wal_fd >= 0:
            os.close(self._wal_fd)
        self.connection.close()
        wipe(self._key)
