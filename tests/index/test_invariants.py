"""Each rule finds what breaks it, and mending makes true what can be made true."""

import pytest

from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.index.invariants import RULES, faults
from megafs.index.mend import LOST_AND_FOUND, Mender
from megafs.index.packs import Packs
from megafs.model import ROOT_INO, ChunkId, ChunkPlace, Ino, PackId
from tests.support.keys import raw

CHUNK = ChunkId(b"c" * 16)


class Small:
    """A healthy index: /file (10 bytes), /folder/, /folder/inner/, /link -> target."""

    def __init__(self, path) -> None:
        self.database = Database(path, raw(bytes(32)), create=True)
        self.execute = self.database.connection.execute
        self.execute("INSERT INTO device VALUES (1, x'01', x'', x'', 0)")
        self.database.adopt(1)
        self.inodes, self.packs, self.extents = Inodes(self.database), Packs(self.database), Extents(self.database)
        self.inodes.insert_root(0o40755, 0, 0, 0)
        self.file = self.make(ROOT_INO, b"file", 0o100644)
        self.folder = self.make(ROOT_INO, b"folder", 0o40755)
        self.inner = self.make(self.folder, b"inner", 0o40755)
        self.link = self.make(ROOT_INO, b"link", 0o120777, target=b"target")
        self.pack = self.packs.open(PackId(bytes(16)), 1)
        self.extents.add_chunk(ChunkPlace(CHUNK, self.pack, 0, 100, 10, 0, b""))
        self.inodes.grow(self.file, 10, self.extents.write(self.file, [(0, 10, CHUNK, 0)]))
        self.database.commit(0)

    def make(self, parent, name, mode, *, target=None) -> Ino:
        is_directory = mode & 0o170000 == 0o40000
        row = self.inodes.insert(mode, 0, 0, 0, 0, parent if is_directory else Ino(0), target)
        self.inodes.link(parent, name, row.ino)
        self.inodes.touch_and_link(parent, 0, int(is_directory))
        return row.ino

    def broken(self) -> set[str]:
        return {fault.rule for fault in faults(self.database.connection)}


@pytest.fixture
def small(tmp_path):
    made = Small(tmp_path / "index.db")
    yield made
    made.database.close()


BREAKS = {
    "root": "UPDATE inode SET mode = 0 WHERE id = 1",
    "name-without-inode": "INSERT INTO dirent VALUES (77, 1, x'61', 12345)",
    "name-outside": "INSERT INTO dirent VALUES (77, {file}, x'61', {link})",
    "name-impossible": "UPDATE dirent SET name = x'612f62' WHERE ino = {file}",
    "orphan": "DELETE FROM dirent WHERE ino = {folder}",
    "directory-twice": "INSERT INTO dirent VALUES (77, 1, x'61', {folder})",
    "parent": "UPDATE inode SET parent = 1 WHERE id = {inner}",
    "links": "UPDATE inode SET nlink = 5 WHERE id = {file}",
    "directory-links": "UPDATE inode SET nlink = 5 WHERE id = {folder}",
    "symlink": "UPDATE inode SET target = NULL WHERE id = {link}",
    "xattr-without-inode": "INSERT INTO xattr VALUES (77, 12345, x'61', x'')",
    "extent-shape": "INSERT INTO extent VALUES (77, {folder}, 0, 10, x'63', 0)",
    "extent-overlap": "INSERT INTO extent VALUES (77, {file}, 5, 8, (SELECT id FROM chunk), 0)",
    "extent-beyond-size": "UPDATE inode SET size = 5 WHERE id = {file}",
    "extent-without-chunk": "UPDATE extent SET skip = 1",
    "stored": "UPDATE inode SET stored = 9 WHERE id = {file}",
    "chunk-leaked": "DELETE FROM extent",
    "chunk-without-pack": "UPDATE chunk SET pack = 12345",
    "chunk-overlap": "INSERT INTO chunk VALUES (x'64', {pack}, 99, 5, 10, 0, x'')",
    "pack-nowhere": "DELETE FROM local_pack",
    "pack-dead": "UPDATE pack SET dead_since = 1",
    "local-without-pack": "INSERT INTO local_pack VALUES (12345, 0, 0, 0)",
    "copy-without-pack": "INSERT INTO copy VALUES (77, 12345, x'01', -1, x'')",
    "id-unused": "UPDATE device SET counter = 2",
}
MENDED = {"orphan", "parent", "links", "directory-links", "extent-beyond-size", "stored", "chunk-leaked"}


def test_a_healthy_index_has_no_faults(small):
    assert list(faults(small.database.connection)) == []


def test_every_rule_is_tried():
    assert set(BREAKS) == set(RULES)


@pytest.mark.parametrize("rule", BREAKS)
def test_what_breaks_a_rule_is_found_and_mended_or_left(small, rule):
    names = {name: getattr(small, name) for name in ("file", "folder", "inner", "link", "pack")}
    small.execute(BREAKS[rule].format(**names))
    assert rule in small.broken()
    mended = {found for found, _ in Mender(small.database, 1).mend()}
    assert (rule in mended) is (rule in MENDED)
    assert (rule in small.broken()) is (rule not in MENDED)


def test_what_has_no_name_is_in_lost_and_found_with_all_that_is_in_it(small):
    small.execute("DELETE FROM dirent WHERE ino IN (?, ?)", (small.folder, small.file))
    Mender(small.database, 1).mend()
    small.database.commit(0)
    assert small.broken() == set()
    lost = small.inodes.lookup(ROOT_INO, LOST_AND_FOUND)
    assert small.inodes.lookup(lost, b"%d" % small.file) == small.file
    assert small.inodes.lookup(lost, b"%d" % small.folder) == small.folder
    assert small.inodes.lookup(small.folder, b"inner") == small.inner
    assert small.extents.covering(small.file, 0, 10) == [(0, 10, CHUNK, 0)]


def test_a_ring_of_directories_is_opened(small):
    small.execute("UPDATE dirent SET parent = ? WHERE ino = ?", (small.inner, small.folder))
    assert "orphan" in small.broken()
    Mender(small.database, 1).mend()
    small.database.commit(0)
    assert small.broken() == set()
    lost = small.inodes.lookup(ROOT_INO, LOST_AND_FOUND)
    assert small.inodes.lookup(lost, b"%d" % small.folder) == small.folder or small.inodes.lookup(
        lost, b"%d" % small.inner
    )
