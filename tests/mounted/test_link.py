"""link, unlink, symlink, readlink: counts, targets, lengths, what may be linked by whom, and files without a name."""

import itertools
import os
from pathlib import Path

import pytest

from tests.mounted.both import ALICE, BOB, USERS, Both, Cases, by, look, tried
from tests.mounted.things import NODES, TYPES, directory, make

NOT_FOLLOWED = {"follow_symlinks": False}


@pytest.mark.needs_root
def test_each_type(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in TYPES:
            path = make(kind, root / kind)
            for number in range(3):
                new = root / f"{kind}-{number}"
                yield f"{kind} link {number}", [tried(os.link, path, new, **NOT_FOLLOWED), look(path), look(new)]
            yield f"{kind} same file", tried(os.path.samestat, os.lstat(path), os.lstat(path))
            for number in range(3):
                yield f"{kind} unlink {number}", [tried(os.unlink, root / f"{kind}-{number}"), look(path)]
            yield f"{kind} unlink", [tried(os.unlink, path), look(path), look(root)]

    both(operation)


@pytest.mark.needs_root
def test_what_is_in_the_way(both: Both) -> None:
    def operation(root: Path) -> Cases:
        source = make("file", root / "source")
        for kind in TYPES:
            path = make(kind, root / kind)
            yield f"link onto {kind}", [tried(os.link, source, path), look(source)]
            yield f"symlink onto {kind}", tried(os.symlink, "x", path)
            yield f"link below {kind}", tried(os.link, source, path / "new")
            yield f"link with a slash {kind}", tried(os.link, source, f"{path}/")
            yield f"unlink with a slash {kind}", tried(os.unlink, f"{path}/")
            yield f"readlink {kind}", tried(os.readlink, path)
        for source_name, target in (
            ("missing", "new"),
            ("source/", "new"),
            ("source", "no/new"),
            ("source", "new/"),
            ("source", "source"),
        ):
            yield (
                f"{source_name} to {target}",
                [tried(os.link, f"{root}/{source_name}", f"{root}/{target}"), look(source)],
            )

    both(operation)


def test_one_content(both: Both) -> None:
    def operation(root: Path) -> Cases:
        first, second = root / "first", root / "second"
        first.write_bytes(b"one")
        os.link(first, second)
        with second.open("ab") as file:
            file.write(b"two")
        yield "appended through the other", [first.read_bytes(), look(first)]
        os.setxattr(first, "user.x", b"y")
        first.chmod(0o600)
        os.utime(second, ns=(1, 2))
        yield "attributes", [os.getxattr(second, "user.x"), look(second), os.stat(first).st_mtime_ns]
        first.unlink()
        yield "the other stays", [second.read_bytes(), look(second)]
        os.link(second, first)
        yield "linked again", [look(first), os.path.samefile(first, second)]

    both(operation)


def test_many_links(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        for number in range(500):
            os.link(path, root / f"link{number}")
        yield "500", look(path)
        for number in range(0, 500, 2):
            (root / f"link{number}").unlink()
        yield "half", [look(path), len(os.listdir(root))]

    both(operation)


@pytest.mark.needs_root
def test_who_may_link(both: Both) -> None:
    """With protected_hardlinks: own files, or those that one may read and write and that are not set-id."""

    def operation(root: Path) -> Cases:
        for parent_mode, mode, kind in itertools.product(
            (0o777, 0o1777, 0o755), (0o644, 0o666, 0o4777, 0o600), ("file", "fifo", "dangling")
        ):
            place = directory(root / f"{parent_mode:o}{mode:o}{kind}", mode=parent_mode)
            path = make(kind, place / "thing", mode=mode, owner=ALICE)
            for name, user in USERS.items():
                yield f"{place.name} {name}", [by(user, os.link, path, place / name, **NOT_FOLLOWED), look(path)]

    both(operation)


def test_unlinked_while_open(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        fd = os.open(path, os.O_RDWR)
        path.unlink()
        yield "gone", [look(path), os.fstat(fd)]
        yield "write", [os.pwrite(fd, b"more" * 5000, 100), os.fstat(fd), len(os.pread(fd, 99_999, 0))]
        yield "truncate", [tried(os.ftruncate, fd, 10), os.fstat(fd), os.pread(fd, 99, 0)]
        yield (
            "xattr",
            [tried(os.setxattr, fd, "user.a", b"b"), tried(os.getxattr, fd, "user.a"), tried(os.listxattr, fd)],
        )
        yield "chmod", [tried(os.fchmod, fd, 0o611), tried(os.utime, fd, ns=(5, 6)), os.fstat(fd)]
        yield "fsync", tried(os.fsync, fd)
        yield "opened again through /proc", tried(lambda: os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR)))
        path.write_bytes(b"a new one")
        yield "its name is free", [look(path), os.fstat(fd), os.pread(fd, 99, 0)]
        yield "relink", tried(os.link, f"/proc/self/fd/{fd}", root / "again", follow_symlinks=True)
        os.close(fd)

    both(operation)


def test_unlinked_in_each_order(both: Both) -> None:
    """A name taken away, given back and taken away again while two descriptors watch."""

    def operation(root: Path) -> Cases:
        a, b = root / "a", root / "b"
        a.write_bytes(b"first")
        os.link(a, b)
        one, two = os.open(a, os.O_RDWR), os.open(b, os.O_RDONLY)
        for label, call in {
            "unlink a": a.unlink,
            "link back": lambda: os.link(b, a),
            "unlink b": b.unlink,
            "unlink a again": a.unlink,
        }.items():
            call()
            yield label, [os.fstat(one), os.fstat(two), look(a), look(b)]
        os.write(one, b"last words")
        os.close(one)
        yield "read by the other", [os.read(two, 100), os.fstat(two)]
        os.close(two)

    both(operation)


@pytest.mark.parametrize("length", [1, 2, 59, 60, 61, 255, 256, 1000, 1023, 1024, 2048, 4000, 4094, 4095])
def test_symlink_lengths(both: Both, length: int) -> None:
    def operation(root: Path) -> Cases:
        target = ("a/" * 2048)[:length]
        yield "made", [tried(os.symlink, target, root / "link"), tried(os.readlink, root / "link"), look(root / "link")]
        yield "renamed", [(root / "link").rename(root / "moved").name, tried(os.readlink, root / "moved")]

    both(operation)


def test_symlink_targets(both: Both) -> None:
    def operation(root: Path) -> Cases:
        here = os.fsencode(root)
        for number, target in enumerate(
            (
                b"",
                b"a" * 4096,
                b"a" * 5000,
                b".",
                b"..",
                b"/",
                b"//",
                b"x\n",
                bytes(range(1, 256)),
                b"\xff\xfe",
                "ü".encode(),
                b" ",
            )
        ):
            name = here + b"/%d" % number
            yield f"target {number}", [tried(os.symlink, target, name), tried(os.readlink, name), look(name)]

    both(operation)


def test_symlinks_are_followed(both: Both) -> None:
    def operation(root: Path) -> Cases:
        make("file", root / "file")
        directory(root / "d")
        for name, target in (
            ("relative", "file"),
            ("absolute", str(root / "file")),
            ("through", "d/../file"),
            ("twice", "relative"),
            ("directory", "d"),
            ("loop", "loop"),
            ("one", "two"),
            ("two", "one"),
            ("deep", "d/no/such"),
            ("below a file", "file/x"),
        ):
            (root / name).symlink_to(target)
            path = root / name
            yield name, [look(path), tried(os.stat, path), tried(os.readlink, path), tried(path.read_bytes)]
            yield f"{name} slash", [tried(os.stat, f"{path}/"), tried(os.lstat, f"{path}/")]
        yield "written through", [tried((root / "twice").write_bytes, b"new"), (root / "file").read_bytes()]
        yield "created through", [tried((root / "deep").write_bytes, b"new")]

    both(operation)


def test_chains_of_symlinks(both: Both) -> None:
    def operation(root: Path) -> Cases:
        make("file", root / "0")
        for number in range(1, 45):
            (root / str(number)).symlink_to(str(number - 1))
            if number > 36:
                yield f"chain of {number}", tried((root / str(number)).read_bytes)

    both(operation)


def test_creating_through_a_dangling_symlink(both: Both) -> None:
    def operation(root: Path) -> Cases:
        link = make("dangling", root / "link")
        yield "O_EXCL", tried(os.open, link, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        yield "O_NOFOLLOW", tried(os.open, link, os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY)
        yield "mkdir", tried(os.mkdir, link)
        os.close(os.open(link, os.O_CREAT | os.O_WRONLY, 0o600))
        yield "created", [look(root / "nowhere"), look(link), sorted(os.listdir(root))]

    both(operation)


@pytest.mark.needs_root
def test_owner_of_new_links(both: Both) -> None:
    def operation(root: Path) -> Cases:
        place = directory(root / "place", mode=0o2777)
        os.chown(place, 0, BOB.gid)
        place.chmod(0o2777)
        yield "symlink", [by(ALICE, os.symlink, "x", place / "soft"), look(place / "soft")]
        for kind in NODES:
            yield kind, [by(ALICE, lambda kind=kind: make(kind, place / kind) and None), look(place / kind)]

    both(operation)
