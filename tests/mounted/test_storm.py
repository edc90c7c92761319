"""Many at once: one file changed in every way at random (as fsx does), and processes that fight over one small tree.

After the fight the tree is whole: link counts are true, everything can be listed and read, and a fresh mount, which
knows nothing that the kernel remembered, shows exactly the same.
"""

import mmap
import os
import random
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import calls
from tests.mounted.both import Both, Cases, tried
from tests.mounted.test_machine import patterned, tree

LARGEST = 400_000
STEPS = 1_000
PROCESSES = 4
FIGHT_S = 4.0
NAMES = [f"{first}{second}" for first in "abc" for second in "xy"]


class OneFile:
    """One file, changed in every way that fsx knows; each step answers something to compare."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.lots = path, random.Random(seed)
        self.buffer = mmap.mmap(-1, LARGEST + 8192)  # aligned, for O_DIRECT
        path.touch()

    def span(self) -> tuple[int, int]:
        start = self.lots.randrange(LARGEST)
        return start, self.lots.choice((1, 100, 4096, self.lots.randrange(1, 70_000)))

    def write(self, flags: int = 0) -> object:
        start, length = self.span()
        fd = os.open(self.path, os.O_RDWR | flags)
        try:
            return os.pwrite(fd, patterned(length, self.lots.randrange(256)), start)
        finally:
            os.close(fd)

    def write_direct(self) -> object:
        start, length = (number // 4096 * 4096 for number in self.span())
        self.buffer[: length + 4096] = patterned(length + 4096, self.lots.randrange(256))
        fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        try:
            return os.pwritev(fd, [memoryview(self.buffer)[: length + 4096]], start)
        finally:
            os.close(fd)

    def read_direct(self) -> object:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        try:
            count = os.preadv(fd, [memoryview(self.buffer)[: LARGEST // 4096 * 4096]], 0)
            return self.buffer[:count]
        finally:
            os.close(fd)

    def write_mapped(self) -> object:
        start, length = self.span()
        fd = os.open(self.path, os.O_RDWR)
        try:
            size = os.fstat(fd).st_size
            if start < size:
                with mmap.mmap(fd, 0) as view:
                    end = min(size, start + length)
                    view[start:end] = patterned(end - start, self.lots.randrange(256))
                    return view[start - start % 4096 : end + 10]
            return size
        finally:
            os.close(fd)

    def read(self) -> object:
        start, length = self.span()
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), length, start)

    def truncate(self) -> object:
        os.truncate(self.path, self.lots.randrange(LARGEST))
        return self.path.stat().st_size

    def sync(self) -> object:
        with self.path.open("rb") as file:
            return os.fsync(file.fileno())

    def copy(self) -> object:
        (start, length), target = self.span(), self.lots.randrange(LARGEST)
        fd = os.open(self.path, os.O_RDWR)
        try:
            return tried(os.copy_file_range, fd, fd, length, start, target)
        finally:
            os.close(fd)

    def forget(self) -> object:
        """Drop clean pages, so that the next read asks the daemon."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            return os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def step(self) -> tuple[str, object]:
        actions = (self.write, self.write, self.write_direct, self.read_direct, self.write_mapped, self.write_mapped)
        action = self.lots.choice((*actions, self.read, self.truncate, self.sync, self.copy, self.forget))
        return action.__name__, action()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_file_in_every_way(both: Both, request: pytest.FixtureRequest, seed: int) -> None:
    rounds = request.config.getoption("--rounds", default=0) or 1

    def operation(root: Path) -> Cases:
        for turn in range(rounds):
            one = OneFile(root / f"file{turn}", seed * 1000 + turn)
            for number in range(STEPS):
                name, answer = one.step()
                yield f"{turn} {number} {name}", hash(answer) if isinstance(answer, bytes) else answer
                if number % 50 == 49:
                    yield f"{turn} {number} all", hash(one.path.read_bytes())

    both(operation)


def fight(place: Path, seed: int, end: float) -> None:
    """Change a small tree at random until time is over; only errors that rivals explain may come."""
    lots = random.Random(seed)
    allowed = {"ENOENT", "EEXIST", "ENOTEMPTY", "ENOTDIR", "EISDIR", "EINVAL", "ELOOP", "EPERM"}

    def anywhere() -> Path:
        return place.joinpath(*lots.choices(NAMES, k=lots.choice((1, 1, 2, 3))))

    def write(path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            os.pwrite(fd, patterned(lots.randrange(30_000), lots.randrange(256)), lots.randrange(50_000))
            if lots.random() < 0.1:
                os.fsync(fd)
        finally:
            os.close(fd)

    actions: list[Callable[[], object]] = [
        lambda: write(anywhere()),
        lambda: write(anywhere()),
        lambda: os.mkdir(anywhere()),
        lambda: os.rename(anywhere(), anywhere()),
        lambda: calls.renameat2(anywhere(), anywhere(), calls.RENAME_EXCHANGE),
        lambda: calls.renameat2(anywhere(), anywhere(), calls.RENAME_NOREPLACE),
        lambda: os.link(anywhere(), anywhere(), follow_symlinks=False),
        lambda: os.unlink(anywhere()),
        lambda: os.rmdir(anywhere()),
        lambda: os.truncate(anywhere(), lots.randrange(60_000)),
        lambda: os.chmod(anywhere(), 0o700 | lots.randrange(0o77)),
        lambda: os.symlink(lots.choice(NAMES), anywhere()),
        lambda: os.setxattr(anywhere(), "user.x", patterned(20, lots.randrange(256))),
        lambda: os.listdir(anywhere()),
        lambda: anywhere().read_bytes(),
    ]
    while time.monotonic() < end:
        answer = tried(lots.choice(actions))
        assert not isinstance(answer, str) or answer in allowed, answer


def untrue_counts(place: Path) -> list[str]:
    """Files whose link count is not how many names they have; directories: not two and one for each directory in it."""
    found = {path: os.lstat(path) for path in place.rglob("*")}
    names = Counter(state.st_ino for state in found.values())
    children = Counter(path.parent for path, state in found.items() if stat.S_ISDIR(state.st_mode))
    wrong = []
    for path, state in found.items():
        expected = 2 + children[path] if stat.S_ISDIR(state.st_mode) else names[state.st_ino]
        if state.st_nlink != expected:
            wrong.append(f"{path.relative_to(place)}: {state.st_nlink} links, not {expected}")
    return wrong


def test_processes_that_fight_over_one_tree(request: pytest.FixtureRequest, mount_root: Path, stand_in: bool) -> None:
    vault = None if stand_in else request.getfixturevalue("vault")
    root = mount_root / "fight"
    root.mkdir()
    for turn in range(request.config.getoption("--rounds", default=0) or 1):
        place = root / f"turn{turn}"
        place.mkdir()
        end = time.monotonic() + FIGHT_S
        pids = []
        for number in range(PROCESSES):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    fight(place, turn * PROCESSES + number, end)
                    status = 0
                except AssertionError as error:
                    os.write(2, f"{error}\n".encode())
                finally:
                    os._exit(status)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * PROCESSES
        assert not untrue_counts(place)
        before = tree(place)
        if vault is not None:
            vault.unmount()
            vault.mount()
        after = tree(place)
        assert before.keys() == after.keys()
        assert not {path: (seen, after[path]) for path, seen in before.items() if after[path] != seen}
        assert not untrue_counts(place)
    shutil.rmtree(root)
