"""Locks and appends between processes: flock, fcntl (POSIX and open-file-description), and four writers at once."""

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mounted.both import Both, Cases, tried

F_OFD_SETLK = 37
WRITERS, RECORDS, RECORD_BYTES = 4, 300, 57


class Other:
    """Another process that does what it is told, one call at a time, with its own descriptors."""

    def __init__(self, ask: int, answer: int) -> None:
        self.ask, self.answer = ask, answer

    def __call__(self, command: str) -> str:
        os.write(self.ask, command.encode().ljust(64))
        return os.read(self.answer, 64).decode().strip()


@contextmanager
def other_process(path: Path) -> Iterator[Other]:
    """A child with ``path`` open, obeying one-word commands; ended by closing its pipe."""
    ask_end, ask = os.pipe()
    answer, answer_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ask)
        os.close(answer)
        fd = os.open(path, os.O_RDWR)
        while command := os.read(ask_end, 64).decode().strip():
            found = tried(COMMANDS[command], fd)
            os.write(answer_end, str(found).encode().ljust(64))
        os._exit(0)
    os.close(ask_end)
    os.close(answer_end)
    try:
        yield Other(ask, answer)
    finally:
        os.close(ask)
        os.close(answer)
        os.waitpid(pid, 0)


def ofd(fd: int, kind: int, start: int, length: int) -> None:
    """A lock that belongs to the open file, not to the process."""
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


def asked(fd: int) -> str:
    """F_GETLK: which kind of lock stands in the way of writing to bytes 10 to 20."""
    found = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 10, 10, 0))
    kind, _, start, length, pid = struct.unpack("hhqqi4x", found)
    return f"{kind} {start} {length} {pid != 0}"


COMMANDS: dict[str, Callable[[int], object]] = {
    "flock-shared": lambda fd: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "flock": lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "unflock": lambda fd: fcntl.flock(fd, fcntl.LOCK_UN),
    "lock": lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10),
    "lock-beside": lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 20),
    "lock-all": lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "lock-shared": lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 10, 10),
    "unlock": lambda fd: fcntl.lockf(fd, fcntl.LOCK_UN),
    "ofd": lambda fd: ofd(fd, fcntl.F_WRLCK, 10, 10),
    "unofd": lambda fd: ofd(fd, fcntl.F_UNLCK, 0, 0),
    "ask": asked,
    "write": lambda fd: os.pwrite(fd, b"theirs", 10),
    "read": lambda fd: os.pread(fd, 6, 10),
}


def test_between_two_processes(both: Both) -> None:
    """Every command of one after every command of the other."""

    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"-" * 100)
        with path.open("r+b") as file, other_process(path) as other:
            for mine, mine_call in COMMANDS.items():
                for theirs in COMMANDS:
                    answers = [
                        str(tried(mine_call, file.fileno())),
                        other(theirs),
                        str(tried(mine_call, file.fileno())),
                    ]
                    yield f"{mine}, then {theirs}", answers
                    for command in ("unflock", "unlock", "unofd"):
                        COMMANDS[command](file.fileno())
                        other(command)

    both(operation)


def test_locks_go_with_their_process(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"-" * 100)
        for command in ("flock", "lock", "ofd"):
            with path.open("r+b") as file:
                with other_process(path) as other:
                    yield f"{command} held", [other(command), str(tried(COMMANDS[command], file.fileno()))]
                yield f"{command} after its end", str(tried(COMMANDS[command], file.fileno()))

    both(operation)


def test_posix_locks_go_with_any_close(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"-" * 100)
        with path.open("r+b") as file, other_process(path) as other:
            COMMANDS["lock"](file.fileno())
            yield "held", other("lock")
            os.close(os.open(path, os.O_RDONLY))
            yield "gone with another descriptor", other("lock")

    both(operation)


def test_four_processes_append(both: Both) -> None:
    """O_APPEND writes are whole and none is lost."""

    def operation(root: Path) -> Cases:
        path = root / "file"
        path.touch()
        children = []
        for writer in range(WRITERS):
            pid = os.fork()
            if pid == 0:
                fd = os.open(path, os.O_WRONLY | os.O_APPEND)
                for record in range(RECORDS):
                    os.write(
                        fd,
                        b"%d %d" % (writer, record)
                        + b"." * (RECORD_BYTES - len(b"%d %d\n" % (writer, record)))
                        + b"\n",
                    )
                os._exit(0)
            children.append(pid)
        yield "ends", [os.waitpid(pid, 0)[1] for pid in children]
        lines = path.read_bytes().splitlines()
        yield "count", len(lines)
        yield "whole", {len(line) for line in lines} == {RECORD_BYTES - 1}
        for writer in range(WRITERS):
            own = [int(line.split()[1].rstrip(b".")) for line in lines if line.startswith(b"%d " % writer)]
            yield f"order of {writer}", own == list(range(RECORDS))

    both(operation)


def test_what_one_process_writes_the_other_reads(both: Both) -> None:
    def operation(root: Path) -> Cases:
        path = root / "file"
        path.write_bytes(b"-" * 100)
        with path.open("r+b", buffering=0) as file, other_process(path) as other:
            for turn in range(20):
                os.pwrite(file.fileno(), b"mine%02d" % turn, 10)
                yield f"turn {turn}", [other("read"), other("write"), os.pread(file.fileno(), 8, 9)]

    both(operation)
