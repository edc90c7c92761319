"""Load and time: eight processes that do everything at once, for ``--minutes``, while packs ship, a file of very many
extents is deleted and the daemon is stopped and continued. What they wrote is right all the time and afterwards; the
daemon's memory, descriptors and threads stay bounded; no request starves.
"""

import hashlib
import json
import mmap
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mounted.calls import RENAME_EXCHANGE, renameat2
from tests.mounted.test_machine import patterned
from tests.mounted.vault import Vault, mounted

pytestmark = pytest.mark.soak
PROCESSES = 8
FILES = 40  # of one process
PAUSE_S = 0.002  # between two operations of one process
SAMPLE_S = 1.0
STOP_S = 3.0
EXTENTS = 200_000
SPARSE_STRIDE = 8192  # so that no two writes meet in one page
AFTER_DELETE_S = 15.0
RSS_GROWTH_BYTES = 150 << 20  # from the end of the first third to the end
FILES_OPEN_MOST, THREADS_MOST = 600, 80
P99_S = 1.0
MIB = 1 << 20


@dataclass(slots=True)
class Worker:
    """One process: its files, what they must hold, and how long its calls took."""

    place: Path
    lots: random.Random
    kept: dict[str, bytes] = field(default_factory=dict)
    took: list[tuple[float, str, float]] = field(default_factory=list)  # when it began, what, how long

    def choose(self) -> tuple[str, bytes]:
        name = self.lots.choice(sorted(self.kept))
        return name, self.kept[name]

    def some_bytes(self) -> bytes:
        length = self.lots.choice((0, 10, 4096, 30_000, 100_000, self.lots.randrange(1, 700_000)))
        return patterned(length, self.lots.randrange(256))

    def create(self) -> None:
        if len(self.kept) >= FILES:
            return
        name = f"f{self.lots.randrange(10**9)}"
        data = self.some_bytes()
        (self.place / name).write_bytes(data)
        self.kept[name] = data

    def replace(self) -> None:
        name, _ = self.choose()
        data, fresh = self.some_bytes(), self.place / ".new"
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, self.place / name)
        self.kept[name] = data

    def overwrite(self) -> None:
        name, data = self.choose()
        part, start = self.some_bytes()[:50_000], self.lots.randrange(len(data) + 5000)
        with (self.place / name).open("r+b") as file:
            file.seek(start)
            file.write(part)
        if part:
            grown = data.ljust(start, b"\0")
            self.kept[name] = grown[:start] + part + grown[start + len(part) :]

    def append(self) -> None:
        name, data = self.choose()
        part = self.some_bytes()[:20_000]
        with (self.place / name).open("ab") as file:
            file.write(part)
        self.kept[name] = data + part

    def truncate(self) -> None:
        name, data = self.choose()
        length = self.lots.randrange(len(data) + 10_000)
        os.truncate(self.place / name, length)
        self.kept[name] = data[:length].ljust(length, b"\0")

    def map(self) -> None:
        name, data = self.choose()
        if not data:
            return
        start = self.lots.randrange(len(data))
        part = patterned(min(9000, len(data) - start), self.lots.randrange(256))
        with (self.place / name).open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[start : start + len(part)] = part
        self.kept[name] = data[:start] + part + data[start + len(part) :]

    def read(self) -> None:
        name, data = self.choose()
        found = (self.place / name).read_bytes()
        assert found == data, f"{name}: {len(found)} bytes, not the {len(data)} that were written"

    def read_cold(self) -> None:
        name, data = self.choose()
        with (self.place / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == data, name

    def rename(self) -> None:
        (one, first), (other, second) = self.choose(), self.choose()
        if one != other:
            renameat2(self.place / one, self.place / other, RENAME_EXCHANGE)
            self.kept[one], self.kept[other] = second, first

    def delete(self) -> None:
        if len(self.kept) > FILES // 2:
            name, _ = self.choose()
            os.unlink(self.place / name)
            del self.kept[name]

    def attributes(self) -> None:
        name, data = self.choose()
        os.setxattr(self.place / name, "user.sum", hashlib.sha256(data[:100]).digest())
        os.utime(self.place / name)
        os.chmod(self.place / name, 0o600 | self.lots.randrange(0o100))

    def list(self) -> None:
        assert set(os.listdir(self.place)) == set(self.kept)

    def stat(self) -> None:
        name, data = self.choose()
        assert (self.place / name).stat().st_size == len(data)

    def directories(self) -> None:
        tree = self.place.with_name(f"{self.place.name}-tree")
        (tree / "a" / "b").mkdir(parents=True, exist_ok=True)
        (tree / "a" / "b" / "c").symlink_to("nowhere")
        os.rename(tree / "a" / "b", tree / "moved")
        os.unlink(tree / "moved" / "c")
        os.removedirs(tree / "moved")
        os.rmdir(tree / "a") if (tree / "a").exists() else None

    def work(self, until: float) -> None:
        self.place.mkdir()
        self.create()
        every: list[Callable[[], None]] = [
            *(self.create, self.create, self.replace, self.overwrite, self.overwrite, self.append, self.truncate),
            *(self.map, self.read, self.read, self.read_cold, self.rename, self.delete, self.attributes, self.list),
            *(self.stat, self.stat, self.directories),
        ]
        while time.monotonic() < until:
            action = self.lots.choice(every)
            began = time.monotonic()
            action()
            self.took.append((began, action.__name__, time.monotonic() - began))
            time.sleep(PAUSE_S)  # the machine is not ours alone
        for name, data in self.kept.items():
            assert (self.place / name).read_bytes() == data, name


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon's process at one moment."""

    at: float
    rss: int
    files: int
    threads: int


def sample(pid: int) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    rss = int(status["VmRSS"].split()[0]) * 1024
    return Sample(time.monotonic(), rss, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def make_sparse(path: Path) -> None:
    """A file of EXTENTS extents."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    for number in range(EXTENTS):
        os.pwrite(fd, b"x", number * SPARSE_STRIDE)
    os.fsync(fd)
    os.close(fd)


@pytest.fixture
def drive(scratch: Path) -> Iterator[Vault]:
    base = scratch / "soak"
    base.mkdir()
    with mounted(base, "--cache-size", "512M") as vault:
        yield vault


def start(drive: Vault, number: int, until: float) -> int:
    """A worker in a process of its own; its figures go into a file."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    worker = Worker(drive.mountpoint / f"worker{number}", random.Random(number))
    try:
        worker.work(until)
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in worker.kept.items()}
        (drive.base / f"worker{number}.json").write_text(json.dumps([worker.took, sums]))
        status = 0
    except BaseException as error:
        os.write(2, f"worker {number}: {type(error).__name__}: {str(error)[:300]}\n".encode())
    finally:
        os._exit(status)


def test_everything_at_once(drive: Vault, request: pytest.FixtureRequest) -> None:
    minutes = float(request.config.getoption("--minutes"))
    assert drive.daemon is not None
    sparse = drive.mountpoint / "sparse"
    made = time.monotonic()
    make_sparse(sparse)
    made = time.monotonic() - made
    began = time.monotonic()
    until = began + minutes * 60
    pids = [start(drive, number, until) for number in range(PROCESSES)]
    samples: list[Sample] = []
    stops: list[float] = []
    deleted = 0.0
    stop_at = [began + minutes * 60 * share for share in (0.3, 0.6, 0.8)]
    while time.monotonic() < until:
        assert drive.daemon.poll() is None, drive.said()
        samples.append(sample(drive.daemon.pid))
        if not deleted and time.monotonic() > began + minutes * 60 * 0.4:
            deleted = time.monotonic()
            sparse.unlink()
        if stop_at and time.monotonic() > stop_at[0]:
            stop_at.pop(0)
            stops.append(time.monotonic())
            drive.daemon.send_signal(signal.SIGSTOP)
            time.sleep(STOP_S)
            drive.daemon.send_signal(signal.SIGCONT)
        time.sleep(SAMPLE_S)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * PROCESSES, drive.said()
    samples.append(sample(drive.daemon.pid))
    told = [json.loads((drive.base / f"worker{number}.json").read_text()) for number in range(PROCESSES)]
    report(samples, [call for took, _ in told for call in took], stops, deleted, made)
    same_as_written(drive, [sums for _, sums in told])
    drive.unmount("--wait")
    drive.mount()
    same_as_written(drive, [sums for _, sums in told])
    assert drive.new_complaints() == []


def report(
    samples: list[Sample], calls: list[tuple[float, str, float]], stops: list[float], deleted: float, made: float
) -> None:
    """Print, then hold against the limits."""
    third = samples[len(samples) // 3]
    for one in (samples[0], third, samples[2 * len(samples) // 3], samples[-1]):
        print(f"at {one.at - samples[0].at:5.0f} s: {one.rss / MIB:.0f} MiB, {one.files} files, {one.threads} threads")
    print(f"most: {max(s.rss for s in samples) / MIB:.0f} MiB; {EXTENTS} extents made in {made:.1f} s")
    free = [
        call for call in calls if not any(call[0] - 1 < stop + STOP_S and call[0] + call[2] > stop for stop in stops)
    ]
    windows = {"all": free, "after the delete": [c for c in free if deleted <= c[0] < deleted + AFTER_DELETE_S]}
    for name, found in windows.items():
        values = [took for _, _, took in found]
        figures = (statistics.median(values), percentile(values, 0.99), max(values))
        print(f"{name}: {len(values)} operations, median, p99, longest:", *(f"{1000 * f:.1f} ms" for f in figures))
    for kind in sorted({kind for _, kind, _ in free}):
        values = [took for _, each, took in free if each == kind]
        print(f"  {kind}: {len(values)}, p99", *(f"{1000 * f:.0f} ms" for f in (percentile(values, 0.99), max(values))))
    assert samples[-1].rss - third.rss < RSS_GROWTH_BYTES
    assert max(one.files for one in samples) <= FILES_OPEN_MOST
    assert max(one.threads for one in samples) <= THREADS_MOST
    assert percentile([took for _, _, took in free], 0.99) < P99_S


def same_as_written(drive: Vault, sums: list[dict[str, str]]) -> None:
    for number, expected in enumerate(sums):
        place = drive.mountpoint / f"worker{number}"
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}
        assert found == expected, f"worker {number}"
