"""open(2): every combination of the flags that matter, on every type, by every user; what descriptors then allow."""

import itertools
import os
from pathlib import Path

import pytest

from tests.mounted.both import ALICE, BOB, USERS, Both, Cases, by, look, open_and_close, tried
from tests.mounted.things import directory, make

ACCESS = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}
EXTRAS = {
    "creat": os.O_CREAT,
    "excl": os.O_EXCL,
    "trunc": os.O_TRUNC,
    "append": os.O_APPEND,
    "directory": os.O_DIRECTORY,
    "nofollow": os.O_NOFOLLOW,
}
O_TMPFILE = os.O_TMPFILE


def combinations() -> list[tuple[str, int]]:
    """Every access mode with every subset of the extras; non-blocking, so that fifos answer."""
    found = []
    for (name, access), count in itertools.product(ACCESS.items(), range(len(EXTRAS) + 1)):
        for chosen in itertools.combinations(EXTRAS, count):
            flags = access | os.O_NONBLOCK
            for extra in chosen:
                flags |= EXTRAS[extra]
            found.append(("+".join((name, *chosen)), flags))
    return found


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", ["missing", "file", "directory", "symlink", "dangling", "fifo", "socket", "character"])
def test_flags_on_each_type(both: Both, kind: str) -> None:
    def operation(root: Path) -> Cases:
        for label, flags in combinations():
            if kind == "fifo" and flags & os.O_ACCMODE == os.O_RDWR:
                continue  # undefined by POSIX
            place = directory(root / label)
            path = place / "thing" if kind == "missing" else make(kind, place / "thing")
            answer = tried(open_and_close, path, flags, 0o640)
            found = [(name, look(place / name)) for name in sorted(os.listdir(place))]
            yield label, [answer, found]

    both(operation)


@pytest.mark.needs_root
@pytest.mark.parametrize("name", ["alice", "bob", "carol"])
def test_permissions(both: Both, name: str) -> None:
    def operation(root: Path) -> Cases:
        for mode, owner in itertools.product(
            (0o000, 0o400, 0o200, 0o600, 0o040, 0o020, 0o004, 0o002, 0o666), (ALICE, BOB)
        ):
            path = make("file", root / f"{mode:o}-{owner.uid}", mode=mode, owner=owner)
            for label, access in ACCESS.items():
                for extra in (0, os.O_TRUNC, os.O_CREAT, os.O_APPEND):
                    answer = by(USERS[name], open_and_close, path, access | extra)
                    yield f"{path.name} {label} {extra}", [answer, path.stat().st_size]

    both(operation)


@pytest.mark.needs_root
def test_creating_without_the_right_to_write(both: Both) -> None:
    """The descriptor of a file that one creates has the access asked for, whatever the new mode says."""

    def created(path: Path, mode: int) -> object:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            return [os.write(fd, b"text"), os.pread(fd, 9, 0), tried(os.ftruncate, fd, 2), os.fstat(fd)]
        finally:
            os.close(fd)

    def operation(root: Path) -> Cases:
        directory(root / "d")
        for mode in (0o000, 0o444, 0o200, 0o600):
            path = root / "d" / f"{mode:o}"
            yield f"{mode:o}", [by(ALICE, created, path, mode), look(path), by(ALICE, open_and_close, path, os.O_RDWR)]
        place = directory(root / "closed", mode=0o755)
        yield "closed directory", by(ALICE, created, place / "x", 0o666)
        make("file", place / "there", mode=0o666)
        yield "what exists in a closed directory", by(ALICE, open_and_close, place / "there", os.O_RDWR | os.O_CREAT)
        yield "and must not exist", by(ALICE, open_and_close, place / "there", os.O_RDWR | os.O_CREAT | os.O_EXCL)

    both(operation)


@pytest.mark.needs_root
def test_sticky_directories_protect_from_o_creat(both: Both) -> None:
    """protected_regular and protected_fifos: O_CREAT on somebody else's file in a sticky directory."""

    def operation(root: Path) -> Cases:
        for mode, parent, owner in itertools.product((0o1777, 0o1775, 0o777), (0, ALICE.uid), (ALICE, BOB)):
            place = directory(root / f"{mode:o}{parent}{owner.uid}", mode=mode)
            os.chown(place, parent, 0)
            place.chmod(mode)
            for kind in ("file", "fifo"):
                path = make(kind, place / kind, mode=0o666, owner=owner)
                flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
                for name, user in USERS.items():
                    yield f"{place.name} {kind} {name}", by(user, open_and_close, path, flags)

    both(operation)


def test_a_mode_after_permission_is_gone(both: Both) -> None:
    """Rights are checked at open: what is open stays usable."""

    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        fd = os.open(path, os.O_RDWR)
        path.chmod(0)
        yield "use", [os.write(fd, b"xyz"), os.pread(fd, 10, 0), tried(os.ftruncate, fd, 1), os.fstat(fd)]
        os.close(fd)

    both(operation)


def test_what_descriptors_allow(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        place = directory(root / "place")
        for label, target, flags in (
            ("r", path, os.O_RDONLY),
            ("w", path, os.O_WRONLY),
            ("rw", path, os.O_RDWR),
            ("path", path, os.O_PATH),
            ("append", path, os.O_RDWR | os.O_APPEND),
            ("directory", place, os.O_RDONLY | os.O_DIRECTORY),
        ):
            fd = os.open(target, flags)
            yield (
                label,
                [
                    tried(os.pread, fd, 3, 0),
                    tried(os.pwrite, fd, b"z", 1),
                    tried(os.ftruncate, fd, 6),
                    tried(os.lseek, fd, 2, os.SEEK_SET) if label != "directory" else None,
                    tried(os.fsync, fd),
                    tried(os.fdatasync, fd),
                    tried(os.setxattr, fd, "user.x", b"y"),
                    os.fstat(fd),
                ],
            )
            os.close(fd)

    both(operation)


def test_truncating_on_open(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for size in (0, 1, 4096, 300_000):
            path = root / str(size)
            path.write_bytes(os.urandom(1) * size)
            reader = os.open(path, os.O_RDONLY)
            yield (
                f"{size}",
                [open_and_close(path, os.O_WRONLY | os.O_TRUNC), look(path), os.fstat(reader), os.read(reader, 9)],
            )
            path.write_bytes(b"again")
            yield f"{size} again", [os.read(reader, 9), os.fstat(reader)]
            os.close(reader)

    both(operation)


def test_appending(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        one = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        two = os.open(path, os.O_WRONLY | os.O_APPEND)
        plain = os.open(path, os.O_RDWR)
        for turn in range(20):
            os.write(one, b"one%d" % turn)
            os.write(two, b"two%d" % turn)
            os.lseek(one, 0, os.SEEK_SET)
        yield "in turns", [path.read_bytes(), look(path)]
        yield "pwrite appends too", [os.pwrite(one, b"END", 0), path.read_bytes()[-3:], os.lseek(one, 0, os.SEEK_CUR)]
        yield "not this one", [os.pwrite(plain, b"###", 0), path.read_bytes()[:4]]
        os.truncate(path, 5)
        yield "after truncate", [os.write(two, b"x"), path.read_bytes(), os.write(one, b"y"), path.read_bytes()]
        for fd in (one, two, plain):
            os.close(fd)

    both(operation)


def test_synchronous_flags(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for label, flag in (("sync", os.O_SYNC), ("dsync", os.O_DSYNC), ("rsync", os.O_RSYNC)):
            path = root / label
            fd = os.open(path, os.O_RDWR | os.O_CREAT | flag, 0o644)
            yield label, [os.write(fd, b"x" * 10_000), os.pwrite(fd, b"y", 5), os.fstat(fd), os.pread(fd, 8, 0)]
            os.close(fd)

    both(operation)


def test_direct(both: Both) -> None:
    """O_DIRECT with aligned buffers, mixed with buffered access to the same file."""
    import mmap

    def operation(root: Path) -> Cases:
        buffer = mmap.mmap(-1, 1 << 16)
        buffer.write(bytes(range(256)) * 256)
        path = root / "file"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
        buffered = os.open(path, os.O_RDWR)
        yield "write", [os.pwritev(fd, [buffer], 0), os.fstat(fd)]
        yield "seen buffered", os.pread(buffered, 1 << 17, 0) == buffer[:]
        os.pwrite(buffered, b"BUFFERED", 4096)
        into = mmap.mmap(-1, 4096)
        yield "seen directly", [os.preadv(fd, [into], 4096), into[:16]]
        yield "past the end", os.preadv(fd, [into], 1 << 16)
        yield "far away", [os.pwritev(fd, [buffer], 1 << 24), os.fstat(fd)]
        yield "hole", [os.preadv(fd, [into], 1 << 20), into[:4096] == bytes(4096)]
        os.truncate(path, 5000)
        yield "short", [os.preadv(fd, [into], 4096), os.fstat(fd)]
        os.close(fd)
        os.close(buffered)
        yield "appending", appended(path, buffer)

    both(operation)


def appended(path: Path, buffer: object) -> object:
    """O_DIRECT and O_APPEND together."""
    os.truncate(path, 4096)
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_APPEND)
    try:
        return [os.writev(fd, [buffer]), os.fstat(fd)]
    finally:
        os.close(fd)


def test_temporary_files_without_a_name(both: Both) -> None:
    def operation(root: Path) -> Cases:
        yield "O_TMPFILE", tried(open_and_close, root, O_TMPFILE | os.O_RDWR, 0o600)

    both.documented(
        operation, mount="ENOTSUP", plain="opened", why="the FUSE library has no request for it; programs fall back"
    )


def test_temporary_files_asked_wrongly(both: Both) -> None:
    def operation(root: Path) -> Cases:
        make("file", root / "file")
        yield "read-only", tried(open_and_close, root, O_TMPFILE | os.O_RDONLY)
        yield "on a file", tried(open_and_close, root / "file", O_TMPFILE | os.O_RDWR)
        yield "on nothing", tried(open_and_close, root / "missing", O_TMPFILE | os.O_RDWR)

    both(operation)


def test_running_programs(both: Both) -> None:
    """ETXTBSY both ways, and the execute bit."""

    def run(path: Path) -> object:
        pid = os.posix_spawn(path, [str(path)], {})
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def operation(root: Path) -> Cases:
        path = root / "program"
        path.write_bytes(Path("/bin/true").read_bytes())
        yield "without the bit", tried(run, path)
        path.chmod(0o755)
        yield "with it", tried(run, path)
        fd = os.open(path, os.O_WRONLY)
        yield "while open for writing", tried(run, path)
        os.close(fd)
        yield "closed again", tried(run, path)
        script = root / "script"
        script.write_text("#!/bin/sh\nexit 7\n")
        script.chmod(0o755)
        yield "script", tried(run, script)

    both(operation)
