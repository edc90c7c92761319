"""Arguments that make no sense, and calls that few programs make: bad addresses and flags, other file systems, vectors
with flags, statx, getdents, openat2, splice, leases, ioctls. (pjdfstest's EFAULT, EXDEV and EINVAL; LTP's syscalls.)
"""

import ctypes
import fcntl
import os
import signal
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.both import ALICE, Both, Cases, by, look, open_and_close, tried
from tests.mounted.calls import AT_EMPTY_PATH, AT_FDCWD, checked, libc
from tests.mounted.things import NODES, directory, make

BAD = ctypes.c_void_p(1)
SYS_STATX, SYS_GETDENTS64, SYS_OPENAT2, SYS_COPY_FILE_RANGE = 332, 217, 437, 326  # x86-64
AT_EACCESS = 0x200
FICLONE, FICLONERANGE, FS_IOC_GETFLAGS, FS_IOC_FIEMAP, FIONREAD = 0x40049409, 0x4020940D, 0x80086601, 0xC020660B, 0x541B
RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND = 1, 2, 4, 8, 16
BASIC_STATS, BTIME = 0x7FF, 0x800
STATX = struct.Struct("=IIQIIIHxxQQQQqIiqIiqIiqIi")  # mask to mode, ino, size, blocks, attributes; the four times
assert STATX.size == 128
libc.syscall.restype = ctypes.c_long


def test_bad_addresses(both: Both) -> None:
    """EFAULT from whatever reads or writes through a pointer."""

    def operation(root: Path) -> Cases:
        path, new = os.fsencode(make("file", root / "file")), os.fsencode(root / "new")
        fd = os.open(path, os.O_RDWR)
        place = os.open(root, os.O_RDONLY)
        calls: dict[str, Callable[[], int]] = {
            "open": lambda: libc.open(BAD, os.O_RDONLY),
            "creat": lambda: libc.open(BAD, os.O_CREAT | os.O_WRONLY, 0o600),
            "mkdir": lambda: libc.mkdir(BAD, 0o700),
            "mkfifo": lambda: libc.mkfifo(BAD, 0o700),
            "mknod": lambda: libc.mknod(BAD, stat.S_IFREG, 0),
            "rmdir": lambda: libc.rmdir(BAD),
            "unlink": lambda: libc.unlink(BAD),
            "link from": lambda: libc.link(BAD, new),
            "link to": lambda: libc.link(path, BAD),
            "symlink target": lambda: libc.symlink(BAD, new),
            "symlink name": lambda: libc.symlink(b"x", BAD),
            "rename from": lambda: libc.rename(BAD, new),
            "rename to": lambda: libc.rename(path, BAD),
            "chmod": lambda: libc.chmod(BAD, 0o600),
            "chown": lambda: libc.chown(BAD, 0, 0),
            "lchown": lambda: libc.lchown(BAD, 0, 0),
            "truncate": lambda: libc.truncate(BAD, 0),
            "access": lambda: libc.access(BAD, 0),
            "utimensat name": lambda: libc.utimensat(AT_FDCWD, BAD, None, 0),
            "utimensat times": lambda: libc.utimensat(AT_FDCWD, path, BAD, 0),
            "readlink name": lambda: libc.readlink(BAD, ctypes.create_string_buffer(9), 9),
            "statfs": lambda: libc.statfs(path, BAD),
            "statx": lambda: libc.syscall(SYS_STATX, AT_FDCWD, path, 0, BASIC_STATS, BAD),
            "read": lambda: libc.read(fd, BAD, 5),
            "write": lambda: libc.write(fd, BAD, 5),
            "readv": lambda: libc.readv(fd, BAD, 2),
            "getdents": lambda: libc.syscall(SYS_GETDENTS64, place, BAD, 4096),
            "setxattr name": lambda: libc.setxattr(path, BAD, b"x", 1, 0),
            "setxattr value": lambda: libc.setxattr(path, b"user.x", BAD, 1, 0),
            "listxattr": lambda: libc.listxattr(path, BAD, 4096),
        }
        os.setxattr(path, "user.there", b"1")
        for label, call in calls.items():
            yield label, [tried(lambda call=call: checked(call())), look(path), look(new)]
        os.close(fd)
        os.close(place)

    both(operation)


def test_a_write_that_faults_in_its_middle(both: Both) -> None:
    """What could be read of the buffer is written, and the size says so."""

    def operation(root: Path) -> Cases:
        fd = os.open(root / "file", os.O_RDWR | os.O_CREAT, 0o600)
        good = ctypes.create_string_buffer(b"g" * 5000, 5000)
        parts = (ctypes.c_uint64 * 4)(ctypes.addressof(good), 5000, 1, 5000)
        yield "good, then bad", [tried(lambda: checked(libc.writev(fd, parts, 2))), os.fstat(fd), os.pread(fd, 9999, 0)]
        parts = (ctypes.c_uint64 * 4)(1, 5000, ctypes.addressof(good), 5000)
        yield "bad, then good", [tried(lambda: checked(libc.writev(fd, parts, 2))), os.fstat(fd)]
        for count in (-1, 0, 1025):
            yield f"{count} parts", tried(lambda count=count: checked(libc.writev(fd, parts, count)))
        os.close(fd)

    both(operation)


def test_flags_that_make_no_sense(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        for label, flags in {
            "access mode 3": 3,
            "all bits": 0x7FFF_FFFF & ~os.O_TMPFILE & ~os.O_DIRECT,
            "append and truncate": os.O_RDONLY | os.O_APPEND | os.O_TRUNC,
            "directory and create": os.O_DIRECTORY | os.O_CREAT,
            "path and more": os.O_PATH | os.O_CREAT | os.O_TRUNC | os.O_RDWR,
        }.items():
            yield label, [tried(open_and_close, path, flags), look(path)]
        for label, call in {
            "linkat": lambda: libc.linkat(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(root / "l"), 1 << 20),
            "unlinkat": lambda: libc.unlinkat(AT_FDCWD, os.fsencode(path), 1 << 20),
            "fchownat": lambda: libc.fchownat(AT_FDCWD, os.fsencode(path), 0, 0, 1 << 20),
            "faccessat": lambda: libc.faccessat(AT_FDCWD, os.fsencode(path), 8, 0),
        }.items():
            yield label, tried(lambda call=call: checked(call()))

    both(operation)


def test_descriptors_that_do_not_fit(both: Both) -> None:
    """Relative calls below what is no directory, or not open; data calls on directories, fifos and closed numbers."""

    def operation(root: Path) -> Cases:
        file, place = os.open(make("file", root / "file"), os.O_RDWR), os.open(root, os.O_RDONLY)
        fifo = os.open(make("fifo", root / "fifo"), os.O_RDWR)
        closed = os.dup(file)
        os.close(closed)
        for label, fd in {"file": file, "fifo": fifo, "closed": closed, "directory": place}.items():
            yield (
                f"below {label}",
                [
                    tried(open_below, fd),
                    tried(os.mkdir, "m", dir_fd=fd),
                    tried(os.stat, "file", dir_fd=fd) if label != "directory" else None,
                    tried(os.unlink, "none", dir_fd=fd),
                    tried(os.rename, "none", "other", src_dir_fd=fd, dst_dir_fd=fd),
                    tried(os.readlink, "none", dir_fd=fd),
                    tried(os.symlink, "x", "s", dir_fd=fd),
                ],
            )
            yield (
                f"data of {label}",
                [
                    tried(os.pread, fd, 3, 0),
                    tried(os.pwrite, fd, b"x", 0),
                    tried(os.ftruncate, fd, 3),
                    tried(os.fsync, fd),
                    tried(os.fdatasync, fd),
                    tried(os.lseek, fd, 0, 9),
                    tried(os.posix_fadvise, fd, 0, 0, os.POSIX_FADV_WILLNEED),
                    tried(os.posix_fadvise, fd, 0, 0, 99),
                    tried(fcntl.flock, fd, 0),
                    tried(lambda fd=fd: checked(libc.sync_file_range(fd, 0, 0, 7))),
                    tried(lambda fd=fd: checked(libc.sync_file_range(fd, 0, 0, 8))),
                    tried(lambda fd=fd: checked(libc.sync_file_range(fd, -1, 0, 1))),
                ],
            )
        for fd in (file, place, fifo):
            os.close(fd)

    both(operation)


def open_below(fd: int) -> str:
    os.close(os.open("file", os.O_RDONLY, dir_fd=fd))
    return "opened"


def test_another_file_system(both: Both, tmp_path: Path) -> None:
    """EXDEV, and copying across."""
    outside = Path("/dev/shm", f"megafs-{os.getpid()}")
    outside.mkdir()

    def operation(root: Path) -> Cases:
        (outside / "out").write_bytes(b"outside" * 1000)
        path, place = make("file", root / "file"), directory(root / "place")
        yield "link out", tried(os.link, path, outside / "in")
        yield "link in", tried(os.link, outside / "out", root / "new")
        yield "rename out", tried(os.rename, path, outside / "in")
        yield "rename in", tried(os.rename, outside / "out", root / "new")
        yield "rename a directory out", tried(os.rename, place, outside / "place")
        with (outside / "out").open("rb") as there, path.open("r+b") as here:
            yield "copy_file_range in", tried(os.copy_file_range, there.fileno(), here.fileno(), 100)
            yield "sendfile in", tried(os.sendfile, here.fileno(), there.fileno(), 0, 7000)
        yield "left", [look(path), path.read_bytes(), sorted(os.listdir(root)), sorted(os.listdir(outside))]

    try:
        both(operation)
    finally:
        (outside / "out").unlink()
        outside.rmdir()


def test_vectors_with_flags(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file", content=b"0123456789")
        fd = os.open(path, os.O_RDWR)
        for flags in (0, RWF_DSYNC, RWF_SYNC, RWF_HIPRI, RWF_DSYNC | RWF_SYNC, 1 << 20):
            yield f"write {flags}", [tried(os.pwritev, fd, [b"ab", b"c"], 2, flags), os.pread(fd, 20, 0)]
            yield f"read {flags}", tried(os.preadv, fd, [bytearray(4)], 1, flags)
        yield "append", [tried(os.pwritev, fd, [b"END"], 0, RWF_APPEND), os.pread(fd, 20, 0), os.fstat(fd)]
        yield "append at -1", [os.lseek(fd, 2, 0), tried(os.pwritev, fd, [b"!"], -1, RWF_APPEND), os.lseek(fd, 0, 1)]
        yield "read at -1", tried(os.preadv, fd, [bytearray(4)], -1, 0)
        yield "read at -2", tried(os.preadv, fd, [bytearray(4)], -2, 0)
        os.close(fd)

    both(operation)


def statx(path: Path, mask: int, flags: int = 0) -> tuple[int, ...]:
    buffer = ctypes.create_string_buffer(256)
    checked(libc.syscall(SYS_STATX, AT_FDCWD, os.fsencode(path), flags, mask, buffer))
    return STATX.unpack_from(buffer.raw)


def test_statx(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in NODES:
            path = make(kind, root / kind)
            found, plain = statx(path, BASIC_STATS, 0x100), os.lstat(path)
            yield (
                kind,
                [
                    found[0] & BASIC_STATS,
                    found[3:7] == (plain.st_nlink, plain.st_uid, plain.st_gid, plain.st_mode),
                    found[7:9] == (plain.st_ino, plain.st_size),
                    found[17] * 10**9 + found[18] == plain.st_ctime_ns,
                    found[20] * 10**9 + found[21] == plain.st_mtime_ns,
                ],
            )
        yield "unknown flag", tried(statx, root, BASIC_STATS, 1 << 20)
        yield "reserved mask", tried(statx, root, 1 << 31)
        yield "missing", tried(statx, root / "missing", BASIC_STATS)

    both(operation)


def test_time_of_birth(both: Both) -> None:
    def operation(root: Path) -> Cases:
        yield "told", bool(statx(make("file", root / "file"), BTIME)[0] & BTIME)

    both.documented(operation, mount=False, plain=True, why="the FUSE library has no request for it")


def test_getdents(both: Both) -> None:
    def getdents(fd: int, room: int) -> int:
        return checked(libc.syscall(SYS_GETDENTS64, fd, ctypes.create_string_buffer(max(room, 1)), room))

    def operation(root: Path) -> Cases:
        place = directory(root / "place")
        make("file", place / ("n" * 200))
        fd, file = os.open(place, os.O_RDONLY), os.open(place / ("n" * 200), os.O_RDONLY)
        yield "no room", [tried(getdents, fd, room) for room in (0, 1, 18)]
        yield "a file", tried(getdents, file, 4096)
        yield "all", [tried(getdents, fd, 4096) > 0, tried(getdents, fd, 4096)]
        (place / ("n" * 200)).unlink()
        place.rmdir()
        os.lseek(fd, 0, os.SEEK_SET)
        yield "removed", tried(getdents, fd, 4096)
        os.close(fd)
        os.close(file)

    both(operation)


def test_openat2(both: Both) -> None:
    """RESOLVE_*: what may not be crossed on the way."""

    def opened(fd: int, path: str, resolve: int, flags: int = os.O_PATH) -> str:
        how = struct.pack("=QQQ", flags, 0, resolve)
        os.close(checked(libc.syscall(SYS_OPENAT2, fd, os.fsencode(path), how, len(how))))
        return "opened"

    def operation(root: Path) -> Cases:
        place = directory(root / "place")
        make("file", place / "file")
        (place / "up").symlink_to("..")
        (place / "soft").symlink_to("file")
        (place / "absolute").symlink_to("/")
        fd = os.open(place, os.O_RDONLY)
        for resolve in (0, 1, 2, 4, 8, 16, 8 | 16, 1 << 20):
            for path in ("file", "soft", "up", "..", "absolute", "/", "../place/file", "missing"):
                yield f"{path} {resolve}", tried(opened, fd, path, resolve)
        os.close(fd)

    both(operation)


@pytest.mark.needs_root
def test_linkat_from_a_descriptor(both: Both) -> None:
    def linked(fd: int, name: Path, flags: int) -> int:
        return checked(libc.linkat(fd, b"", AT_FDCWD, os.fsencode(name), flags))

    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        fd = os.open(path, os.O_RDONLY)
        yield "root", [tried(linked, fd, root / "one", AT_EMPTY_PATH), look(root / "one")]
        yield "without the flag", tried(linked, fd, root / "two", 0)
        path.unlink()
        yield "one link left", [tried(linked, fd, root / "three", AT_EMPTY_PATH), look(root / "three")]
        (root / "one").unlink()
        (root / "three").unlink()
        yield "no link left", [tried(linked, fd, root / "four", AT_EMPTY_PATH), look(root / "four")]
        place = os.open(root, os.O_RDONLY)
        yield "directory", tried(linked, place, root / "five", AT_EMPTY_PATH)
        os.close(place)
        os.close(fd)

    both(operation)


@pytest.mark.needs_root
def test_access_by_real_and_effective_ids(both: Both) -> None:
    """access(2) asks for the real user, AT_EACCESS for the effective one."""

    def operation(root: Path) -> Cases:
        path = make("file", root / "file", mode=0o600, owner=ALICE)
        for label, real, effective in (("root as alice", 0, ALICE.uid), ("alice as root", ALICE.uid, 0)):
            os.setresuid(real, effective, 0)
            try:
                yield (
                    label,
                    [
                        tried(lambda flags=flags: checked(libc.faccessat(AT_FDCWD, os.fsencode(path), 6, flags)))
                        for flags in (0, AT_EACCESS)
                    ],
                )
            finally:
                os.setresuid(0, 0, 0)
        for mode in (0o644, 0o111):
            path.chmod(mode)
            yield (
                f"execute {mode:o}",
                [by(user, os.access, path, os.X_OK) for user in (ALICE,)] + [os.access(path, os.X_OK)],
            )

    both(operation)


def test_pipes(both: Both) -> None:
    """splice and tee: pages between a file and a pipe, and a file that is changed meanwhile stays what it is."""

    def operation(root: Path) -> Cases:
        path, target = make("file", root / "file", content=bytes(range(256)) * 64), root / "target"
        out, into = os.pipe()
        fd, new = os.open(path, os.O_RDWR), os.open(target, os.O_RDWR | os.O_CREAT, 0o600)
        yield "from a file", [os.splice(fd, into, 6000, offset_src=100), os.read(out, 6000)[:5]]
        yield "at the end", os.splice(fd, into, 6000, offset_src=1 << 20)
        os.write(into, b"through the pipe" * 100)
        yield "into a file", [os.splice(out, new, 1600, offset_dst=5000), os.fstat(new), os.pread(new, 40, 4990)]
        os.splice(fd, into, 10, offset_src=0)
        os.write(into, b"not into the page")
        yield "the page stays", [os.pread(fd, 30, 0), os.read(out, 99)]
        appending = os.open(target, os.O_WRONLY | os.O_APPEND)
        os.write(into, b"x")
        yield "into an appending one", tried(os.splice, out, appending, 1)
        for descriptor in (out, into, fd, new, appending):
            os.close(descriptor)

    both(operation)


def test_leases(both: Both) -> None:
    """A file with no other opener may be leased; who opens it then waits or is told."""

    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        fd = os.open(path, os.O_RDONLY)
        for label, kind in (("read", fcntl.F_RDLCK), ("write", fcntl.F_WRLCK), ("none", fcntl.F_UNLCK)):
            yield label, [tried(fcntl.fcntl, fd, fcntl.F_SETLEASE, kind), tried(fcntl.fcntl, fd, fcntl.F_GETLEASE)]
        tried(fcntl.fcntl, fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(fd)

    both(operation)


def test_ioctls(both: Both) -> None:
    """Those that ext4 refuses, or that the kernel answers for any file system."""

    def operation(root: Path) -> Cases:
        path, other = make("file", root / "file", content=b"x" * 8192), make("file", root / "other")
        fd, source = os.open(path, os.O_RDWR), os.open(other, os.O_RDONLY)
        yield "clone", tried(fcntl.ioctl, fd, FICLONE, source)
        yield "clone a range", tried(fcntl.ioctl, fd, FICLONERANGE, struct.pack("=qQQQ", source, 0, 0, 0))
        yield "bytes to read", tried(lambda: struct.unpack("i", fcntl.ioctl(fd, FIONREAD, bytes(4))))
        yield "unknown", tried(fcntl.ioctl, fd, 0x1234)
        os.close(fd)
        os.close(source)

    both(operation)


@pytest.mark.parametrize(
    ("label", "request_number", "argument"),
    [("flags", FS_IOC_GETFLAGS, bytes(8)), ("extents", FS_IOC_FIEMAP, struct.pack("=QQIIII", 0, 1 << 63, 0, 0, 0, 0))],
)
def test_ioctls_of_disk_file_systems(both: Both, label: str, request_number: int, argument: bytes) -> None:
    def operation(root: Path) -> Cases:
        with make("file", root / "file").open("rb") as file:
            answer = tried(fcntl.ioctl, file.fileno(), request_number, argument)
            yield label, answer if isinstance(answer, str) else "answered"

    refusal = "ENOTTY" if label == "flags" else "ENOTSUP"
    both.documented(operation, mount=refusal, plain="answered", why="the FUSE library has no ioctl")


def test_attribute_names_with_a_slash(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        for name in ("user./", "user.a/b", "user.../x", "user.a\tb"):
            yield name, [tried(os.setxattr, path, name, name.encode()), tried(os.getxattr, path, name)]
        yield "all", sorted(os.listxattr(path))

    both(operation)


@pytest.mark.parametrize("large", [False, True])
def test_an_attribute_is_the_old_or_the_new(both: Both, large: bool) -> None:
    """Replaced by one process without end, read by another: never absent, never a mixture."""
    values = [b"a" * 900, b"b" * (3000 if large else 10)]

    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        os.setxattr(path, "user.x", values[0])
        pid = os.fork()
        if pid == 0:
            while True:
                for value in values:
                    os.setxattr(path, "user.x", value)
        seen = {os.getxattr(path, "user.x") for _ in range(2000)}
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        yield "seen", seen <= set(values)
        yield "listed", os.listxattr(path)

    both(operation)
