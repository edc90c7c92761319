"""rename and renameat2: every pair of types, sticky directories, NOREPLACE, EXCHANGE, into itself, while open."""

import itertools
import os
from pathlib import Path

import pytest

from tests.mounted import calls
from tests.mounted.both import ALICE, BOB, CAROL, ROOT, USERS, Both, Cases, User, by, look, tried
from tests.mounted.things import NODES, TYPES, directory, make

PLACES = ("missing", *TYPES, "full directory")
FLAGS = {"plain": 0, "noreplace": calls.RENAME_NOREPLACE, "exchange": calls.RENAME_EXCHANGE}


def put(kind: str, path: Path) -> Path:
    """A thing to rename, or to rename onto."""
    if kind == "full directory":
        directory(path)
        make("file", path / "inside")
    elif kind != "missing":
        make(kind, path)
    return path


@pytest.mark.needs_root
@pytest.mark.parametrize("flag", FLAGS)
def test_every_pair_of_types(both: Both, flag: str) -> None:
    def operation(root: Path) -> Cases:
        for source, target in itertools.product(PLACES, PLACES):
            place = directory(root / f"{source} to {target}")
            (here := directory(place / "here")), (there := directory(place / "there"))
            old, new = put(source, here / "old"), put(target, there / "new")
            answer = tried(calls.renameat2, old, new, FLAGS[flag])
            yield place.name, [answer, look(old), look(new), look(here), look(there)]

    both(operation)


def test_flags_that_contradict(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for flags in (3, 5, 6, 7, 8, 1 << 20):
            old, new = make("file", root / f"old{flags}"), make("file", root / f"new{flags}")
            yield f"flags {flags}", [tried(calls.renameat2, old, new, flags), look(old), look(new)]

    both(operation)


def test_whiteouts(both: Both) -> None:
    def operation(root: Path) -> Cases:
        make("file", root / "old")
        yield "whiteout", tried(calls.renameat2, root / "old", root / "new", calls.RENAME_WHITEOUT)

    both.documented(operation, mount="EINVAL", plain=None, why="only an overlay asks for it; a vault is no upper layer")


def test_dots_and_roots(both: Both) -> None:
    def operation(root: Path) -> Cases:
        directory(root / "d")
        directory(root / "d" / "e")
        make("file", root / "file")
        for source, target in (
            ("d", "d/e/f"),
            ("d", "d/e"),
            ("d", "d"),
            ("d/e", "d"),
            ("d/.", "x"),
            ("d/..", "x"),
            ("x", "d/."),
            ("file", "d/."),
            ("file", "d/.."),
            ("d/e", "d/e/."),
            ("file", "file/"),
            ("file", "new/"),
            ("file/", "new"),
            ("d/e", "g/"),
            ("g/", "d/e/"),
            ("file", "file"),
            ("file", "d/missing/new"),
            ("file", "file/new"),
        ):
            answer = tried(os.rename, f"{root}/{source}", f"{root}/{target}")
            yield f"{source} to {target}", [answer, sorted(os.listdir(root)), sorted(os.listdir(root / "d"))]
            exchanged = tried(calls.renameat2, f"{root}/{source}", f"{root}/{target}", calls.RENAME_EXCHANGE)
            yield f"{source} with {target}", [exchanged, sorted(os.listdir(root)), sorted(os.listdir(root / "d"))]

    both(operation)


def test_links_of_one_file(both: Both) -> None:
    """Renaming one link onto another of the same file does nothing and succeeds."""

    def operation(root: Path) -> Cases:
        for flag, number in FLAGS.items():
            a, b = make("file", root / f"a{flag}"), root / f"b{flag}"
            os.link(a, b)
            yield flag, [tried(calls.renameat2, a, b, number), look(a), look(b)]

    both(operation)


def test_directories_keep_their_parents(both: Both) -> None:
    def operation(root: Path) -> Cases:
        here, there = directory(root / "here"), directory(root / "there")
        moved = directory(here / "moved")
        make("file", here / "marker-here")
        make("file", there / "marker-there")
        yield "before", sorted(os.listdir(moved / ".."))
        moved.rename(there / "moved")
        yield "after", [sorted(os.listdir(there / "moved" / "..")), look(here), look(there)]
        other = directory(here / "other")
        calls.renameat2(other, there / "moved", calls.RENAME_EXCHANGE)
        yield "exchanged", [sorted(os.listdir(other / "..")), sorted(os.listdir(there / "moved" / ".."))]
        calls.renameat2(other, there / "marker-there", calls.RENAME_EXCHANGE)
        yield "directory with file", [look(here), look(there), look(other), look(there / "marker-there")]

    both(operation)


def test_onto_open_files(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for flag, number in FLAGS.items():
            old = make("file", root / f"old{flag}", content=b"old content")
            new = make("file", root / f"new{flag}", content=b"new")
            old_fd, new_fd = os.open(old, os.O_RDWR), os.open(new, os.O_RDWR)
            answer = tried(calls.renameat2, old, new, number)
            os.pwrite(new_fd, b"!!", 3)
            os.pwrite(old_fd, b"??", 0)
            found = [os.fstat(fd) for fd in (old_fd, new_fd)] + [os.pread(fd, 99, 0) for fd in (old_fd, new_fd)]
            os.close(old_fd)
            os.close(new_fd)
            yield flag, [answer, *found, new.read_bytes(), look(old)]

    both(operation)


def test_replacing_an_open_directory(both: Both) -> None:
    def operation(root: Path) -> Cases:
        old, new = directory(root / "old"), directory(root / "new")
        fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
        old.rename(new)
        yield "listing", tried(os.listdir, fd)
        yield "stat", os.fstat(fd).st_nlink
        yield "making in it", tried(os.mkdir, "x", dir_fd=fd)
        yield "creating in it", tried(os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.close(fd)

    both(operation)


@pytest.mark.needs_root
@pytest.mark.parametrize("mover", USERS)
def test_sticky_source(both: Both, mover: str) -> None:
    """In a sticky directory only the owner of the file, of the directory, or root may take a name away."""

    def operation(root: Path) -> Cases:
        there = directory(root / "there")
        for mode, parent, kind in itertools.product((0o777, 0o1777, 0o1755), ("root", "alice", "bob"), NODES):
            here = directory(root / f"{mode:o}-{parent}-{kind}", mode=mode, owner=USERS[parent])
            for owner in ("root", "alice", "bob"):
                item = make(kind, here / owner, owner=USERS[owner])
                target = there / f"{here.name}-{owner}"
                yield f"{here.name} of {owner} away", [by(USERS[mover], os.rename, item, target), look(item)]
                back = target if look(item) == "ENOENT" else item
                yield (
                    f"{here.name} of {owner} within",
                    [by(USERS[mover], os.rename, back, here / "new"), look(here / "new")],
                )
                for left in (item, target, here / "new"):
                    remove(left)

    both(operation)


@pytest.mark.needs_root
@pytest.mark.parametrize("mover", ["alice", "bob", "carol"])
def test_sticky_target(both: Both, mover: str) -> None:
    """The same holds for the name that is replaced, and for both names of an exchange."""

    def operation(root: Path) -> Cases:
        here = directory(root / "here")
        for mode, parent in itertools.product((0o777, 0o1777), ("root", "alice", "bob")):
            there = directory(root / f"{mode:o}-{parent}", mode=mode, owner=USERS[parent])
            for kind, owner, flags in itertools.product(("file", "directory", "fifo"), USERS, FLAGS.values()):
                old = make(kind, here / "old", owner=USERS[mover])
                new = make(kind, there / "new", owner=USERS[owner])
                answer = by(USERS[mover], calls.renameat2, old, new, flags)
                yield f"{there.name} {kind} of {owner} {flags}", [answer, look(old), look(new)]
                remove(old)
                remove(new)

    both(operation)


def remove(path: Path) -> None:
    """Take away whatever is there."""
    match look(path):
        case os.stat_result() if path.is_dir() and not path.is_symlink():
            path.rmdir()
        case os.stat_result():
            path.unlink()


@pytest.mark.needs_root
def test_moving_a_directory_needs_write_permission_on_it(both: Both) -> None:
    """Its ".." changes, so a directory that the mover may not write stays with its parent."""

    def operation(root: Path) -> Cases:
        here, there = directory(root / "here"), directory(root / "there")
        for owner, mode in itertools.product((ALICE, BOB, ROOT), (0o755, 0o777, 0o555, 0o000)):
            for mover in (ALICE, CAROL):
                moved = directory(here / f"{owner.uid}-{mode:o}-{mover.uid}", mode=mode, owner=owner)
                yield f"{moved.name} away", [by(mover, os.rename, moved, there / moved.name), look(there / moved.name)]
                if look(moved) != "ENOENT":
                    yield f"{moved.name} within", by(mover, os.rename, moved, here / f"{moved.name}-new")

    both(operation)


@pytest.mark.needs_root
def test_parents_without_permission(both: Both) -> None:
    def attempt(source: Path, target: Path) -> object:
        return [tried(calls.renameat2, source, target, flags) for flags in (0, 1, 2)]

    def operation(root: Path) -> Cases:
        user = User(uid=60001, gid=60001)
        for here_mode, there_mode in itertools.product((0o755, 0o555, 0o655, 0o777), repeat=2):
            place = directory(root / f"{here_mode:o}-{there_mode:o}")
            here = directory(place / "here", mode=here_mode, owner=user)
            there = directory(place / "there", mode=there_mode, owner=user)
            make("file", here / "old", owner=user)
            yield place.name, [by(user, attempt, here / "old", there / "new"), look(here / "old"), look(there / "new")]
            yield f"{place.name} missing", by(user, attempt, here / "missing", there / "x")

    both(operation)
