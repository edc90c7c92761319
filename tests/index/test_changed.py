"""Which paths changed, by hand and against two pictures of the tree."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from megafs.index.changed import changed_paths
from megafs.index.database import Database
from megafs.index.inodes import Inodes
from megafs.index.ledger import Ledger
from megafs.index.vault import Vault
from megafs.model import DeviceId

DIRECTORY, FILE = 0o040755, 0o100644


class Tree:
    """An index whose names are changed row by row, and what they are."""

    def __init__(self, path):
        self.database = Database(path, bytes(32), create=True)
        Vault(self.database).add_device(1, DeviceId(bytes(16)), bytes(32), b"")
        self.database.adopt(1)
        Inodes(self.database).insert_root(DIRECTORY, 0, 0, 1)
        self.database.commit(0)
        self.execute = self.database.connection.execute
        self.since = Ledger(self.database.connection).newest_outbox()

    def make(self, parent, name, mode=FILE):
        ino = Inodes(self.database).insert(mode, 0, 0, 0, 5, parent if mode == DIRECTORY else 0, None).ino
        self.link(ino, parent, name)
        return ino

    def link(self, ino, parent, name):
        self.execute("INSERT INTO dirent VALUES (?, ?, ?, ?)", (self.database.new_id(), parent, name, ino))
        self.execute("UPDATE inode SET mtime_ns = mtime_ns + 1, nlink = nlink + 1 WHERE id = ?", (parent,))

    def remove(self, parent, name):
        self.execute("DELETE FROM dirent WHERE parent = ? AND name = ?", (parent, name))

    def commit(self):
        self.database.commit(0)

    def changed(self):
        """Since the last call."""
        self.commit()
        ledger = Ledger(self.database.connection)
        newest = ledger.newest_outbox()
        changesets = ledger.changesets(self.since + 1, newest)
        self.since = newest
        return {each.path: each.what for each in changed_paths(self.database.connection, changesets)}


def test_names_contents_and_attributes(tmp_path):
    tree = Tree(tmp_path / "i")
    folder = tree.make(1, b"folder", DIRECTORY)
    deep = tree.make(folder, b"deep", DIRECTORY)
    file, other = tree.make(deep, b"file"), tree.make(1, b"other")
    tree.link(file, 1, b"second name")
    everything = {b"folder", b"folder/deep", b"folder/deep/file", b"other", b"second name"}
    assert tree.changed() == dict.fromkeys(everything, "new")
    assert tree.changed() == {}
    tree.execute("INSERT INTO extent VALUES (?, ?, 0, 5, x'00', 0)", (tree.database.new_id(), file))
    assert tree.changed() == {b"folder/deep/file": "changed", b"second name": "changed"}
    tree.execute("UPDATE extent SET stop = 6")
    tree.commit()
    tree.execute("UPDATE extent SET stop = 7")  # over two commits, by one key
    assert set(tree.changed()) == {b"folder/deep/file", b"second name"}
    tree.execute("DELETE FROM extent")
    assert set(tree.changed()) == {b"folder/deep/file", b"second name"}
    tree.execute("INSERT INTO xattr VALUES (?, ?, x'61', x'62')", (tree.database.new_id(), deep))
    assert tree.changed() == {b"folder/deep": "changed"}
    tree.execute("UPDATE inode SET atime_ns = 99")
    assert tree.changed() == {}, "it was read"
    tree.execute("UPDATE inode SET mode = ? WHERE id = ?", (0o100600, other))
    assert tree.changed() == {b"other": "changed"}


def test_renamed_replaced_and_removed(tmp_path):
    tree = Tree(tmp_path / "i")
    folder = tree.make(1, b"folder", DIRECTORY)
    tree.make(folder, b"a")
    tree.make(1, b"b")
    tree.changed()
    tree.execute("UPDATE dirent SET name = x'63' WHERE name = x'62'")  # b to c
    assert tree.changed() == {b"c": "new", b"b": "removed"}
    tree.remove(folder, b"a")
    assert tree.changed() == {b"folder/a": "removed"}
    tree.remove(1, b"c")
    tree.make(1, b"c")
    assert tree.changed() == {b"c": "new"}, "replaced"
    tree.make(folder, b"x")
    tree.changed()
    tree.remove(folder, b"x")
    tree.remove(1, b"folder")
    assert tree.changed() == {b"?/x": "removed", b"folder": "removed"}
    tree.make(1, b"for a moment")
    tree.remove(1, b"for a moment")
    assert tree.changed() == {}


names = st.sampled_from([b"a", b"b", b"c", b"d"])
steps = st.lists(st.tuples(st.sampled_from(["make", "remove", "rename", "commit"]), names, names), max_size=12)


@settings(max_examples=60)
@given(st.lists(steps, max_size=4))
def test_against_two_pictures(tmp_path_factory, rounds):
    tree = Tree(tmp_path_factory.mktemp("tree") / os.urandom(4).hex())

    def picture():
        return dict(tree.execute("SELECT name, ino FROM dirent"))

    pictures = [picture()]
    for each in rounds:
        for what, name, other in each:
            there = picture()
            if what == "make" and name not in there:
                tree.make(1, name)
            elif what == "remove":
                tree.remove(1, name)
            elif what == "rename" and name in there and other not in there:
                tree.execute("UPDATE dirent SET name = ? WHERE name = ?", (other, name))
            elif what == "commit":
                tree.commit()
        pictures.append(picture())
        before, after = pictures[-2:]
        changed = tree.changed()
        assert {name for name in after if after[name] != before.get(name)} <= set(changed)
        assert {name for name, what in changed.items() if what == "removed"} == before.keys() - after.keys()
    tree.database.close()
