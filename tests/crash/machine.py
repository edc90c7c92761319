"""A machine whose power can be cut at any step: a log of what reached the operating system, and what a disk may keep.

Every write, truncate, create, unlink and sync of the pack files (``LoggedDisk``) and of the index and its WAL
(``LoggedVfs``, below SQLite's encryption) is carried out for real and noted in one ``Log``, with what hosts were
given. A crash after step n is then computed from the first n entries, so one run of a workload gives thousands of
crash points.

What the disk keeps after step n:
* of a file: everything before its last completed sync (what was complete when that sync *began*); of each later write
  or truncate all, nothing, or any of its 512-byte sectors, independently of each other: so writes are dropped,
  reordered and torn. Where a dropped write lay behind the end, and a later one was kept, stand zeros.
* of a directory: all names as of its last completed sync; each later create or unlink or not, independently.
* ``KILL`` keeps all of it: the operating system lives on. ``CUT`` keeps nothing that was not synced.
Stricter than ext4 in that a synced file whose directory was not may vanish. Not modelled: a disk that lies about its
flush, sectors that are torn themselves, the -shm file (SQLite rebuilds it).
"""

import os
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from megafs.index.database import Database
from megafs.store.disk import Disk

SECTOR = 512
VFS = "crash"
KILL, CUT, TORN = "kill", "cut", "torn"


@dataclass(frozen=True, slots=True)
class Entry:
    """One step. ``file`` is relative to the vault's directory; of hosts, the host."""

    kind: str
    file: str = ""
    offset: int = 0  # of write and punch; of truncate the size; of sync the length of the log when it began
    data: bytes = b""  # of write
    size: int = 0  # of punch
    note: object = None  # of promise, put


class Log:
    """All steps, in the order in which they were complete."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: list[Entry] = []
        self._lock = threading.Lock()

    def add(self, entry: Entry) -> None:
        with self._lock:
            self.entries.append(entry)

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, path: str | Path) -> str:
        return os.path.relpath(path, self.root)


class LoggedDisk(Disk):
    """Pack files, logged. ``forgotten``: kinds of steps that are neither carried out nor logged (negative controls)."""

    def __init__(self, root: Path, log: Log, forgotten: frozenset[str] = frozenset()) -> None:
        super().__init__(root)
        self.log, self.forgotten = log, forgotten

    def _name(self, number):
        return self.log.name(self.path(number))

    def ensure(self, number):
        is_new = not self.path(number).exists()
        super().ensure(number)
        if is_new:
            self.log.add(Entry("create", self._name(number)))

    def sync_directory(self):
        if "directory" not in self.forgotten:
            begun = len(self.log)
            super().sync_directory()
            self.log.add(Entry("sync-names", "packs", begun))

    def write(self, number, offset, buffers):
        super().write(number, offset, buffers)
        self.log.add(Entry("write", self._name(number), offset, b"".join(buffers)))

    def sync(self, number):
        if "pack" not in self.forgotten:
            begun = len(self.log)
            super().sync(number)
            self.log.add(Entry("sync", self._name(number), begun))

    def truncate(self, number, size):
        super().truncate(number, size)
        self.log.add(Entry("truncate", self._name(number), size))

    def punch(self, number, offset, size):
        super().punch(number, offset, size)
        self.log.add(Entry("punch", self._name(number), offset, size=size))

    def unlink(self, number):
        there = self.path(number).exists()
        super().unlink(number)
        if there:
            self.log.add(Entry("unlink", self._name(number)))


class LoggedFile(apsw.VFSFile):
    """The index or its WAL, as SQLite writes it: encrypted pages."""

    def __init__(self, log: Log, name, flags) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.log = log
        self.name = log.name(path)
        self.is_named = os.path.exists(path)
        super().__init__("unix", name, flags)
        if not self.is_named:
            log.add(Entry("create", self.name))

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self.log.add(Entry("write", self.name, offset, bytes(data)))

    def xTruncate(self, size):
        super().xTruncate(size)
        self.log.add(Entry("truncate", self.name, size))

    def xSync(self, flags):
        begun = len(self.log)
        super().xSync(flags)
        self.log.add(Entry("sync", self.name, begun))


class LoggedVfs(apsw.VFS):
    """The way to the disk that SQLite's encryption finds under the name multipleciphers-crash."""

    def __init__(self) -> None:
        self.log: Log | None = None
        super().__init__(VFS, "unix")

    def xOpen(self, name, flags):
        assert self.log is not None
        return LoggedFile(self.log, name, flags)

    def xDelete(self, name, sync_directory):
        super().xDelete(name, sync_directory)
        assert self.log is not None
        self.log.add(Entry("unlink", self.log.name(name)))


_vfs: LoggedVfs | None = None


def vfs(log: Log) -> str:
    """Log everything that SQLite does from now on."""
    global _vfs  # as SQLite's registry is
    _vfs = _vfs or LoggedVfs()
    _vfs.log = log
    return f"multipleciphers-{VFS}"


class LoggedDatabase(Database):
    """Its own sync of the WAL goes past SQLite and is logged here."""

    def __init__(self, path: Path, key: bytes, log: Log, forgotten: frozenset[str] = frozenset()) -> None:
        self.log, self.forgotten = log, forgotten
        super().__init__(path, key, vfs=vfs(log))

    def sync_wal(self) -> None:
        if "wal" in self.forgotten:
            return
        begun, was_named = len(self.log), self._wal_named
        super().sync_wal()
        self.log.add(Entry("sync", self.log.name(f"{self.path}-wal"), begun))
        if not was_named:
            self.log.add(Entry("sync-names", "", begun))


@dataclass(slots=True, eq=False)
class File:
    """One file while the log is replayed: what is on the disk, and what is on its way there."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, Entry]] = field(default_factory=list)

    def settle(self, before: int) -> None:
        for at, entry in self.pending:
            if at < before:
                carry_out(self.durable, entry)
        self.pending = [(at, entry) for at, entry in self.pending if at >= before]


def carry_out(content: bytearray, entry: Entry) -> None:
    if entry.kind == "write":
        put(content, entry.offset, entry.data)
    elif entry.kind == "punch":
        stop = min(entry.offset + entry.size, len(content))
        if entry.offset < stop:
            content[entry.offset : stop] = bytes(stop - entry.offset)
    elif entry.offset <= len(content):
        del content[entry.offset :]
    else:
        content.extend(bytes(entry.offset - len(content)))


def put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def tear(content: bytearray, entry: Entry, chance: random.Random) -> None:
    """Some sectors of a write reach the disk, others do not."""
    first = entry.offset // SECTOR * SECTOR
    for sector in range(first, entry.offset + len(entry.data), SECTOR):
        if chance.random() < 0.5:
            low, high = max(sector, entry.offset), min(sector + SECTOR, entry.offset + len(entry.data))
            put(content, low, entry.data[low - entry.offset : high - entry.offset])


@dataclass(slots=True)
class Image:
    """What is there after a crash."""

    files: dict[str, bytes]
    objects: dict[str, dict[str, bytes]]  # host: name: object

    @classmethod
    def of(cls, root: Path, objects: dict[str, dict[str, bytes]]) -> "Image":
        """A directory as it is, all of it durable."""
        files = {
            os.path.relpath(path, root): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and not path.name.endswith("-shm")
        }
        return cls(files, {host: dict(held) for host, held in objects.items()})

    def unfold(self, root: Path) -> None:
        (root / "packs").mkdir(parents=True)
        for name, content in self.files.items():
            (root / name).write_bytes(content)


class Replay:
    """Goes through a log once, in order; ``crash`` may be asked after any step."""

    def __init__(self, image: Image, log: Log) -> None:
        self._entries = log.entries
        self._durable = {name: File(bytearray(content)) for name, content in image.files.items()}
        self._now = dict(self._durable)
        self._names: list[tuple[int, str, File | None]] = []  # changes of names on their way
        self._objects = {host: dict(held) for host, held in image.objects.items()}
        self.at = 0
        self.promise: object = None  # the newest one made so far

    def to(self, step: int) -> None:
        """Carry on until ``step`` entries are done."""
        while self.at < step:
            self._step(self.at, self._entries[self.at])
            self.at += 1

    def _step(self, at: int, entry: Entry) -> None:
        if entry.kind == "promise":
            self.promise = entry.note
        elif entry.kind == "put":
            self._objects[entry.file][str(entry.note)] = entry.data
        elif entry.kind == "delete":
            self._objects[entry.file].pop(str(entry.note), None)
        elif entry.kind == "create":
            file = self._now[entry.file] = File()
            self._names.append((at, entry.file, file))
        elif entry.kind == "unlink":
            self._now.pop(entry.file, None)
            self._names.append((at, entry.file, None))
        elif entry.kind == "sync-names":
            for when, name, file in self._names:
                if when < entry.offset and os.path.dirname(name) == entry.file:
                    self._name(self._durable, name, file)
            self._names = [
                change
                for change in self._names
                if change[0] >= entry.offset or os.path.dirname(change[1]) != entry.file
            ]
        elif entry.file in self._now:
            if entry.kind == "sync":
                self._now[entry.file].settle(entry.offset)
            else:
                self._now[entry.file].pending.append((at, entry))

    @staticmethod
    def _name(names: dict[str, File], name: str, file: File | None) -> None:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file

    def crash(self, how: str, chance: random.Random) -> Image:
        """What is left if it happens now."""
        names = dict(self._durable)
        for _, name, file in self._names:
            if how == KILL or (how == TORN and chance.random() < 0.5):
                self._name(names, name, file)
        files = {name: self._left(file, how, chance) for name, file in names.items()}
        return Image(files, {host: dict(held) for host, held in self._objects.items()})

    @staticmethod
    def _left(file: File, how: str, chance: random.Random) -> bytes:
        content = bytearray(file.durable)
        for _, entry in file.pending:
            fate = chance.randrange(3) if how == TORN else {KILL: 0, CUT: 1}[how]
            if fate == 0:
                carry_out(content, entry)
            elif fate == 2 and entry.kind == "write":
                tear(content, entry, chance)
        return bytes(content)


def steps(log: Log, count: int, chance: random.Random, *, committed: bool) -> Iterable[int]:
    """``count`` different steps of the log, in order, all of them if there are fewer; ``committed``: of those directly
    after a commit became durable."""
    wanted = [0, *(at + 1 for at, entry in enumerate(log.entries) if not committed or is_commit(entry))]
    return sorted(chance.sample(wanted, min(count, len(wanted))))


def is_commit(entry: Entry) -> bool:
    return entry.kind == "sync" and entry.file.endswith("-wal")
