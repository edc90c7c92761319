"""Run the same operation in a directory on the mount and in a plain one, and compare what came out.

An operation is a generator function: it gets a fresh directory and yields ``(label, value)`` pairs: each is one case.
Stat results become ``Facts``, the directory's own path becomes ``ROOT``.

What is left out of a comparison, and why: st_ino and st_dev (they name the file system); st_blksize (a hint);
the size and blocks of directories and the blocks of symlinks (how a file system stores names is its own affair);
st_blocks of files (by range in test_sparse); times (as relations in test_times, exactly in test_utimens).
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Any

type_names = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}

Cases = Iterator[tuple[str, object]]
Operation = Callable[[Path], Cases]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whom a test becomes; the supplementary groups are exactly ``groups``."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = User(uid=0, gid=0)
ALICE = User(uid=60001, gid=60001)
BOB = User(uid=60002, gid=60002)
CAROL = User(uid=60003, gid=60003, groups=(60001,))  # in Alice's group
USERS = {"root": ROOT, "alice": ALICE, "bob": BOB, "carol": CAROL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What stat(2) says and two file systems must agree on."""

    type: str
    mode: str
    nlink: int
    uid: int
    gid: int
    size: int | None
    rdev: int


def facts(result: os.stat_result) -> Facts:
    """The comparable part of a stat result."""
    directory = stat.S_ISDIR(result.st_mode)
    device = stat.S_ISCHR(result.st_mode) or stat.S_ISBLK(result.st_mode)
    return Facts(
        type=type_names[stat.S_IFMT(result.st_mode)],
        mode=f"{stat.S_IMODE(result.st_mode):04o}",
        nlink=result.st_nlink,
        uid=result.st_uid,
        gid=result.st_gid,
        size=None if directory else result.st_size,
        rdev=result.st_rdev if device else 0,
    )


def tried(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call answers: its value, or the name of its errno."""
    try:
        return call(*args, **kwargs)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def look(path: Path | str | bytes) -> Any:
    """lstat, or the name of its errno."""
    return tried(os.lstat, path)


@contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Become another user for a moment: real and effective ids and groups; root waits in the saved ids, which no check
    of a file looks at. (A child process for each call would cost milliseconds, and there are thousands.)
    """
    groups = os.getgroups()
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, 0)
    os.setresuid(user.uid, user.uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def by(user: User, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``tried`` as another user."""
    with acting_as(user):
        return tried(call, *args, **kwargs)


def open_and_close(path: Path | str | bytes, flags: int, mode: int = 0o644) -> str:
    """open(2) as an action: the descriptor's number is nobody's business."""
    os.close(os.open(path, flags, mode))
    return "opened"


@dataclass(slots=True, kw_only=True)
class Tally:
    """How much has been compared in this run."""

    cases: int = 0
    documented: int = 0
    promises: int = 0
    rounds: int = 0
    cuts: int = 0
    refusals: int = 0

    def add(self, other: "Tally") -> None:
        """What another process has compared."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))

    def lines(self) -> Iterator[str]:
        """For the end of a run."""
        if self.cases:
            yield (
                f"mounted: {self.cases} cases compared with a plain file system and equal unless reported above; "
                f"{self.documented} documented differences checked"
            )
        if self.promises:
            yield (
                f"mounted: {self.promises} promises verified after {self.rounds} kills and {self.cuts} power cuts; "
                f"{self.refusals} times two hosts had no commit yet, and attach said so"
            )


tally = Tally()


@dataclass(slots=True, kw_only=True)
class Both:
    """The two directories of one test, and the comparison. Owner of the per-test directories."""

    mount: Path
    plain: Path
    tally: Tally
    stand_in: bool = False
    numbers: Iterator[int] = field(default_factory=count)

    def __call__(self, operation: Operation, *, user: User | None = None) -> list[tuple[str, object]]:
        """Run ``operation`` in both directories and compare every case; returns the common outcome."""
        return self.judged(*self.run(operation, user=user))

    def compare(self, operation: Operation) -> None:
        """The same in the two directories themselves, when no fresh ones can be made."""
        self.judged(cases_of(operation, self.mount), cases_of(operation, self.plain))

    def judged(
        self, on_mount: list[tuple[str, object]], on_plain: list[tuple[str, object]]
    ) -> list[tuple[str, object]]:
        """Fails for the cases that differ."""
        self.tally.cases += len(on_plain)
        wrong = differences(on_mount, on_plain)
        assert not wrong, "\n".join([f"{len(wrong)} of {len(on_plain)} cases differ:", *wrong[:60]])
        assert on_plain, "the operation yielded nothing to compare"
        return on_plain

    def documented(
        self, operation: Operation, *, mount: object, plain: object, why: str, user: User | None = None
    ) -> None:
        """One case in which the two are known to differ; ``why`` is the published reason. Both answers are exact."""
        (on_mount,), (on_plain,) = self.run(operation, user=user)
        self.tally.documented += 1
        assert on_plain[1] == plain, f"the plain file system answered {on_plain}"
        assert on_mount[1] == (plain if self.stand_in else mount), f"the mount answered {on_mount}; known: {why}"

    def run(self, operation: Operation, *, user: User | None) -> list[list[tuple[str, object]]]:
        """The comparable cases of ``operation`` on the mount and on the plain file system."""
        name = f"{next(self.numbers):03d}"
        outcomes = []
        for parent in (self.mount, self.plain):
            root = parent / name
            root.mkdir()
            root.chmod(0o755)
            if user is None:
                outcomes.append(cases_of(operation, root))
            else:
                os.chown(root, user.uid, user.gid)
                with acting_as(user):
                    outcomes.append(cases_of(operation, root))
        return outcomes


def cases_of(operation: Operation, root: Path) -> list[tuple[str, object]]:
    """Run one operation under umask 022; an escaped OSError is its last case."""
    umask = os.umask(0o022)
    found: list[tuple[str, object]] = []
    try:
        for label, value in operation(root):
            found.append((label, comparable(value, root)))
    except OSError as error:
        found.append((f"after {found[-1][0] if found else 'nothing'}", f"raised {error!r}".replace(str(root), "ROOT")))
    finally:
        os.umask(umask)
    return found


def comparable(value: Any, root: Path) -> object:
    """``value`` without what two file systems need not agree on."""
    match value:
        case os.stat_result():
            return facts(value)
        case str():
            return value.replace(str(root), "ROOT")
        case bytes() | bytearray():
            return bytes(value).replace(os.fsencode(root), b"ROOT")
        case Path():
            return comparable(str(value), root)
        case list() | tuple():
            return [comparable(item, root) for item in value]
        case dict():
            return {key: comparable(item, root) for key, item in value.items()}
        case _:
            return value


def differences(on_mount: list[tuple[str, object]], on_plain: list[tuple[str, object]]) -> list[str]:
    """One line for each case that differs."""
    wrong = []
    for (label, got), (expected_label, expected) in zip(on_mount, on_plain, strict=False):
        if label != expected_label:
            wrong.append(
                f"  the mount went on with {label!r}: {short(got)}, plain with {expected_label!r}: {short(expected)}"
            )
            break
        if got != expected:
            wrong.append(f"  {label}: expected {short(expected)}, the mount says {short(got)}")
    if len(on_mount) != len(on_plain) and not wrong:
        wrong.append(f"  the mount gave {len(on_mount)} cases, plain {len(on_plain)}")
    return wrong


def short(value: object) -> str:
    """A value that fits a line."""
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:200]}... ({len(text)} characters)"
