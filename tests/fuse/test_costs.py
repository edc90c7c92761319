"""What requests cost in statements on the index, counted: a regression fails here on any machine, however fast."""

import errno
import os
from types import SimpleNamespace

import pyfuse3
import pytest

from megafs.config import DIRENTS_PER_PAGE
from megafs.files import acl
from megafs.files.namespace import Change
from megafs.fuse import operations
from megafs.fuse.replies import Replies
from megafs.index import inodes
from megafs.index.extents import Extents
from megafs.model import ROOT_INO, ChunkId, ChunkPlace, Ino, PackNumber
from tests.fuse.rig import CTX, Mount, changed

FOLDERS, FILES = 20, 100


def test_an_untarred_file(mount):
    """Ten requests a file: most of the time of an untar is theirs. (fuse.handshake: why they are no longer more.)"""
    operations, total = mount.operations, 0
    mount.create(b"before")  # asks once for the directory, and which xattrs there are
    assert mount.ask(operations.lookup(ROOT_INO, b"file", CTX)).st_ino == 0
    assert len(mount.statements) == 1
    opened, entry = mount.create(b"file")
    ino = entry.st_ino
    assert len(mount.statements) == 2, "a row and a name"
    mount.ask(operations.getxattr(ino, b"security.capability", CTX))
    assert not mount.statements, "asked once, or with every write(2) where the kernel keeps set-id bits to itself"
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


class Tree:
    """What a mount finds: a few names, and files with one extent each."""

    def __init__(self, mount: Mount) -> None:
        names, self.operations, extents = mount.names, mount.operations, Extents(mount.database)
        self.folder = names.create(ROOT_INO, b"folder", 0o40755, 0, 0).ino
        self.files = [names.create(ROOT_INO, name, 0o100644, 0, 0).ino for name in (b"file", b"other", b"gone")]
        self.file, self.other, self.gone = self.files
        self.symlink = names.create(ROOT_INO, b"symlink", 0o120777, 0, 0, target=b"file").ino
        for ino in self.files:
            place = ChunkPlace(ChunkId(os.urandom(16)), PackNumber(1), 0, 8192, 8192, 0, bytes(32))
            extents.add_chunk(place)
            extents.write(ino, [(0, 8192, place.chunk, 0)], fresh=True)
            names.change(ino, Change(size=8192))
        names.unlink(ROOT_INO, b"gone")  # it was open; now the kernel forgets it
        names.set_xattr(self.file, b"user.here", b"", keep_set_gid=True)
        mount.ask(self.operations.listxattr(self.file, CTX))

    def sized(self, size: int):
        attributes = pyfuse3.EntryAttributes()
        attributes.st_size = size
        return self.operations.setattr(self.file, attributes, changed("size"), None, CTX)

    def known(self, mount: Mount) -> None:
        """As the kernel does before it asks for more: every name is looked up."""
        for name in (b"folder", b"file", b"other", b"symlink", b"new"):
            mount.ask(self.operations.lookup(ROOT_INO, name, CTX))


COSTS = {  # what is asked of which table: once its names were looked up
    "mkdir": (lambda t: t.operations.mkdir(ROOT_INO, b"new", 0o40755, CTX), "INSERT inode, INSERT dirent"),
    "mknod": (lambda t: t.operations.mknod(ROOT_INO, b"new", 0o10644, 0, CTX), "INSERT inode, INSERT dirent"),
    "symlink": (lambda t: t.operations.symlink(ROOT_INO, b"new", b"file", CTX), "INSERT inode, INSERT dirent"),
    "create": (lambda t: t.operations.create(ROOT_INO, b"new", 0o100644, 0, CTX), "INSERT inode, INSERT dirent"),
    "link": (lambda t: t.operations.link(t.file, ROOT_INO, b"new", CTX), "INSERT dirent"),
    "rename": (
        lambda t: t.operations.rename(ROOT_INO, b"file", ROOT_INO, b"new", 0, CTX),
        "DELETE dirent, INSERT dirent",
    ),
    "rename over": (
        lambda t: t.operations.rename(ROOT_INO, b"file", ROOT_INO, b"other", 0, CTX),
        "UPDATE dirent, DELETE dirent",
    ),
    "exchange": (
        lambda t: t.operations.rename(ROOT_INO, b"file", ROOT_INO, b"other", 2, CTX),
        "UPDATE dirent, UPDATE dirent",
    ),
    "unlink": (lambda t: t.operations.unlink(ROOT_INO, b"file", CTX), "DELETE dirent"),
    "rmdir": (lambda t: t.operations.rmdir(ROOT_INO, b"folder", CTX), "SELECT dirent, DELETE dirent"),
    "forget": (lambda t: t.operations.forget([(t.file, 1), (t.other, 1)]), ""),
    "forget of what is gone": (
        lambda t: t.operations.forget([(t.gone, 1)]),
        "SELECT extent, DELETE extent, INSERT candidate, DELETE inode, DELETE xattr",
    ),
    "truncate": (lambda t: t.sized(4096), "SELECT extent, UPDATE extent, SELECT extent"),
    "truncate to nothing": (lambda t: t.sized(0), "SELECT extent, DELETE extent, INSERT candidate"),
    "truncate to more": (lambda t: t.sized(1 << 20), ""),
    "readlink": (lambda t: t.operations.readlink(t.symlink, CTX), "SELECT inode"),
    "lookup": (lambda t: t.operations.lookup(ROOT_INO, b"file", CTX), ""),
    "getattr": (lambda t: t.operations.getattr(t.file, CTX), ""),
    "opendir": (lambda t: t.operations.opendir(t.folder, CTX), ""),
    "open": (lambda t: t.operations.open(t.file, os.O_RDWR, CTX), ""),
    "listxattr": (lambda t: t.operations.listxattr(t.file, CTX), "SELECT xattr"),
    "setxattr": (lambda t: t.operations.setxattr(t.other, b"user.new", b"", CTX), "INSERT xattr"),
    "statfs": (lambda t: t.operations.statfs(CTX), ""),
}


def tables(mount: Mount) -> str:
    """What was asked of which table."""
    found = []
    for sql in mount.statements:
        words = sql.split()
        table = {"UPDATE": 1, "INSERT": words.index("INTO") + 1 if "INTO" in words else 0}.get(words[0])
        found.append(f"{words[0]} {words[words.index('FROM') + 1 if table is None else table]}")
    return ", ".join(found)


@pytest.mark.parametrize("name", COSTS)
def test_what_a_request_asks(mount, name):
    request, asked = COSTS[name]
    tree = Tree(mount)
    tree.known(mount)
    answer = mount.ask(request(tree))
    assert not isinstance(answer, int) or name == "opendir", "it was not refused"
    assert tables(mount) == asked


def test_what_requests_ask_with_nothing_in_mind(tmp_path):
    """The control of the table: names and inodes are looked for as well then."""
    more = set()
    for number, (name, (request, asked)) in enumerate(COSTS.items()):
        (tmp_path / str(number)).mkdir()
        mount = Mount(tmp_path / str(number))
        tree = Tree(mount)
        mount.database.rows.settle()
        mount.ask(request(tree))
        if tables(mount) != asked:
            more.add(name)
        mount.database.close()
    assert set(COSTS) - more == {"forget", "opendir", "open", "listxattr", "statfs", "forget of what is gone"}


def test_open_for_reading_costs_nothing(mount):
    _, entry = mount.create(b"file")
    mount.ask(mount.operations.open(Ino(entry.st_ino), os.O_RDONLY, CTX))
    assert not mount.statements


def answered(mount: Mount) -> tuple[list[object], list[object]]:
    """Replies about two inodes, and about two names that are free."""
    inos = [mount.create(name)[1].st_ino for name in (b"first", b"second")]
    there = [mount.ask(mount.operations.getattr(ino, CTX)) for ino in inos]
    assert there[1].st_ino == inos[1]
    return there, [mount.ask(mount.operations.lookup(ROOT_INO, name, CTX)) for name in (b"no", b"none")]


def test_replies_are_filled_again_not_made(mount):
    """One object for what is there, one for what is not."""
    there, absent = answered(mount)
    assert there[0] is there[1]
    assert absent[0] is absent[1]
    assert absent[0] is not there[0]


def test_replies_that_are_made_each_time_are_seen(mount):
    """The control of the test above."""
    mount.operations._replies = SimpleNamespace(
        entry=lambda row: Replies(1.0).entry(row), absent=lambda: Replies(1.0).absent()
    )
    there, absent = answered(mount)
    assert there[0] is not there[1]
    assert absent[0] is not absent[1]
