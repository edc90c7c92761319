"""Programs made to break file systems, each for a bounded time on one mount; afterwards a fresh mount shows the same.

What a program checks itself (fio's checksums, PostgreSQL's recovery) is believed; where it does not check, the test
does. Programs that ordinary users run are run by one, through ``--allow-other``.
"""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.conftest import run
from tests.mounted.vault import Vault, mounted

pytestmark = pytest.mark.needs_root
AS_ROOT = ("--allow-other", "--flags", "suid,dev")
PROCESSES = 4
RECORDS = 1500
TURNS = 400
CLONES = 4
STRESSOR_S = 1
DBENCH_S = 10
PGBENCH_S = 6.0
PORT = "54329"

FIO = {
    "random": ("--rw=randwrite", "--bs=4k", "--size=24m"),
    "random direct": ("--rw=randwrite", "--bs=4k", "--size=12m", "--direct=1"),
    "mixed": ("--rw=randrw", "--bsrange=512-64k", "--size=24m"),
    "mapped": ("--rw=randrw", "--bs=4k", "--size=24m", "--ioengine=mmap"),
    "asynchronous": ("--rw=randrw", "--bs=4k", "--size=12m", "--direct=1", "--ioengine=libaio", "--iodepth=16"),
    "jobs": ("--rw=randwrite", "--bs=8k", "--size=6m", "--numjobs=4", "--fsync=64"),
    "sequential": ("--rw=write", "--bs=1m", "--size=64m", "--direct=1"),
}

# Not run, and why: they look at other file systems or at the machine, or need ioctls that FUSE file systems have not.
STRESSORS_LEFT_OUT = {
    "bind-mount": "mounts file systems of its own",
    "binderfs": "mounts a file system of its own",
    "io": "syncs every mount of the machine, and tells of their errors (alone on a machine it succeeds)",
    "getdent": "lists directories all over the machine, and tells of their errors (alone on a machine it succeeds)",
    "procfs": "reads /proc",
    "verity": "fs-verity is an ioctl of some disk file systems",
    "fiemap": "FIEMAP is an ioctl of disk file systems",
    "chattr": "inode flags are an ioctl of disk file systems",
    "inode-flags": "inode flags are an ioctl of disk file systems",
    "fanotify": "watches every mount of the machine",
    "ioprio": "does nothing to a file system",
    "eventfd": "does nothing to a file system",
    "dup": "opens /dev/null",
}
# Run, and failing for a reason that is not ours.
STRESSORS_FAILING = {
    "fsize": "expects EFBIG of fallocate(2), which is not offered (EOPNOTSUPP); write and ftruncate do answer EFBIG",
}


@pytest.fixture(scope="module")
def drive(base: Path) -> Iterator[Vault]:
    """A vault of its own, open to other users."""
    place = base / "stress"
    place.mkdir()
    place.chmod(0o755)
    with mounted(place, *AS_ROOT) as vault:
        vault.mountpoint.chmod(0o755)
        yield vault
        assert vault.new_complaints() == []


@pytest.fixture
def place(drive: Vault, request: pytest.FixtureRequest) -> Path:
    """A fresh directory on the mount; it stays."""
    found = drive.mountpoint / re.sub(r"\W", "-", request.node.name)
    found.mkdir()
    return found


def in_processes(work: Callable[[int], None], count: int = PROCESSES) -> None:
    """``work(number)`` in as many processes at once; all must end well."""
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work(number)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * count


@pytest.mark.parametrize("kind", FIO)
def test_fio(place: Path, kind: str) -> None:
    settings = (
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--do_verify=1",
        "--randrepeat=0",
        "--group_reporting",
    )
    ending = ("--end_fsync=1", "--fallocate=none")
    said = run("fio", "--name=one", f"--directory={place}", *settings, *ending, *FIO[kind])
    assert "err= 0" in said
    print(re.findall(r"^ +(?:read|write): .*", said, re.M))


def test_fio_notices_damage(place: Path) -> None:
    """The negative control: one byte changed behind fio's back."""
    job = ("fio", "--name=one", f"--directory={place}", "--rw=write", "--bs=4k", "--size=1m", "--verify=crc32c")
    run(*job, "--do_verify=1", "--verify_state_save=0")
    file = place / "one.0.0"
    with file.open("r+b") as opened:
        opened.seek(500_000)
        byte = opened.read(1)
        opened.seek(500_000)
        opened.write(bytes([byte[0] ^ 1]))
    with pytest.raises(AssertionError, match="verify"):
        run(*job, "--verify_only", "--verify_fatal=1", "--verify_state_save=0")
    shutil.rmtree(place)


def test_stress_ng(place: Path) -> None:
    left_out = ",".join([*STRESSORS_LEFT_OUT, *STRESSORS_FAILING])
    bounds = ("--timeout", f"{STRESSOR_S}s", "--hdd-bytes", "16m", "--fallocate-bytes", "16m", "--iomix-bytes", "16m")
    command = ["stress-ng", "--class", "filesystem", "--sequential", "2", "--temp-path", str(place), "-x", left_out]
    done = subprocess.run([*command, *bounds, "--verify"], capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert not re.findall(r"^stress-ng: fail: .*", said, re.M), said[-5000:]
    assert done.returncode == 0, said[-5000:]
    assert os.listdir(place) == []


def test_dbench(place: Path) -> None:
    said = run("dbench", "-D", place, "-t", str(DBENCH_S), "-c", client_file(), str(PROCESSES))
    assert "Throughput" in said
    assert "ERROR" not in said
    print(said.strip().splitlines()[-1])


def client_file() -> Path:
    """The load that dbench plays."""
    return next(path for path in Path("/usr/share/dbench").rglob("client.txt"))


def test_bonnie(place: Path) -> None:
    said = run("/usr/sbin/bonnie++", "-d", place, "-s", "96:64k", "-r", "32", "-n", "4", "-u", "root", "-q", "-f")
    print(said.strip())
    assert os.listdir(place) == []


def test_git_parallel_clones(place: Path) -> None:
    source = place / "source"
    run("git", "init", "-q", "-b", "main", source)
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    run("cp", "-r", "/usr/include/linux", source / "include")
    run("git", "add", "-A", cwd=source)
    run("git", *identity, "commit", "-qm", "all", cwd=source)
    run("git", "config", "receive.autogc", "false", cwd=source)

    def clone(number: int) -> None:
        here = place / f"clone{number}"
        run("git", "clone", "-q", "--no-local", source, here)
        (here / f"new{number}").write_text("new")
        run("git", "add", "-A", cwd=here)
        run("git", *identity, "commit", "-qm", f"new{number}", cwd=here)
        run("git", "push", "-q", "origin", f"HEAD:refs/heads/branch{number}", cwd=here)

    with ThreadPoolExecutor(CLONES) as pool:
        list(pool.map(clone, range(CLONES)))
    assert len(run("git", "branch", "--list", "branch*", cwd=source).split()) == CLONES
    for repository in (source, *(place / f"clone{number}" for number in range(CLONES))):
        run("git", "fsck", "--full", "--strict", cwd=repository)
        assert run("git", "status", "--porcelain", cwd=repository) == ""


def record(number: int, turn: int) -> bytes:
    """A line that shows whether it is whole; lengths differ and cross pages."""
    body = hashlib.shake_128(f"{number} {turn}".encode()).hexdigest(turn % 300)
    return f"{number} {turn} {body}\n".encode()


def test_appending_together(place: Path) -> None:
    """O_APPEND: no record is lost, torn or mixed with another; each process's are in its order."""
    log = place / "log"

    def work(number: int) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for turn in range(RECORDS):
            line = record(number, turn)
            assert os.write(descriptor, line) == len(line)
            if turn % 500 == 499:
                os.fsync(descriptor)
        os.close(descriptor)

    in_processes(work)
    found: list[list[bytes]] = [[] for _ in range(PROCESSES)]
    for line in log.read_bytes().splitlines(keepends=True):
        found[int(line.split()[0])].append(line)
    assert found == [[record(number, turn) for turn in range(RECORDS)] for number in range(PROCESSES)]


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_between_processes(place: Path, kind: str) -> None:
    """A counter that each reads, adds to and writes, under a lock: no addition is lost."""
    assert counted(place / "counter", {"flock": fcntl.flock, "fcntl": fcntl.lockf}[kind]) == PROCESSES * TURNS


def test_without_locks_additions_are_lost(place: Path) -> None:
    """The negative control."""
    # Not "less": digits of two writers may mix into a larger number.
    assert counted(place / "counter", lambda descriptor, how: None) != PROCESSES * TURNS


def counted(counter: Path, lock: Callable[[int, int], object]) -> int:
    """Where the counter ends."""
    counter.write_text("0")

    def work(number: int) -> None:
        descriptor = os.open(counter, os.O_RDWR)
        for _ in range(TURNS):
            lock(descriptor, fcntl.LOCK_EX)
            value = int(os.pread(descriptor, 20, 0))
            os.sched_yield()
            os.pwrite(descriptor, str(value + 1).encode(), 0)
            lock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    in_processes(work)
    return int(counter.read_text())


class Postgres:
    """A server of an ordinary user's with its data on the mount."""

    def __init__(self, place: Path, sockets: Path) -> None:
        self.data, self.sockets = place / "data", sockets
        self.programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        self.server: subprocess.Popen[bytes] | None = None
        sockets.mkdir()
        for mine in (place, sockets):
            shutil.chown(mine, "postgres", "postgres")

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        return [*as_user, str(self.programs / program), *[str(argument) for argument in arguments]]

    def make(self) -> None:
        run(*self.command("initdb", "-D", self.data, "--auth=trust", "--data-checksums", "-E", "UTF8"))

    def start(self) -> None:
        settings = ("-c", "listen_addresses=", "-k", str(self.sockets), "-p", PORT)
        with (self.sockets / "log").open("ab") as log:
            command = self.command("postgres", "-D", self.data, *settings)
            self.server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)
        limit = time.monotonic() + 60
        while subprocess.run(
            self.command("pg_isready", "-h", self.sockets, "-p", PORT), capture_output=True, check=False
        ).returncode:
            assert self.server.poll() is None, (self.sockets / "log").read_text()[-3000:]
            assert time.monotonic() < limit, "the server does not answer"
            time.sleep(0.1)  # another process is starting

    def kill(self) -> None:
        """kill -9 of the server and of everything that it started."""
        assert self.server is not None
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        for pid in [self.server.pid, *map(int, children)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # ended by itself meanwhile
        self.server.wait(10)

    def stop(self) -> None:
        assert self.server is not None
        self.server.send_signal(signal.SIGINT)
        assert self.server.wait(60) == 0

    def ask(self, question: str) -> str:
        where = ("-h", self.sockets, "-p", PORT, "-d", "postgres")
        return run(*self.command("psql", *where, "-XAtqc", question)).strip()

    def pgbench(self, *arguments: str) -> list[str]:
        return self.command("pgbench", "-h", self.sockets, "-p", PORT, *arguments, "postgres")

    def under_load(self, ending: Callable[[], None]) -> int:
        """Transactions of four clients until ``ending``; how many they were told to be committed."""
        logs = self.sockets / f"acknowledged{time.monotonic_ns()}"
        load = self.pgbench("-n", "-c", "4", "-j", "2", "-T", "60", "-l", f"--log-prefix={logs}")
        with subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.sockets) as clients:
            time.sleep(PGBENCH_S)
            ending()
            assert clients.communicate(timeout=60)[0]
        return sum(len(path.read_text().splitlines()) for path in self.sockets.glob(f"{logs.name}*"))

    def check(self, acknowledged: int) -> None:
        """Every transaction is whole, and none that was acknowledged is lost."""
        sums = self.ask(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), "
            "(SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)"
        ).split("|")
        assert len(set(sums)) == 1, sums
        rows = int(self.ask("SELECT count(*) FROM pgbench_history"))
        print(f"postgresql: {acknowledged} transactions acknowledged in all, {rows} found")
        assert rows >= acknowledged > 0
        assert (
            self.ask(
                "CREATE EXTENSION IF NOT EXISTS amcheck; SELECT count(bt_index_check(indexrelid)) "
                "FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam "
                "WHERE amname = 'btree' AND relpersistence = 'p'"
            )
            != "0"
        )


def test_postgresql(drive: Vault, place: Path, base: Path) -> None:
    """initdb and pgbench; the server killed and recovered; then the drive's daemon killed under it, and recovered."""
    server = Postgres(place, base / "postgres")
    server.make()
    server.start()
    try:
        run(*server.pgbench("-i", "-q", "-s", "3"))
        acknowledged = server.under_load(server.kill)
        server.start()
        server.check(acknowledged)
        acknowledged += server.under_load(drive.kill)
        server.kill()
        drive.mount()
        server.start()
        server.check(acknowledged)
        server.stop()
    finally:
        if server.server is not None and server.server.poll() is None:
            server.kill()


def fingerprints(root: Path) -> dict[str, tuple[object, ...]]:
    """What is to persist of everything below ``root``."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
        target = os.readlink(path) if path.is_symlink() else ""
        kept = (state.st_mode, state.st_uid, state.st_gid, state.st_nlink, state.st_mtime_ns)
        found[str(path.relative_to(root))] = (*kept, content, target)
    return found


def test_a_fresh_mount_shows_the_same(drive: Vault) -> None:
    before = fingerprints(drive.mountpoint)
    assert len(before) > 1000
    drive.unmount()
    drive.mount()
    after = fingerprints(drive.mountpoint)
    assert before.keys() == after.keys()
    assert not {name: (seen, after[name]) for name, seen in before.items() if after[name] != seen}
    print(f"{len(before)} files and directories", file=sys.stderr)
