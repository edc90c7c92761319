"""System calls at random, by several users, in a small tree: each step has an outcome, and now and then the whole tree
is looked at. The same seed does the same in any directory.
"""

import os
import random
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.mounted import calls
from tests.mounted.both import USERS, Cases, acting_as, facts, look, tried
from tests.mounted.things import NUL_DEVICE, later, tick, times

NAMES = ("a", "b", "c", "d")
DIRECTORIES = (".", ".", ".", ".", ".", "d", "d", "d", "e", "e", "d/d", "e/d", "d/e", "link", "nowhere")
MODES = (0o777, 0o777, 0o666, 0o755, 0, 0o111, 0o222, 0o400, 0o444, 0o600, 0o644, 0o666, 0o700, 0o711, 0o755, 0o777)
SPECIAL = (0, 0, 0, 0o1000, 0o2000, 0o4000, 0o6000, 0o3000)
IDS = (-1, 0, 60001, 60002, 60003)
FLAGS = (os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_NOATIME)
ACL_NAMES = ("system.posix_acl_access", "system.posix_acl_default")
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2


class Anything:
    """Random calls below ``root``; owner of the lots."""

    def __init__(self, root: Path, seed: int, acls: tuple[bytes, ...] = ()) -> None:
        """``root`` is empty; what is made is one level below, so that ``..`` leads to nothing else."""
        self.root, self.lots, self.acls = root / "top", random.Random(seed), acls
        self.held: list[int] = []
        self.root.mkdir()
        self.open_up()

    def mode(self) -> int:
        return self.lots.choice(MODES) | self.lots.choice(SPECIAL)

    def path(self) -> str:
        return (
            f"{self.root}/{self.lots.choice(DIRECTORIES)}/{self.lots.choice((*NAMES, *NAMES, 'link', 'e', '.', '..'))}"
        )

    def moment(self) -> tuple[int, int]:
        return self.lots.choice(((0, NOW), (0, OMIT), (5, 6), (-7, 8), (1 << 32, 9)))

    def open(self) -> Any:
        flags = self.lots.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
        for flag in FLAGS:
            if self.lots.random() < 0.3:
                flags |= flag
        if flags & os.O_DIRECTORY:
            flags &= ~os.O_CREAT  # kernels disagree with themselves
        keep, size = self.lots.random() < 0.1, self.lots.randrange(9)
        fd = os.open(self.path(), flags | os.O_NONBLOCK, self.mode())
        found: list[Any] = []
        if stat.S_ISREG(os.fstat(fd).st_mode):
            found.append(tried(os.write, fd, b"x" * size))
        if keep and len(self.held) < 5:
            self.held.append(fd)
        else:
            os.close(fd)
        return found

    def through_held(self) -> Any:
        which, size, mode = self.lots.random(), self.lots.randrange(9), self.mode()
        action = self.lots.randrange(7)
        if not self.held:
            return None
        fd = self.held[int(which * len(self.held))]
        match action:
            case 0:
                return tried(os.write, fd, b"y" * size)
            case 1:
                return tried(os.ftruncate, fd, size)
            case 2:
                return tried(os.fchmod, fd, mode)
            case 3:
                return tried(os.pread, fd, 100, 0)
            case 4:
                return tried(os.fsync, fd)
            case 5:
                return tried(os.fchown, fd, -1, (60001, 60002)[mode & 1])
            case _:
                self.held.remove(fd)
                found = facts(os.fstat(fd))
                os.close(fd)
                return found

    def step(self) -> tuple[str, Callable[[], Any]]:
        """A call with all that it is given."""
        lots, path, other, mode = self.lots, self.path(), self.path(), self.mode()
        kind = lots.choice((stat.S_IFREG, stat.S_IFSOCK, stat.S_IFCHR))
        target = lots.choice(("a", "d", "../e", "nowhere", "link", "d/b"))
        size, how, flags, follow = (
            lots.randrange(20),
            lots.randrange(8),
            lots.choice((0, 0, 0, 1, 2)),
            lots.random() < 0.5,
        )
        uid, gid, one, two, value = (
            lots.choice(IDS),
            lots.choice(IDS),
            self.moment(),
            self.moment(),
            lots.randbytes(size),
        )
        choices: list[tuple[int, str, Callable[[], Any]]] = [
            (8, "open", self.open),
            (4, "held", self.through_held),
            (4, "mkdir", lambda: os.mkdir(path, mode)),
            (3, "rmdir", lambda: os.rmdir(path)),
            (5, "unlink", lambda: os.unlink(path)),
            (4, "link", lambda: os.link(path, other, follow_symlinks=follow)),
            (3, "symlink", lambda: os.symlink(target, path)),
            (8, "rename", lambda: calls.renameat2(path, other, flags)),
            (5, "chmod", lambda: os.chmod(path, mode)),
            (4, "chown", lambda: os.chown(path, uid, gid, follow_symlinks=follow)),
            (3, "truncate", lambda: os.truncate(path, size)),
            (2, "mkfifo", lambda: os.mkfifo(path, mode)),
            (2, "mknod", lambda: os.mknod(path, kind | mode, NUL_DEVICE)),
            (4, "utimensat", lambda: calls.utimensat(path, one, two, 0 if follow else 0x100)),
            (2, "setxattr", lambda: os.setxattr(path, "user.x", value, flags, follow_symlinks=follow)),
            (1, "removexattr", lambda: os.removexattr(path, "user.x", follow_symlinks=follow)),
            (2, "readlink", lambda: os.readlink(path)),
            (2, "listdir", lambda: sorted(os.listdir(path))),
            (2, "access", lambda: os.access(path, how)),
            (2, "stat", lambda: facts(os.stat(path))),
        ]
        if self.acls:
            which, entries = lots.choice(ACL_NAMES), lots.choice(self.acls)
            choices += [
                (4, "setfacl", lambda: os.setxattr(path, which, entries)),
                (1, "getfacl", lambda: os.getxattr(path, which)),
                (1, "delfacl", lambda: os.removexattr(path, which)),
            ]
        _, name, call = lots.choices(choices, [weight for weight, _, _ in choices])[0]
        label = f"{name} {path} {other}".replace(str(self.root), "")
        return label, call

    def open_up(self) -> None:
        """So that not all is refused: most directories let everybody in, some are sticky or give their group on; and
        the two that most paths begin with are there."""
        os.chmod(self.root.parent, 0o755)
        os.chmod(self.root, 0o777)
        for name in ("d", "e"):
            with suppress(OSError):
                (self.root / name).mkdir()
        for directory, names, _ in os.walk(self.root):
            names.sort()
            for name in names:
                if self.lots.random() < 0.9 and not os.path.islink(f"{directory}/{name}"):
                    os.chmod(f"{directory}/{name}", 0o777 | self.lots.choice((0, 0, 0o1000, 0o2000)))

    def tree(self) -> dict[str, Any]:
        """Everything that root sees."""
        found: dict[str, Any] = {}
        for directory, names, files in os.walk(self.root):
            names.sort()
            for name in sorted((*names, *files, ".")):
                path = Path(directory, name)
                facts_of = look(path)
                found[str(path)] = facts_of
                if stat.S_ISREG(facts_of.st_mode):
                    found[f"{path} content"] = path.read_bytes()
                if not stat.S_ISLNK(facts_of.st_mode):
                    found[f"{path} xattrs"] = {
                        key: os.getxattr(path, key) for key in sorted(os.listxattr(path)) if key != "security.selinux"
                    }
        return {key.replace(str(self.root), ""): value for key, value in found.items()}

    def run(self, steps: int, *, timed: bool) -> Cases:
        """``timed``: which times of the paths moved is a part of each outcome; costs a tick of the clock each."""
        umask = os.umask(0)
        try:
            for number in range(steps):
                name = self.lots.choice(("root", "alice", "bob", "carol", "alice", "bob"))
                os.umask(self.lots.choice((0, 0o022, 0o077)))
                label, call = self.step()
                places = [Path(f"{self.root}/{part}") for part in label.split()[1:]]
                places += [place.parent for place in places]
                before = [tried(times, place) for place in places] if timed else []
                if timed:
                    tick()
                with acting_as(USERS[name]):
                    answer = tried(call)
                yield f"{number} {name} {label}", answer
                if timed:
                    after = [tried(times, place) for place in places]
                    moved = [
                        [key for key in later(old, new) if key.strip("-") != "atime"]
                        if isinstance(old, dict) and isinstance(new, dict)
                        else type(new)
                        for old, new in zip(before, after, strict=True)
                    ]
                    if not label.startswith("delfacl"):  # the kernel moves ctime, also when there was no ACL
                        yield f"{number} {name} {label} moved", str(moved)
                if number % 10 == 9:
                    self.open_up()
                if number % 50 == 49:
                    yield f"tree after {number}", self.tree()
        finally:
            os.umask(umask)
            for fd in self.held:
                os.close(fd)
