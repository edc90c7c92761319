"""Names as rows: link counts, replacing renames, what goes when a name goes. (Errno for errno: tests/mounted.)"""

import errno
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafs.errors import Refused
from megafs.files.namespace import EXCHANGE, NOREPLACE, Change
from megafs.index.invariants import faults
from megafs.model import ROOT_INO
from tests.files.rig import FILE, Rig, database_at

FOLDER = 0o40755
NAMES = [b"a", b"b", b"c"]


@pytest.fixture
def database(tmp_path):
    opened = database_at(tmp_path / "index.db")
    yield opened
    opened.close()


@pytest.fixture
def names(database):
    return Rig(database).names


def make(names, name, mode=FILE, parent=ROOT_INO):
    return names.create(parent, name, mode, 0, 0).ino


def refused(code, call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert caught.value.code == code


def test_directories_count_the_directories_in_them(names):
    outer = make(names, b"outer", FOLDER)
    make(names, b"inner", FOLDER, outer)
    make(names, b"file", FILE, outer)
    assert names.get(outer).nlink == 3
    assert names.get(ROOT_INO).nlink == 3
    names.rename(outer, b"inner", ROOT_INO, b"moved", 0)
    assert names.get(outer).nlink == 2
    assert names.get(ROOT_INO).nlink == 4
    assert names.lookup(names.lookup(ROOT_INO, b"moved").ino, b"..").ino == ROOT_INO
    names.rmdir(ROOT_INO, b"moved")
    assert names.get(ROOT_INO).nlink == 3


def test_the_last_name_leaves_an_inode_that_is_purged_when_the_kernel_forgets_it(names):
    ino = make(names, b"one")
    names.link(ino, ROOT_INO, b"two")
    names.unlink(ROOT_INO, b"one")
    assert names.unlinked == set()
    names.unlink(ROOT_INO, b"two")
    assert names.unlinked == {ino}
    assert names.get(ino).nlink == 0
    refused(errno.ENOENT, names.link, ino, ROOT_INO, b"again")
    names.purge(ino)
    refused(errno.ESTALE, names.get, ino)


def test_what_a_crash_left_unlinked_is_purged_at_the_next_start(database, names):
    ino = make(names, b"file")
    names.set_xattr(ino, b"user.x", b"y", keep_set_gid=True)
    names.unlink(ROOT_INO, b"file")
    assert Rig(database).names.purge_left_over() == 1
    assert database.connection.execute("SELECT count(*) FROM xattr").get == 0
    assert names.purge_left_over() == 0


def test_a_replacing_rename_keeps_the_row_that_a_listing_stands_at(names):
    make(names, b"target")
    new = make(names, b"new")
    cookie = next(entry[0] for entry in names.page(ROOT_INO, 0) if entry[1] == b"target")
    old = names.lookup(ROOT_INO, b"target").ino
    names.rename(ROOT_INO, b"new", ROOT_INO, b"target", 0)
    assert [(entry[0], entry[1], entry[2].ino) for entry in names.page(ROOT_INO, 0)] == [(cookie, b"target", new)]
    assert names.unlinked == {old}


def test_renames_that_linux_refuses(names):
    file, folder = make(names, b"file"), make(names, b"folder", FOLDER)
    make(names, b"inside", FILE, folder)
    make(names, b"empty", FOLDER)
    rename = names.rename
    refused(errno.ENOENT, rename, ROOT_INO, b"absent", ROOT_INO, b"x", 0)
    refused(errno.EEXIST, rename, ROOT_INO, b"file", ROOT_INO, b"folder", NOREPLACE)
    refused(errno.EISDIR, rename, ROOT_INO, b"file", ROOT_INO, b"empty", 0)
    refused(errno.ENOTDIR, rename, ROOT_INO, b"empty", ROOT_INO, b"file", 0)
    refused(errno.ENOTEMPTY, rename, ROOT_INO, b"empty", ROOT_INO, b"folder", 0)
    refused(errno.EINVAL, rename, ROOT_INO, b"file", ROOT_INO, b"x", NOREPLACE | EXCHANGE)
    refused(errno.EINVAL, rename, ROOT_INO, b"file", ROOT_INO, b"x", 4)
    refused(errno.ENOENT, rename, ROOT_INO, b"file", ROOT_INO, b"x", EXCHANGE)
    refused(errno.ENAMETOOLONG, rename, ROOT_INO, b"file", ROOT_INO, b"x" * 256, 0)
    assert names.lookup(ROOT_INO, b"file").ino == file


def test_a_set_group_directory_hands_its_group_on(names):
    parent = names.create(ROOT_INO, b"shared", FOLDER | stat.S_ISGID, 0, 77).ino
    file = names.create(parent, b"file", FILE, 5, 5)
    folder = names.create(parent, b"folder", FOLDER, 5, 5)
    assert (file.gid, folder.gid) == (77, 77)
    assert folder.mode & stat.S_ISGID
    assert not file.mode & stat.S_ISGID


def test_times_that_nobody_sent_are_now(names):
    ino = make(names, b"file")
    before = names.get(ino)
    after = names.change(ino, Change(mode=0o600))
    assert after.ctime_ns > before.ctime_ns
    assert after.mtime_ns == before.mtime_ns
    after = names.change(ino, Change(size=10))
    assert after.mtime_ns == after.ctime_ns > before.mtime_ns
    after = names.change(ino, Change(atime_ns=-5, mtime_ns=1 << 62, ctime_ns=7))
    assert (after.atime_ns, after.mtime_ns, after.ctime_ns) == (-5, 1 << 62, 7)
    assert names.get(ino) == after


FOLDERS = st.integers(0, 2)
WHICH = st.sampled_from(NAMES)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["file", "folder", "unlink", "rmdir"]), FOLDERS, WHICH),
    st.tuples(st.just("link"), FOLDERS, WHICH, FOLDERS, WHICH),
    st.tuples(st.just("rename"), FOLDERS, WHICH, FOLDERS, WHICH, st.sampled_from([0, 0, NOREPLACE, EXCHANGE])),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    opened = database_at(tmp_path_factory.mktemp("shared") / "index.db")
    yield opened
    opened.close()


def is_inside(names, ino, folder):
    """The kernel refuses to move a directory into itself before it asks."""
    while folder != ROOT_INO:
        if folder == ino:
            return True
        folder = names.lookup(folder, b"..").ino
    return False


@given(steps=st.lists(STEPS, max_size=30))
@settings(max_examples=100)
def test_whatever_is_done_no_invariant_breaks(shared, steps):
    shared.rollback()
    names = Rig(shared).names
    folders = [ROOT_INO]
    for kind, *arguments in steps:
        where = [folders[n % len(folders)] if isinstance(n, int) else n for n in arguments]
        try:
            if kind in ("file", "folder"):
                ino = make(names, where[1], FILE if kind == "file" else FOLDER, where[0])
                folders += [ino] * (kind == "folder")
            elif kind in ("unlink", "rmdir"):
                getattr(names, kind)(*where)
            else:
                step(names, kind, *where[:4], *arguments[4:])
        except Refused:
            continue
        finally:
            for ino in list(names.unlinked):
                names.purge(ino)
                folders = [folder for folder in folders if folder != ino]
    shared.rows.write()
    assert not [fault for fault in faults(shared.connection) if fault.rule != "id-unused"]


def step(names, kind, parent, name, new_parent, new_name, flags=0):
    source, target = names.lookup(parent, name), names.lookup(new_parent, new_name)
    if source is None:
        return
    if kind == "link":
        if not stat.S_ISDIR(source.mode):
            names.link(source.ino, new_parent, new_name)
    elif not is_inside(names, source.ino, new_parent) and not (target and is_inside(names, target.ino, parent)):
        names.rename(parent, name, new_parent, new_name, flags)


def test_a_handle_finds_no_inode_whose_last_name_is_gone(names):
    file = make(names, b"file")
    assert names.lookup(file, b".").ino == file
    names.unlink(ROOT_INO, b"file")
    assert names.get(file).nlink == 0, "the row lives until the kernel forgets it"
    assert names.lookup(file, b".") is None
