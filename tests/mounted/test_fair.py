"""Nobody starves: background work goes on while requests come without a pause, and requests are answered while packs
ship and hosts are read. Each is measured against the same without the other, and each measure catches a daemon in
which one side does starve the other.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.mounted.both import tried
from tests.mounted.test_soak import percentile
from tests.mounted.vault import HOSTS, Vault, at_work, repository

pytestmark = pytest.mark.soak
CLIENTS = 4  # that ask without a pause
WARM_S, WINDOW_S, WINDOWS = 12.0, 12.0, 3  # a pack leaves at the latest 5 s after its last byte
PIECE_BYTES, PAUSE_S = 128 << 10, 0.1
ALONE_LEAST, PROGRESS_LEAST = 0.3, 0.4  # shipped of each byte written; of that, beside the clients
BACKLOG_BYTES = 96 << 20
ALONE_S = 8.0
P99_S = 0.5
QUICK_PACKS = "pack_idle_s = 1.0\npack_age_s = 2.0\n"

ALWAYS_THE_NEXT_REQUEST = """
import select, megafs.fuse.loop as loop
def readable(self, fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(40))
loop.Pace.readable = readable
loop.Pace.turn_is_over = lambda self: False
"""
PUTS_IN_THE_LOOP = """
import time, megafs.sync.objects as objects
put = objects.Objects.put
async def blocking(self, *arguments):
    time.sleep(0.7)
    await put(self, *arguments)
objects.Objects.put = blocking
"""


@dataclass(slots=True, kw_only=True)
class Hampered(Vault):
    """One whose daemon runs some lines first."""

    before: str = ""

    def command(self, *arguments: str) -> list[str]:
        if arguments[0] != "mount":
            return Vault.command(self, *arguments)
        lines = f"{self.before}\nimport runpy\nrunpy.run_module('megafs', run_name='__main__', alter_sys=True)"
        return [sys.executable, "-c", lines, *arguments]


def drive(base: Path, before: str) -> AbstractContextManager[Vault]:
    return at_work(Hampered(base=base, state=base / "state", before=before), QUICK_PACKS)


@contextmanager
def processes(count: int, work: Callable[[], None]) -> Iterator[None]:
    """So many that do this until the body is over."""
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            while True:
                work()
        pids.append(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def shipped(vault: Vault) -> int:
    """Bytes on the first host."""
    sizes = (
        tried(os.path.getsize, os.path.join(place, name))
        for place, _, names in os.walk(vault.host(0))
        for name in names
    )
    return sum(size for size in sizes if isinstance(size, int))


def progress(vault: Vault, clients: int) -> tuple[float, list[int]]:
    """(bytes shipped of each byte written, bytes shipped in each window) while so many ask without a pause."""
    asked, pieces = vault.mountpoint / "asked", vault.mountpoint / f"pieces{clients}"
    asked.touch()
    pieces.mkdir()

    def write() -> None:
        (pieces / str(time.monotonic_ns())).write_bytes(os.urandom(PIECE_BYTES))
        time.sleep(PAUSE_S)  # a paced writer

    def ask() -> None:
        tried(os.getxattr, asked, "user.none")

    def written() -> int:
        return PIECE_BYTES * len(os.listdir(pieces))

    with processes(1, write), processes(clients, ask):
        time.sleep(WARM_S)  # the daemon works
        had, levels = written(), [shipped(vault)]
        for _ in range(WINDOWS):
            time.sleep(WINDOW_S)
            levels.append(shipped(vault))
        more = written() - had
    windows = [after - before for before, after in pairwise(levels)]
    return sum(windows) / max(more, 1), windows


@pytest.mark.parametrize(
    ("before", "starves"), [("", False), (ALWAYS_THE_NEXT_REQUEST, True)], ids=["as it is", "control"]
)
def test_requests_do_not_starve_the_background(scratch: Path, before: str, starves: bool) -> None:
    with drive(scratch / f"fair{starves}", before) as vault:
        alone, _ = progress(vault, 0)
        busy, windows = progress(vault, CLIENTS)
    print(f"shipped of each byte written: alone {alone:.2f}, beside {CLIENTS} clients {busy:.2f}; windows {windows}")
    assert alone > ALONE_LEAST
    assert (busy < PROGRESS_LEAST * alone or not all(windows)) == starves


def latencies(place: Path, goes_on: Callable[[float], bool]) -> list[float]:
    """Of small requests, one after the other."""
    place.mkdir()
    took, began = [], time.monotonic()
    while goes_on(time.monotonic() - began):
        path = place / str(len(took))
        for call in (
            lambda path=path: path.write_bytes(b"small"),
            lambda path=path: tried(os.getxattr, path, "user.x"),
        ):
            before = time.monotonic()
            call()
            took.append(time.monotonic() - before)
        time.sleep(0.002)  # the machine is not ours alone
    return took


def make_backlog(vault: Vault) -> None:
    """Written while all hosts are away."""
    folders = [vault.host(number) for number in range(HOSTS)]
    for folder in folders:
        folder.rename(folder.with_name(f"{folder.name}-away"))
    with (vault.mountpoint / "backlog").open("wb") as file:
        for _ in range(BACKLOG_BYTES >> 20):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    for folder in folders:
        folder.with_name(f"{folder.name}-away").rename(folder)


@pytest.mark.parametrize(("before", "starves"), [("", False), (PUTS_IN_THE_LOOP, True)], ids=["as it is", "control"])
def test_the_background_does_not_starve_requests(scratch: Path, before: str, starves: bool) -> None:
    with drive(scratch / f"prompt{starves}", before) as vault:
        quiet = latencies(vault.mountpoint / "quiet", lambda passed_s: passed_s < ALONE_S)
        make_backlog(vault)
        commands = [
            vault.command("sync", vault.name, *vault.unlocking[:2]),
            vault.command("scrub", vault.name, "--full", *vault.unlocking[:2]),
        ]
        running = [subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL) for command in commands]
        busy = latencies(vault.mountpoint / "busy", lambda _: any(one.poll() is None for one in running))
        assert running[0].wait() == 0
        running[1].wait()  # it may find parts that are still on their way
    found = [percentile(took, 0.99) for took in (quiet, busy)]
    print(
        f"p99 of {len(quiet)} requests alone {1000 * found[0]:.1f} ms, of {len(busy)} beside shipping "
        f"{BACKLOG_BYTES >> 20} MiB and reading all hosts {1000 * found[1]:.1f} ms"
    )
    assert (found[1] > P99_S) == starves
