"""What requests cost in statements on the index, counted: a regression fails here on any machine, however fast."""

import errno
import os
from types import SimpleNamespace

import apsw
import pyfuse3
import pytest

from megafs.config import DIRENTS_PER_PAGE
from megafs.daemon.engine import clock_ns
from megafs.files import acl
from megafs.files.content import Content
from megafs.files.namespace import Namespace
from megafs.files.xattrs import Xattrs
from megafs.fuse import operations
from megafs.fuse.operations import Operations
from megafs.index import inodes
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.model import ROOT_INO, Ino
from tests.support.keys import raw

FOLDERS, FILES = 20, 100
CTX = SimpleNamespace(uid=0, gid=0, pid=1, umask=0o022)


class Quiet:
    """Stands for the committer: nothing ever commits here."""

    failing = None

    def note_change(self) -> None:
        pass

    def destructive(self) -> None:
        return None

    async def durable_now(self) -> None:
        return


class Mount:
    """The handlers without a kernel, and how many statements each call runs."""

    def __init__(self, folder) -> None:
        self.database = Database(folder / "index.db", raw(bytes(32)), create=True)
        self.database.connection.execute("INSERT INTO device VALUES (1, ?, ?, x'', 0)", (bytes(16), bytes(32)))
        self.database.adopt(1)
        inodes, extents = Inodes(self.database), Extents(self.database)
        inodes.insert_root(0o40755, 0, 0, 1)
        content = Content(extents, inodes, None, SimpleNamespace(), dirty_bytes=1 << 24)
        xattrs = Xattrs(inodes)
        self.names = Namespace(inodes, xattrs, content, clock_ns)
        self.operations = Operations(self.names, content, xattrs, Quiet(), timeout_s=1.0, space=lambda: (1, 1))
        self.statements: list[str] = []

    def ask(self, request):
        """The answer of a handler that must not wait; its statements are in ``statements``."""
        self.statements = []
        self.database.connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: self._note(event["sql"]))
        try:
            request.send(None)
        except StopIteration as answer:
            return answer.value
        except pyfuse3.FUSEError as error:
            return error.errno
        finally:
            self.database.connection.trace_v2(0)
        raise AssertionError("the handler waited")

    def _note(self, sql: str) -> None:
        if not sql.startswith("PRAGMA"):  # the session asks once for each table
            self.statements.append(sql)

    def create(self, name: bytes):
        return self.ask(self.operations.create(ROOT_INO, name, 0o100644, os.O_WRONLY, CTX))


@pytest.fixture
def mount(tmp_path):
    mount = Mount(tmp_path)
    yield mount
    mount.database.close()


def changed(*names: str) -> SimpleNamespace:
    every = ("size", "mode", "uid", "gid", "atime", "mtime", "ctime")
    return SimpleNamespace(**{f"update_{name}": name in names for name in every})


def test_an_untarred_file(mount):
    """Fourteen requests a file: most of the time of an untar is theirs."""
    operations, total = mount.operations, 0
    mount.create(b"before")  # asks once for the directory, and which xattrs there are
    assert mount.ask(operations.lookup(ROOT_INO, b"file", CTX)).st_ino == 0
    assert len(mount.statements) == 1
    opened, entry = mount.create(b"file")
    ino = entry.st_ino
    assert len(mount.statements) == 2, "a row and a name"
    for _ in range(4):
        mount.ask(operations.getxattr(ino, b"security.capability", CTX))
        assert not mount.statements, "asked with every write(2)"
    mount.ask(operations.write(opened.fh, 0, b"x" * 20_000))
    assert len(mount.statements) <= 1
    for fields in (changed("mtime", "ctime"), changed("uid", "gid", "ctime"), changed("mode", "ctime")):
        mount.ask(operations.setattr(ino, pyfuse3.EntryAttributes(), fields, None, CTX))
        total += len(mount.statements)
    assert not total, "attributes are written at the commit"
    mount.ask(operations.getattr(ino, CTX))
    assert not mount.statements, "just changed, so it is in mind"
    mount.ask(operations.release(opened.fh))
    assert not mount.statements


class Listing:
    """A kernel that reads directories: as many entries as it is given with each READDIR."""

    def __init__(self, mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
        self._mount = mount
        self.entries: list[tuple[bytes, int, int]] = []  # name, inode, cookie
        monkeypatch.setattr(pyfuse3, "readdir_reply", self._take)

    def _take(self, token: None, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        self.entries.append((name, entry.st_ino, cookie))
        return True

    def more(self, ino: int) -> int:
        """One READDIR; how many entries it brought."""
        before = len(self.entries)
        self._mount.ask(self._mount.operations.readdir(ino, self.entries[-1][2] if self.entries else 0, None))
        return len(self.entries) - before

    def all(self, ino: int) -> int:
        """READDIR until nothing comes; statements of all."""
        self.entries, statements, more = [], 0, True
        while more:
            more = self.more(ino) > 0
            statements += len(self._mount.statements)
        return statements


def test_a_listing_costs_one_statement_a_page(mount, monkeypatch):
    listing = Listing(mount, monkeypatch)
    for number in range(2 * DIRENTS_PER_PAGE + 1):
        mount.names.create(ROOT_INO, b"%d" % number, 0o100644, 0, 0)
    assert listing.more(ROOT_INO) == 2 * DIRENTS_PER_PAGE + 3
    assert len(pages(mount)) == 3, "the last is short, so nothing is asked for behind it"
    assert len(mount.statements) == 3 + 1, "and what is above the directory"
    assert not listing.more(ROOT_INO)
    assert mount.statements == pages(mount)[:1], "the kernel asks once more"


def pages(mount: Mount) -> list[str]:
    return [sql for sql in mount.statements if "dirent_page" in sql]


@pytest.mark.parametrize("already", [0, 1, DIRENTS_PER_PAGE - 1, DIRENTS_PER_PAGE, DIRENTS_PER_PAGE + 1])
def test_what_comes_into_a_directory_that_is_listed(mount, monkeypatch, already):
    """A page that was the last when it was read: what is made behind it comes with the next READDIR, and once."""
    listing = Listing(mount, monkeypatch)
    for number in range(already):
        mount.names.create(ROOT_INO, b"%d" % number, 0o100644, 0, 0)
    assert listing.more(ROOT_INO) == already + 2
    for number in range(already, already + 3):
        mount.names.create(ROOT_INO, b"%d" % number, 0o100644, 0, 0)
        assert listing.more(ROOT_INO) == 1
    assert not listing.more(ROOT_INO)
    names = [name for name, *_ in listing.entries]
    assert names == [b".", b"..", *(b"%d" % number for number in range(already + 3))]


def tree_statements(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> int:
    """``ls -lR`` of a tree that nobody has read: every directory, and two ACLs of each of its files."""
    for folder in range(FOLDERS):
        above = mount.names.create(ROOT_INO, b"%d" % folder, 0o40755, 0, 0).ino
        for number in range(FILES):
            mount.names.create(above, b"%d" % number, 0o100644, 0, 0)
    mount.database.rows.settle()
    mount.ask(mount.operations.getxattr(ROOT_INO, acl.ACCESS, CTX))  # asks once which xattrs there are
    listing = Listing(mount, monkeypatch)
    statements = listing.all(ROOT_INO)
    for _, folder, _ in listing.entries[2:]:
        statements += listing.all(folder)
        assert len(listing.entries) == FILES + 2
        for _, ino, _ in listing.entries[2:]:
            for name in (acl.ACCESS, acl.DEFAULT):
                assert mount.ask(mount.operations.getxattr(ino, name, CTX)) == errno.ENODATA
                statements += len(mount.statements)
            mount.ask(mount.operations.getattr(ino, CTX))
            statements += len(mount.statements)
    return statements


def test_a_tree_costs_one_statement_a_page(mount, monkeypatch):
    """The root; of each directory a page, nothing behind it, and what is above it; nothing for any file."""
    assert tree_statements(mount, monkeypatch) == 1 + 3 * (FOLDERS + 1)


def test_a_tree_that_is_read_row_by_row_is_seen(mount, monkeypatch):
    """The control of the test above."""
    for module in (inodes, operations):
        monkeypatch.setattr(module, "DIRENTS_PER_PAGE", 1)
    assert tree_statements(mount, monkeypatch) > FOLDERS * FILES


def test_a_tree_with_attributes_costs_no_more(mount):
    """ls -l asks for two ACLs a file. The control: once any file has one, each of them has to be looked for."""
    ino = mount.create(b"file")[1].st_ino
    for name in (acl.ACCESS, acl.DEFAULT, b"security.capability"):
        assert mount.ask(mount.operations.getxattr(ino, name, CTX)) == errno.ENODATA
        assert not mount.statements
    other = mount.create(b"other")[1].st_ino
    entries = ((acl.USER_OBJ, 6, acl.NO_ID), (acl.USER, 4, 7), (acl.GROUP_OBJ, 4, acl.NO_ID), (acl.MASK, 4, acl.NO_ID))
    value = acl.encode([acl.Entry(*each) for each in (*entries, (acl.OTHER, 4, acl.NO_ID))])
    assert mount.ask(mount.operations.setxattr(other, acl.ACCESS, value, CTX)) is None
    assert mount.ask(mount.operations.getxattr(ino, acl.ACCESS, CTX)) == errno.ENODATA
    assert len(mount.statements) == 1
    assert mount.ask(mount.operations.getxattr(other, acl.ACCESS, CTX)) == value


def test_open_for_reading_costs_nothing(mount):
    _, entry = mount.create(b"file")
    mount.ask(mount.operations.open(Ino(entry.st_ino), os.O_RDONLY, CTX))
    assert not mount.statements


def prepared(mount: Mount) -> int:
    """How often SQLite asks what a statement may do, which it does while it prepares one."""
    extents, asked = Extents(mount.database), 0

    def note(*_: object) -> int:
        nonlocal asked
        asked += 1
        return apsw.SQLITE_OK

    def once(ino: Ino) -> None:
        extents.covering(ino, 0, 4096)
        extents.clear(ino, 0, 4096)
        extents.truncate(ino, 0)

    mount.database.connection.authorizer = note
    once(Ino(2))  # prepares everything, at the latest because there is an authorizer now
    assert asked
    asked = 0
    for ino in range(3, 50):
        once(Ino(ino))
    mount.database.connection.authorizer = None
    return asked


def test_no_statement_is_prepared_anew_for_its_parameters(mount):
    """SQLite would, for ranges and limits (it is built with STAT4), at 5 to 10 µs for each execution."""
    assert not prepared(mount)


def test_without_the_setting_they_would_be(mount):
    """The control of the test above."""
    mount.database.connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 0)
    assert prepared(mount)
