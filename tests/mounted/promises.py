"""A writer that keeps a manifest of what a file system has promised, and the check that nothing promised was lost.

The writer works in one directory and adds lines to a manifest elsewhere: ``begun`` before a change, ``promised`` once
the call that makes it durable has returned, ``closed`` and ``handed`` for what only time makes durable. Each thing has
a version that grows; what is found must be one between the last one promised and the last one begun, and whole:

saved      a file replaced by write, fsync, rename, fsync of the directory (an editor's save)
hasty      the same without any fsync: the old or the new, never less; it counts once it is old enough
handed     the same with syncfs before and after the rename, and the file kept open: it counts once that is old enough
appended   one log, fsynced after each record: every promised byte; later ones are right or zero
blocks     4 KiB blocks overwritten in place, with fsync, O_DSYNC or O_SYNC
names      files and directories made, linked and removed, with fsync of the directory
marked     an extended attribute and a mode, with fsync
"""

import errno
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from tests.mounted.calls import syncfs

BLOCK = 4096
BLOCKS = 64
GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.EROFS, errno.ESTALE, errno.ECONNREFUSED}
SAVED, HASTY, HANDED, NAMES = 6, 4, 3, 12
HELD_OPEN = 4
MADE = ("absent", "file", "directory", "linked")  # what a name goes through, by version


def content(name: str, version: int, length: int) -> bytes:
    """What version ``version`` of ``name`` holds; version 0 is nothing."""
    return hashlib.shake_128(f"{name} {version}".encode()).digest(length) if version else b""


def length_of(name: str, version: int) -> int:
    """Between nothing and 100 KiB, now and then 1 MiB; known again from name and version."""
    lots = random.Random(f"{name} {version}")
    return (
        lots.choice((0, 1, 500, 4096, 20_000, 70_000, 100_000))
        + lots.randrange(300)
        + (1 << 20) * (lots.random() < 0.02)
    )


@dataclass(slots=True, kw_only=True)
class Writer:
    """Makes changes in ``place`` until the mount dies or ``limit_s`` is over. Owner of its part of the manifest."""

    place: Path
    manifest: Path
    seed: int
    position: Callable[[], int]  # of the block log, where there is one
    limit_s: float
    versions: dict[str, int] = field(default_factory=dict)
    log: int = -1
    held: list[int] = field(default_factory=list)  # descriptors

    def note(self, what: str, thing: str, version: int) -> None:
        line = {"what": what, "thing": thing, "version": version, "at": self.position(), "time": time.monotonic()}
        os.write(self.log, json.dumps(line).encode() + b"\n")

    def begin(self, thing: str) -> int:
        version = self.versions[thing] = self.versions.get(thing, 0) + 1
        self.note("begun", thing, version)
        return version

    def run(self) -> None:
        """Returns when the mount has gone or time is over; other errors are raised."""
        self.log = os.open(self.manifest, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        lots = random.Random(self.seed)
        end = time.monotonic() + self.limit_s
        steps = (self.save, self.save_hastily, self.hand_over, self.append, self.overwrite, self.name, self.mark)
        try:
            self.place.mkdir()
            sync_directory(self.place.parent)
            while time.monotonic() < end:
                lots.choice(steps)(lots)
        except OSError as error:
            if error.errno not in GONE:
                raise
        finally:
            for fd in (self.log, *self.held):
                with suppress(OSError):  # the mount has gone
                    os.close(fd)

    def save(self, lots: random.Random) -> None:
        thing = f"saved{lots.randrange(SAVED)}"
        version = self.begin(thing)
        temporary = self.place / f"{thing}.tmp"
        write_whole(temporary, content(thing, version, length_of(thing, version)), sync=True)
        temporary.rename(self.place / thing)
        sync_directory(self.place)
        self.note("promised", thing, version)

    def save_hastily(self, lots: random.Random) -> None:
        thing = f"hasty{lots.randrange(HASTY)}"
        version = self.begin(thing)
        temporary = self.place / f"{thing}.tmp"
        write_whole(temporary, content(thing, version, length_of(thing, version)), sync=False)
        temporary.rename(self.place / thing)
        self.note("closed", thing, version)

    def hand_over(self, lots: random.Random) -> None:
        thing = f"handed{lots.randrange(HANDED)}"
        version = self.begin(thing)
        temporary = self.place / f"{thing}.tmp"
        data = content(thing, version, length_of(thing, version))
        if len(self.held) > HELD_OPEN:
            os.close(self.held.pop(0))
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.held.append(fd)
        while data:
            data = data[os.write(fd, data) :]
        syncfs(fd)
        temporary.rename(self.place / thing)
        syncfs(fd)
        self.note("handed", thing, version)

    def append(self, lots: random.Random) -> None:
        version = self.begin("appended")
        fd = os.open(self.place / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(fd, content("appended", version, record_length(version)))
            os.fsync(fd) if lots.random() < 0.7 else os.fdatasync(fd)
        finally:
            os.close(fd)
        if version == 1:
            sync_directory(self.place)
        self.note("promised", "appended", version)

    def overwrite(self, lots: random.Random) -> None:
        path = self.place / "blocks"
        fresh = not path.exists()
        by_flag = lots.choice((0, 0, 0, os.O_DSYNC, os.O_SYNC))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | by_flag, 0o644)
        try:
            changed = []
            for number in lots.sample(range(BLOCKS), lots.randrange(1, 6)):
                thing = f"block{number}"
                changed.append((thing, self.begin(thing)))
                os.pwrite(fd, content(*changed[-1], BLOCK), number * BLOCK)
            if not by_flag:
                os.fsync(fd)
        finally:
            os.close(fd)
        if fresh:
            sync_directory(self.place)
        for thing, version in changed:
            self.note("promised", thing, version)

    def name(self, lots: random.Random) -> None:
        thing = f"name{lots.randrange(NAMES)}"
        path = self.place / thing
        version = self.begin(thing)
        match MADE[version % len(MADE)]:
            case "file":
                write_whole(path, b"", sync=False)
            case "directory":
                path.unlink()
                path.mkdir()
            case "linked":
                path.rmdir()
                write_whole(self.place / f"{thing}.first", b"", sync=False)
                os.link(self.place / f"{thing}.first", path)
                (self.place / f"{thing}.first").unlink()
            case "absent":
                path.unlink()
        sync_directory(self.place)
        self.note("promised", thing, version)

    def mark(self, _: random.Random) -> None:
        version = self.begin("marked")
        path = self.place / "marked"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.setxattr(fd, "user.version", b"%d" % version)
            os.fchmod(fd, 0o600 | version % 0o100)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_directory(self.place)
        self.note("promised", "marked", version)


def record_length(version: int) -> int:
    """Of one record of the log."""
    return 10 + version * 37 % 3000


def write_whole(path: Path, data: bytes, *, sync: bool) -> None:
    """A new file with this content."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        while data:
            data = data[os.write(fd, data) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """fsync of a directory: its names are durable when this returns."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(slots=True, kw_only=True)
class Promises:
    """What a manifest says must be found: the least and the greatest version of each thing."""

    least: dict[str, int] = field(default_factory=dict)
    greatest: dict[str, int] = field(default_factory=dict)
    count: int = 0

    @classmethod
    def read(
        cls,
        manifest: Path,
        *,
        position: int = sys.maxsize,
        made_before: float = inf,
        closed_before: float = 0.0,
        handed_before: float = 0.0,
    ) -> "Promises":
        """Those made at or before ``position`` of the block log and the time ``made_before``; what was only closed, or
        handed over by syncfs, counts if it is older than these moments.

        What had begun is known for the whole run: a later version may have reached the disk before the cut.
        """
        found = cls()
        until = {"promised": made_before, "closed": closed_before, "handed": handed_before}
        lines = manifest.read_bytes().splitlines() if manifest.exists() else []
        for line in map(json.loads, lines):
            thing, version, what = line["thing"], line["version"], line["what"]
            if what == "begun":
                found.greatest[thing] = version
            elif line["at"] <= position and line["time"] < until[what]:
                found.least[thing] = version
                found.count += 1
        return found

    def broken(self, place: Path) -> list[str]:
        """One sentence for each promise that does not hold in ``place``."""
        if not place.exists():
            return [f"{place.name} is gone with {self.count} promises"] if self.count else []
        wrong = []
        for thing, greatest in sorted(self.greatest.items()):
            least = self.least.get(thing, 0)
            found = version_of(place, thing, range(least, greatest + 1))
            if found is not None:
                wrong.append(f"{place.name}/{thing}: promised {least}, begun {greatest}: {found}")
        return wrong


def version_of(place: Path, thing: str, versions: range) -> str | None:
    """None if ``thing`` is one of ``versions``, whole; else what is wrong with it."""
    if thing.startswith(("saved", "hasty", "handed")):
        return wrong_file(place / thing, thing, versions)
    if thing == "appended":
        return wrong_log(place / thing, versions)
    if thing.startswith("block"):
        return wrong_block(place / "blocks", thing, versions)
    if thing.startswith("name"):
        # A step is two calls for "directory" and "linked": between them the name is absent.
        allowed = {MADE[version % len(MADE)] for version in versions}
        allowed |= {"absent"} if len(versions) > 1 else set()
        found = kind_of(place / thing)
        return (
            None if found in allowed or (found == "file" and "linked" in allowed) else f"{found}, not {sorted(allowed)}"
        )
    return wrong_mark(place / "marked", versions)


def kind_of(path: Path) -> str:
    """What a name stands for."""
    if path.is_dir():
        return "directory"
    return "file" if path.is_file() else "absent"


def wrong_file(path: Path, thing: str, versions: range) -> str | None:
    """A file that is replaced as a whole."""
    if not path.exists():
        return None if versions[0] == 0 else "absent"
    data = path.read_bytes()
    if any(version and data == content(thing, version, length_of(thing, version)) for version in versions):
        return None
    return f"{len(data)} bytes of no such version, {data.count(0)} of them zero"


def wrong_log(path: Path, versions: range) -> str | None:
    """A log whose records stay."""
    data = path.read_bytes() if path.exists() else b""
    whole = [content("appended", version, record_length(version)) for version in range(1, versions[-1] + 1)]
    promised = b"".join(whole[: versions[0]])
    if data[: len(promised)] != promised:
        return f"{len(data)} bytes, {len(promised)} promised and not all there"
    later = b"".join(whole)
    if len(data) > len(later):
        return f"{len(data)} bytes, only {len(later)} written"
    if any(byte not in (0, right) for byte, right in zip(data, later, strict=False)):
        return "bytes that were never written"
    return None


def wrong_block(path: Path, thing: str, versions: range) -> str | None:
    """One block that is overwritten in place."""
    data = b""
    if path.exists():
        with path.open("rb") as file:
            data = os.pread(file.fileno(), BLOCK, int(thing.removeprefix("block")) * BLOCK)
    if not data.strip(b"\0"):
        return None if versions[0] == 0 else "empty"
    return None if any(data == content(thing, version, BLOCK) for version in versions if version) else "no such version"


def wrong_mark(path: Path, versions: range) -> str | None:
    """Attributes."""
    if not path.exists():
        return None if versions[0] == 0 else "absent"
    try:
        found = int(os.getxattr(path, "user.version"))
    except OSError:
        found = 0
    if found not in versions:
        return f"version {found}"
    modes = {0o600 | version % 0o100 for version in versions if version} | ({0o600} if versions[0] == 0 else set())
    return None if path.stat().st_mode & 0o777 in modes else f"mode {path.stat().st_mode:o}"


def start(writer: Writer) -> int:
    """Run a writer in a child process; returns its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            writer.run()
            status = 0
        except OSError as error:
            os.write(2, f"writer: {error!r}\n".encode())
        finally:
            os._exit(status)
    return pid
