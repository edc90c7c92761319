"""A state machine: the mount and a plain directory are driven with the same operations and must stay the same.

Among the operations: unmounting and mounting again in order, and, once everything is fsynced, ``kill -9`` of the daemon
and mounting again. Contents, stat, xattrs, link counts and every errno are compared. ``--rounds N`` runs N examples.
"""

import hashlib
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.mounted import calls
from tests.mounted.both import Tally, comparable, tally, tried
from tests.mounted.vault import Vault, mounted

EXAMPLES, STEPS = 5, 50
RARELY = st.sampled_from([False, False, True])  # mounting again takes more than a second
NAMES = ("a", "b", "c", "d", "ü" * 127, "e e")
LARGEST = 600_000
names = st.sampled_from(NAMES)
places = st.tuples(st.integers(0, 99), names)  # see Machine.path
offsets = st.one_of(st.integers(0, 20_000), st.integers(0, LARGEST), st.sampled_from([0, 4095, 4096, 65_536, 262_144]))
lengths = st.one_of(st.integers(0, 300), st.sampled_from([4096, 10_000, 65_537, 300_000]))
modes = st.sampled_from([0o600, 0o644, 0o755, 0o4755, 0o2775, 0o1777, 0o000])
Place = tuple[int, str]
flags = st.sampled_from([0, calls.RENAME_NOREPLACE, calls.RENAME_EXCHANGE])
times_ns = st.integers(-(2**31) * 10**9, 2**32 * 10**9)
seeds = st.integers(0, 255)


class World:
    """What outlives one example: the vault and the plain directory."""

    vault: ClassVar[Vault | None] = None
    mount: ClassVar[Path]
    plain: ClassVar[Path]
    numbers: ClassVar[Iterator[int]] = count()
    tally: ClassVar[Tally] = tally


def patterned(length: int, seed: int) -> bytes:
    """Bytes that are not all alike, so that a shifted one shows."""
    return (bytes((seed, *range(251))) * (length // 252 + 1))[:length]


def write_at(path: Path, offset: int, data: bytes, extra: int = 0) -> object:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | extra, 0o644)
    try:
        return [os.pwrite(fd, data, offset), os.fstat(fd)]
    finally:
        os.close(fd)


def write_mapped(path: Path, offset: int, data: bytes) -> object:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        if not size or not data:
            return size
        with mmap.mmap(fd, size) as view:
            place = offset % size
            part = data[: size - place]
            view[place : place + len(part)] = part
        return os.fstat(fd)
    finally:
        os.close(fd)


def read_at(path: Path, offset: int, length: int) -> object:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def synced(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def tree(root: Path) -> dict[str, object]:
    """Everything below ``root``: stat, times that were set, xattrs, targets, a digest of contents."""
    found: dict[str, object] = {}
    for path in (root, *sorted(root.rglob("*"))):
        state = os.lstat(path)
        seen: list[object] = [comparable(state, root)]
        if not path.is_symlink():
            seen.append({name: os.getxattr(path, name) for name in sorted(os.listxattr(path))})
        if stat.S_ISREG(state.st_mode):
            seen.append(hashlib.sha256(path.read_bytes()).hexdigest())
        elif stat.S_ISLNK(state.st_mode):
            seen.append(os.readlink(path))
        found[str(path.relative_to(root))] = seen
    return found


class Machine(RuleBasedStateMachine):
    """One example works in a fresh directory on both sides; open descriptors are kept in pairs."""

    @initialize()
    def begin(self) -> None:
        name = f"example{next(World.numbers)}"
        self.roots = (World.mount / name, World.plain / name)
        self.open_files: list[tuple[int, int]] = []
        for root in self.roots:
            (root / "d").mkdir(parents=True)
            for path in ("a", "b", "d/c"):
                (root / path).write_bytes(patterned(20_000, len(path)))

    def at(self, root: Path, place: Place) -> Path:
        """Mostly something that is there, else a name in a directory that is there: random names would rarely meet."""
        number, name = place
        there = sorted(path.relative_to(self.roots[1]) for path in self.roots[1].rglob("*"))
        if number < 60 and there:
            return root / there[number % len(there)]
        directories = [Path(), *(path for path in there if (self.roots[1] / path).is_dir())]
        return root / directories[number % len(directories)] / name

    def agree(self, call: Callable[[Path], object]) -> object:
        """Do it on both sides; the answers must be equal."""
        answers = [comparable(tried(call, root), root) for root in self.roots]
        World.tally.cases += 1
        assert answers[0] == answers[1], f"the mount says {answers[0]}, plain says {answers[1]}"
        return answers[1]

    @rule(
        path=places,
        offset=offsets,
        length=lengths,
        seed=seeds,
        extra=st.sampled_from([0, os.O_TRUNC, os.O_EXCL, os.O_APPEND, os.O_SYNC]),
    )
    def write(self, path: Place, offset: int, length: int, seed: int, extra: int) -> None:
        self.agree(lambda root: write_at(self.at(root, path), offset, patterned(length, seed), extra))

    @rule(path=places, offset=offsets, length=lengths, seed=seeds)
    def map_and_write(self, path: Place, offset: int, length: int, seed: int) -> None:
        self.agree(lambda root: write_mapped(self.at(root, path), offset, patterned(length, seed)))

    @rule(path=places, offset=offsets, length=lengths)
    def read(self, path: Place, offset: int, length: int) -> None:
        self.agree(lambda root: read_at(self.at(root, path), offset, length))

    @rule(path=places, size=offsets)
    def truncate(self, path: Place, size: int) -> None:
        self.agree(lambda root: os.truncate(self.at(root, path), size))

    @rule(source=places, new=places, how=flags)
    def rename(self, source: Place, new: Place, how: int) -> None:
        self.agree(lambda root: calls.renameat2(self.at(root, source), self.at(root, new), how))

    @rule(source=places, new=places)
    def link(self, source: Place, new: Place) -> None:
        self.agree(lambda root: os.link(self.at(root, source), self.at(root, new), follow_symlinks=False))

    @rule(path=places, text=st.sampled_from(["a", "../b", "nowhere", ".", "c/d", "x" * 250]))
    def symlink(self, path: Place, text: str) -> None:
        self.agree(lambda root: os.symlink(text, self.at(root, path)))

    @rule(path=places)
    def unlink(self, path: Place) -> None:
        self.agree(lambda root: os.unlink(self.at(root, path)))

    @rule(path=places)
    def mkdir(self, path: Place) -> None:
        self.agree(lambda root: os.mkdir(self.at(root, path)))

    @rule(path=places)
    def rmdir(self, path: Place) -> None:
        self.agree(lambda root: os.rmdir(self.at(root, path)))

    @rule(path=places, mode=modes)
    def chmod(self, path: Place, mode: int) -> None:
        self.agree(lambda root: os.chmod(self.at(root, path), mode))

    @rule(path=places, atime=times_ns, mtime=times_ns)
    def utime(self, path: Place, atime: int, mtime: int) -> None:
        def call(root: Path) -> object:
            target = self.at(root, path)
            os.utime(target, ns=(atime, mtime), follow_symlinks=False)
            found = os.lstat(target)
            return [found.st_atime_ns, found.st_mtime_ns]

        self.agree(call)

    @rule(
        path=places,
        name=st.sampled_from(["user.a", "user.b"]),
        value=st.binary(max_size=200),
        how=st.sampled_from([0, 1, 2]),
    )
    def setxattr(self, path: Place, name: str, value: bytes, how: int) -> None:
        self.agree(lambda root: os.setxattr(self.at(root, path), name, value, how))

    @rule(path=places, name=st.sampled_from(["user.a", "user.b"]))
    def removexattr(self, path: Place, name: str) -> None:
        self.agree(lambda root: os.removexattr(self.at(root, path), name))

    @rule(path=places)
    def listing(self, path: Place) -> None:
        self.agree(lambda root: sorted(os.listdir(self.at(root, path))))

    @rule(path=places)
    def fsync(self, path: Place) -> None:
        self.agree(lambda root: synced(self.at(root, path)))

    @rule(path=places)
    def open(self, path: Place) -> None:
        answers = [tried(os.open, self.at(root, path), os.O_RDWR | os.O_NOFOLLOW) for root in self.roots]
        if all(isinstance(answer, int) for answer in answers):
            self.open_files.append((answers[0], answers[1]))
        else:
            assert answers[0] == answers[1], answers

    @rule(which=st.integers(0, 9), offset=offsets, length=lengths, seed=seeds)
    def write_open(self, which: int, offset: int, length: int, seed: int) -> None:
        if self.open_files:
            pair = self.open_files[which % len(self.open_files)]
            answers = [
                [os.pwrite(fd, patterned(length, seed), offset), comparable(os.fstat(fd), self.roots[0])] for fd in pair
            ]
            assert answers[0] == answers[1], answers
            contents = [os.pread(fd, 2 * LARGEST, 0) for fd in pair]
            assert contents[0] == contents[1]

    @rule()
    def close_all(self) -> None:
        for pair in self.open_files:
            for fd in pair:
                os.close(fd)
        self.open_files = []

    @rule(really=RARELY)
    def remount(self, *, really: bool) -> None:
        self.close_all()
        if World.vault is not None and really:
            World.vault.unmount()
            World.vault.mount()
        self.compare()

    @rule(really=RARELY)
    def sync_and_kill(self, *, really: bool) -> None:
        """Everything fsynced: files, and the directories that hold their names."""
        self.close_all()
        root = self.roots[0]
        for path in (root.parent, root, *root.rglob("*")):
            if stat.S_IFMT(os.lstat(path).st_mode) in {stat.S_IFREG, stat.S_IFDIR}:
                synced(path)
        if World.vault is not None and really:
            World.vault.kill()
            World.vault.mount()
        self.compare()

    @invariant()
    def same_names(self) -> None:
        if hasattr(self, "roots"):
            self.agree(lambda root: sorted(os.listdir(root)))

    def compare(self) -> None:
        """The two trees in full."""
        on_mount, on_plain = (tree(root) for root in self.roots)
        World.tally.cases += len(on_plain)
        assert on_mount.keys() == on_plain.keys(), on_mount.keys() ^ on_plain.keys()
        wrong = {path: (on_mount[path], seen) for path, seen in on_plain.items() if on_mount[path] != seen}
        assert not wrong, wrong

    def teardown(self) -> None:
        if hasattr(self, "roots"):
            self.close_all()
            try:
                self.compare()
            finally:
                for root in self.roots:
                    shutil.rmtree(root)


@pytest.fixture
def world(scratch: Path, stand_in: bool) -> Iterator[None]:
    """A vault of its own, because it is killed and mounted again."""
    base = scratch / "machine"
    base.mkdir()
    World.plain = base / "plain"
    World.plain.mkdir()
    if stand_in:
        World.vault, World.mount = None, base / "other"
        World.mount.mkdir()
        yield
        return
    with mounted(base) as vault:
        World.vault, World.mount = vault, vault.mountpoint
        yield
        complaints = vault.new_complaints()
    World.vault = None
    assert not complaints, "\n".join(complaints)


@pytest.mark.usefixtures("world")
def test_the_mount_is_a_directory_like_any_other(request: pytest.FixtureRequest) -> None:
    """Longer with ``--rounds``."""
    examples = request.config.getoption("--rounds", default=0) or EXAMPLES
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=examples == EXAMPLES,
            database=None,
        ),
    )
