"""The workloads: each takes a fresh mount and answers with figures by name. METRICS says what each figure is.

The six canonical ones are those of gocryptfs's benchmark.bash, whose large file is ``dd if=/dev/zero``; because that
says nothing of a system that compresses, the same is done with bytes that do not. ``md5``, ``ls`` and the reads are
cold: the system was unmounted and mounted and the kernel's caches dropped, as far as this user may.
"""

import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from corpus import Corpus, random_block
from systems import Failed, System, command, drop_caches

PIECE_BYTES = 128 << 10
BIG_BYTES = 1_000_000_000
FIO_BYTES = 256 << 20
FIO_S = 5
REQUESTS = 5000  # of each kind
FSYNCS = 500  # each is a commit on a disk
PAGE_BYTES = 4096
SMALL_OPERATIONS = 2000  # per process, of each kind
APPENDS = 500
INSERTS = 500
BARRIER_S = 300.0  # how long the processes of `operations` wait for each other
OPERATIONS_S = 1800.0  # and all of them together
REQUEST_KINDS = (
    *("create", "getxattr", "chmod", "utime", "open", "rename", "link", "unlink", "lookup", "readdir", "remove"),
    *("mkdir", "rmdir", "symlink", "readlink", "write", "read", "truncate", "setxattr", "listxattr", "statfs"),
)
Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """``unit`` "s" is better small, everything else better large."""

    what: str
    unit: str = "s"


@dataclass(slots=True, kw_only=True)
class Bench:
    """One run of one workload on one system."""

    system: System
    corpus: Corpus
    scale: float
    figures: Figures = field(default_factory=dict)

    @property
    def top(self) -> Path:
        return self.system.mountpoint

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self.figures[name] = time.perf_counter() - began_s

    def cold(self) -> None:
        self.system.make_cold()

    def count(self, full: int, least: int = 20) -> int:
        return max(int(full * self.scale), least)


def shell(line: str, **values: object) -> None:
    subprocess.run(line.format(**values), shell=True, check=True, stdout=subprocess.DEVNULL)


def is_there(program: str) -> bool:
    """Whether it is installed; says so if not, since its figures will be missing."""
    if shutil.which(program):
        return True
    print(f"without {program}: it is missing, and so are its figures", file=sys.stderr)
    return False


def write_big(path: Path, size: int, content: bytes) -> None:
    """What ``dd bs=128k conv=fsync`` does, from RAM; ``content`` repeats."""
    block = memoryview(content)
    with open(path, "wb", buffering=0) as file:
        done = 0
        while done < size:
            start = done % len(block)
            done += file.write(block[start : start + min(PIECE_BYTES, size - done)])
        os.fsync(file.fileno())


def read_big(path: Path) -> None:
    buffer = bytearray(PIECE_BYTES)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def canonical(bench: Bench) -> None:
    top, big = bench.top, bench.top / "big"
    for kind, content in (("", bytes(PIECE_BYTES)), ("-random", random_block())):
        with bench.timed("write" + kind):
            write_big(big, bench.count(BIG_BYTES), content)
        bench.cold()
        with bench.timed("read" + kind):
            read_big(big)
        big.unlink()
    with bench.timed("untar"):
        shell("tar xf '{tar}' -C '{top}'", tar=bench.corpus.tar, top=top)
    bench.cold()
    with bench.timed("md5"):
        shell("find '{top}/tree' -type f -print0 | xargs -0 md5sum", top=top)
    bench.cold()
    with bench.timed("ls"):
        shell("ls -lR '{top}/tree'", top=top)
    with bench.timed("rm"):
        shell("rm -r '{top}/tree'", top=top)


def fio(bench: Bench) -> None:
    if not is_there("fio"):
        return
    for direct in (0, 1):
        for kind in ("randread", "randwrite"):
            name = f"fio-{kind}-{'direct' if direct else 'buffered'}"
            words = f"fio --name=x --filename={bench.top}/fio --size={bench.count(FIO_BYTES, PIECE_BYTES)} --bs=4k"
            words += f" --rw={kind} --direct={direct} --ioengine=psync --time_based --runtime={FIO_S * bench.scale:.1f}"
            words += " --end_fsync=1 --randseed=1 --output-format=json"
            done = subprocess.run(words.split(), capture_output=True, check=False)
            if done.returncode == 0:
                job = json.loads(done.stdout[done.stdout.index(b"{") :])["jobs"][0]
                bench.figures[name] = job[kind.removeprefix("rand")]["iops"]
            else:
                told = (done.stderr or done.stdout).decode(errors="replace").strip().rsplit("\n", 1)[-1]
                print(f"{bench.system.name}, {name}: fio ended with {done.returncode}: {told}", file=sys.stderr)
    (bench.top / "fio").unlink(missing_ok=True)


def appends(bench: Bench) -> None:
    count, block = bench.count(APPENDS), random_block()[:4096]
    with open(bench.top / "journal", "ab", buffering=0) as file, bench.timed("append"):
        for _ in range(count):
            file.write(block)
            os.fsync(file.fileno())
    bench.figures["append"] = count / bench.figures["append"]


def sqlite(bench: Bench) -> None:
    count = bench.count(INSERTS)
    database = sqlite3.connect(bench.top / "database", isolation_level=None)
    database.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY, body TEXT)")
    with bench.timed("sqlite"):
        for number in range(count):
            database.execute("INSERT INTO entry VALUES (?, ?)", (number, "body " * 20))
    database.close()
    bench.figures["sqlite"] = count / bench.figures["sqlite"]


def git(bench: Bench) -> None:
    if not is_there("git"):
        return
    origin = bench.corpus.tree.parent / "origin.git"
    if not origin.exists():
        work = bench.corpus.tree
        shell("git init -q --separate-git-dir '{origin}' '{work}'", origin=origin, work=work)
        name = "-c user.name=bench -c user.email=bench@localhost -c gc.auto=0"
        shell("cd '{work}' && git add -A && git {name} commit -qm one && rm .git", work=work, name=name)
        shell("git --git-dir '{origin}' config core.bare true", origin=origin)
        shell("git --git-dir '{origin}' config --unset core.worktree || true", origin=origin)
    with bench.timed("clone"):
        shell("git clone -q --no-local '{origin}' '{top}/clone'", origin=origin, top=bench.top)
    bench.cold()
    with bench.timed("status"):
        shell("git -C '{top}/clone' status --porcelain", top=bench.top)


def rsync(bench: Bench) -> None:
    if not is_there("rsync"):
        return
    line = "rsync -a '{tree}/' '{top}/copy/'"
    with bench.timed("rsync-first"):
        shell(line, tree=bench.corpus.tree, top=bench.top)
    bench.cold()
    with bench.timed("rsync-unchanged"):
        shell(line, tree=bench.corpus.tree, top=bench.top)


OPERATIONS: Mapping[str, Callable[[Path, int], object]] = {
    "create": lambda folder, n: os.close(os.open(folder / f"f{n}", os.O_CREAT | os.O_WRONLY, 0o644)),
    "lookup": lambda folder, n: os.stat(folder / f"f{n}"),
    "rename": lambda folder, n: os.rename(folder / f"f{n}", folder / f"g{n}"),
    "unlink": lambda folder, n: os.unlink(folder / f"g{n}"),
}


def one_process(folder: Path, count: int, barrier: Barrier, answers: "SimpleQueue[Figures]") -> None:
    """Each operation with ``count`` files; the seconds that each took go into ``answers``."""
    folder.mkdir()
    figures: Figures = {}
    for name, step in OPERATIONS.items():
        may_measure = True
        if name == "lookup":  # the kernel would answer from what it learnt when the file was created
            barrier.wait(BARRIER_S)
            may_measure = drop_caches()
        barrier.wait(BARRIER_S)
        began_s = time.perf_counter()
        for number in range(count):
            step(folder, number)
        barrier.wait(BARRIER_S)
        if may_measure:
            figures[name] = time.perf_counter() - began_s
    answers.put(figures)


def operations(bench: Bench) -> None:
    for processes in (1, 8):
        count = bench.count(SMALL_OPERATIONS)
        barrier = multiprocessing.Barrier(processes)
        answers: SimpleQueue[Figures] = multiprocessing.SimpleQueue()
        children = [
            multiprocessing.Process(target=one_process, args=(bench.top / f"p{processes}-{n}", count, barrier, answers))
            for n in range(processes)
        ]
        for child in children:
            child.start()
        all_ended(children)
        each = [answers.get() for _ in children]
        for name in each[0]:
            slowest_s = max(figures[name] for figures in each)
            bench.figures[f"{name}-{processes}"] = processes * count / slowest_s


def all_ended(children: Sequence[multiprocessing.Process], within_s: float = OPERATIONS_S) -> None:
    """Or it is a failure: an answer is not waited for that will never come."""
    end_s = time.monotonic() + within_s
    for child in children:
        child.join(max(end_s - time.monotonic(), 0))
    stuck = [child for child in children if child.is_alive()]
    for child in stuck:
        child.kill()
        child.join(BARRIER_S)
    failed = sum(child.exitcode != 0 for child in children)
    if failed:
        raise Failed(f"{failed} of {len(children)} processes failed, {len(stuck)} of them did not end")


def requests(bench: Bench) -> None:
    """One kind of request after another, as far as system calls come down to one each, by one process."""
    requests_of_names(bench)
    requests_of_content(bench)


def request(bench: Bench, kind: str, names: Iterable[str], step: Callable[[str], object]) -> None:
    with bench.timed(f"request-{kind}"):
        for name in names:
            step(name)


def requests_of_names(bench: Bench) -> None:
    """Those that empty files, directories and symbolic links get."""
    folder = bench.top / "requests"
    folder.mkdir()
    names = [str(folder / f"f{n}") for n in range(bench.count(REQUESTS))]

    def timed(kind: str, step: Callable[[str], object]) -> None:
        request(bench, kind, names, step)

    def attribute(name: str) -> None:
        with suppress(OSError):
            os.getxattr(name, "user.none")

    timed("create", lambda name: os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644)))
    timed("getxattr", attribute)
    timed("chmod", lambda name: os.chmod(name, 0o600))
    timed("utime", lambda name: os.utime(name, ns=(1, 2)))
    timed("open", lambda name: os.close(os.open(name, os.O_RDONLY)))
    timed("rename", lambda name: os.rename(name, name + "x"))
    timed("link", lambda name: os.link(name + "x", name))
    timed("unlink", lambda name: os.unlink(name + "x"))
    if drop_caches():
        timed("lookup", os.stat)
        drop_caches()
    with bench.timed("request-readdir"):
        for entry in os.scandir(folder):
            entry.stat(follow_symlinks=False)
    timed("remove", os.unlink)
    timed("mkdir", os.mkdir)
    timed("rmdir", os.rmdir)
    timed("symlink", lambda name: os.symlink("somewhere", name))
    timed("readlink", os.readlink)


def requests_of_content(bench: Bench) -> None:
    """Those of files that hold a page: reading and writing are an open, the request, and a close."""
    folder = bench.top / "content"
    folder.mkdir()
    names, block = [str(folder / f"f{n}") for n in range(bench.count(REQUESTS))], memoryview(random_block())
    pages = {name: block[n * PAGE_BYTES : (n + 1) * PAGE_BYTES] for n, name in enumerate(names)}  # no two alike
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644))

    def timed(kind: str, step: Callable[[str], object]) -> None:
        request(bench, kind, names, step)

    def write(name: str, *, durable: bool = False) -> None:
        handle = os.open(name, os.O_WRONLY)
        os.write(handle, pages[name])
        if durable:
            os.fsync(handle)
        os.close(handle)  # here the kernel sends what it holds

    def read(name: str) -> None:
        handle = os.open(name, os.O_RDONLY)
        os.read(handle, PAGE_BYTES)
        os.close(handle)

    timed("write", write)
    bench.system.settle()
    if drop_caches():
        for name in names:
            os.stat(name)  # lookups are measured by themselves
        timed("read", read)
    timed("truncate", lambda name: os.truncate(name, PAGE_BYTES // 2))
    timed("setxattr", lambda name: os.setxattr(name, "user.bench", b"a value"))
    timed("listxattr", os.listxattr)
    timed("statfs", os.statvfs)
    count = bench.count(FSYNCS)
    request(bench, "fsync", names[:count], lambda name: write(name, durable=True))


def shipping(bench: Bench) -> None:
    """Read one big file while another, just written, is on its way to the hosts."""
    size = bench.count(BIG_BYTES)
    write_big(bench.top / "old", size, random_block())
    bench.cold()
    write_big(bench.top / "new", size, random_block())
    with bench.timed("read-while-shipping"):
        read_big(bench.top / "old")


def photos(bench: Bench) -> None:
    with bench.timed("photos"):
        command("cp", "-r", bench.corpus.photos, bench.top / "photos")


WORKLOADS: Mapping[str, Callable[[Bench], None]] = {
    "canonical": canonical,
    "fio": fio,
    "appends": appends,
    "sqlite": sqlite,
    "git": git,
    "rsync": rsync,
    "operations": operations,
    "requests": requests,
    "shipping": shipping,
    "photos": photos,
}

METRICS: Mapping[str, Metric] = {
    "write": Metric(what="1 GB of zeros written, fsync"),
    "read": Metric(what="1 GB of zeros read, cold"),
    "write-random": Metric(what="1 GB of random bytes written, fsync"),
    "read-random": Metric(what="1 GB of random bytes read, cold"),
    "untar": Metric(what="12,000 source files untarred"),
    "md5": Metric(what="md5 of them, cold"),
    "ls": Metric(what="ls -lR, cold"),
    "rm": Metric(what="rm -r"),
    "fio-randread-buffered": Metric(what="4k random read", unit="/s"),
    "fio-randwrite-buffered": Metric(what="4k random write", unit="/s"),
    "fio-randread-direct": Metric(what="4k random read, direct", unit="/s"),
    "fio-randwrite-direct": Metric(what="4k random write, direct", unit="/s"),
    "append": Metric(what="4k append + fsync", unit="/s"),
    "sqlite": Metric(what="SQLite insert + commit", unit="/s"),
    "clone": Metric(what="git clone"),
    "status": Metric(what="git status, cold"),
    "rsync-first": Metric(what="rsync, first"),
    "rsync-unchanged": Metric(what="rsync, unchanged, cold"),
    **{
        f"{name}-{processes}": Metric(what=f"{name}, {processes} process{'es' if processes > 1 else ''}", unit="/s")
        for processes in (1, 8)
        for name in OPERATIONS
    },
    **{f"request-{kind}": Metric(what=f"{kind}, 5,000 times") for kind in REQUEST_KINDS},
    "request-fsync": Metric(what="4k written + fsync, 500 times"),
    "read-while-shipping": Metric(what="1 GB read while 1 GB ships"),
    "photos": Metric(what="1,000 photos of 3 MB copied in"),
}
