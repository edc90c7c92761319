"""utimensat, futimens: exact nanoseconds, UTIME_NOW, UTIME_OMIT, old and far times, and who may."""

import os
import time
from pathlib import Path

import pytest

from tests.mounted import calls
from tests.mounted.both import ALICE, BOB, CAROL, ROOT, Both, Cases, by, tried
from tests.mounted.things import TYPES, later, make, tick, times

NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
SECOND = 1_000_000_000
FOLLOW_NOT = 0x100
MOMENTS = {
    "epoch": (0, 0),
    "one ns": (0, 1),
    "last ns of a second": (1_000_000_000, 999_999_999),
    "one ns before the epoch": (-1, 999_999_999),
    "1969": (-86_400 * 100, 123_456_789),
    "1902": (-(2**31) + 1, 5),
    "2038, the last second of 32 bits": (2**31 - 1, 999_999_999),
    "2038, one later": (2**31, 1),
    "2106, the last of unsigned 32 bits": (2**32 - 1, 999_999_999),
    "2106, one later": (2**32, 7),
    "2242": (2**33 + 5, 11),
    "2261": (9_190_000_000, 987_654_321),
}


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "fifo"])
def test_exact_nanoseconds(both: Both, kind: str) -> None:
    def operation(root: Path) -> Cases:
        path = make(kind, root / kind)
        for label, moment in MOMENTS.items():
            answer = tried(calls.utimensat, path, moment, (moment[0], 42), FOLLOW_NOT)
            found = times(path)
            yield label, [answer, found["atime"], found["mtime"]]

    both(operation)


def test_times_survive_writing_back(both: Both) -> None:
    """A time set while the kernel still holds unwritten pages wins over the time of those pages."""

    def operation(root: Path) -> Cases:
        for label, moment in MOMENTS.items():
            path = root / label
            with path.open("wb") as file:
                file.write(b"x" * 10_000)
                file.flush()
                calls.utimensat(path, moment, moment)
                inside = times(path)
            os.sync() if label == "epoch" else None
            after = times(path)
            yield label, [inside["atime"], inside["mtime"], after["atime"], after["mtime"]]

    both(operation)


def test_now_and_omit(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        for label, atime, mtime in (
            ("both now", (0, NOW), (0, NOW)),
            ("atime now", (0, NOW), (0, OMIT)),
            ("mtime now", (0, OMIT), (0, NOW)),
            ("neither", (0, OMIT), (0, OMIT)),
            ("atime set", (7, 8), (0, OMIT)),
            ("mtime set", (0, OMIT), (9, 10)),
            ("seconds are ignored", (99, OMIT), (99, NOW)),
        ):
            os.utime(path, ns=(5, 6))
            before = times(path)
            tick()
            low = time.time_ns()
            answer = tried(calls.utimensat, path, atime, mtime)
            found = times(path)
            yield (
                label,
                [
                    answer,
                    *("now" if abs(value - low) < 10 * SECOND else value for value in (found["atime"], found["mtime"])),
                    later(before, found),
                ],
            )

    both(operation)


def test_nonsense(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        for label, atime, mtime in (
            ("ns too large", (0, SECOND), (0, 0)),
            ("ns negative", (0, 0), (0, -1)),
            ("ns of mtime too large", (0, OMIT), (0, SECOND)),
        ):
            yield label, tried(calls.utimensat, path, atime, mtime)
        yield "missing", tried(calls.utimensat, root / "missing", (0, 0), (0, 0))
        yield "missing, both omitted", tried(calls.utimensat, root / "missing", (0, OMIT), (0, OMIT))
        yield "unknown flag", tried(calls.utimensat, path, (0, 0), (0, 0), 0x8)

    both(operation)


@pytest.mark.needs_root
def test_who_may(both: Both) -> None:
    """Exact times are for the owner; "now" also for whoever may write."""

    def operation(root: Path) -> Cases:
        for mode in (0o600, 0o644, 0o666, 0o660, 0o444):
            for name, user in {"root": ROOT, "alice": ALICE, "bob": BOB, "carol": CAROL}.items():
                path = make("file", root / f"{mode:o}{name}", mode=mode, owner=ALICE)
                for label, atime, mtime in (
                    ("set", (1, 0), (2, 0)),
                    ("now", (0, NOW), (0, NOW)),
                    ("half now", (0, NOW), (0, OMIT)),
                    ("half set", (0, OMIT), (2, 0)),
                    ("omit", (0, OMIT), (0, OMIT)),
                    ("mixed", (0, NOW), (3, 0)),
                ):
                    yield f"{mode:o} {name} {label}", by(user, calls.utimensat, path, atime, mtime)

    both(operation)


@pytest.mark.needs_root
def test_each_type(both: Both) -> None:
    def operation(root: Path) -> Cases:
        for kind in TYPES:
            path = make(kind, root / kind)
            yield kind, tried(calls.utimensat, path, (100, 1), (200, 2), FOLLOW_NOT)
            yield f"{kind} after", [times(path)["atime"], times(path)["mtime"]]
            yield f"{kind} followed", tried(calls.utimensat, path, (300, 1), (400, 2))
            yield f"{kind} itself", times(path)["mtime"]  # atime of a symlink moves when it is followed

    both(operation)


def test_through_descriptors(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = make("file", root / "file")
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            fd = os.open(path, flags)
            os.utime(fd, ns=(flags * SECOND + 1, -5))
            yield f"open {flags}", [times(fd)["atime"], times(fd)["mtime"]]
            os.close(fd)
        fd = os.open(path, os.O_RDWR)
        path.unlink()
        os.utime(fd, ns=(11, 12))
        yield "unlinked", [times(fd)["atime"], times(fd)["mtime"]]
        os.close(fd)

    both(operation)
