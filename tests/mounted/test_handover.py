"""The kernel hands over what programs wrote, and says so where it cannot; who asked for it can be killed meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from megafs.fuse.handover import hand_over
from tests.mounted.both import tried
from tests.mounted.test_machine import patterned
from tests.mounted.vault import UNMOUNT_S, Vault, is_mounted, mounted, repository

FILES = 200
ENDED_S = 10.0
STUCK_S = 2.0


def write_open(place: Path) -> list[int]:
    """Files that stay open, one large and many small, whose pages the kernel has and the daemon may not."""
    descriptors = [os.open(place / f"open{number}", os.O_RDWR | os.O_CREAT) for number in range(FILES)]
    for number, descriptor in enumerate(descriptors):
        assert os.write(descriptor, content(number)) == len(content(number))
    return descriptors


def content(number: int) -> bytes:
    return patterned(20_000 if number else 30_000_000, number)


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):  # its mount has gone
            os.close(descriptor)


def lost(place: Path) -> list[int]:
    """Which of them are not whole."""
    return [number for number in range(FILES) if tried((place / f"open{number}").read_bytes) != content(number)]


def test_everything_is_handed_over_and_an_error_is_told(vault):
    files = [vault.mountpoint / f"handed over {number}" for number in range(3)]
    for file in files:
        file.write_bytes(b"x" * 300_000)
    files[1].unlink()
    hand_over([bytes(file) for file in files])  # one that is gone has nothing to hand over
    with pytest.raises(OSError, match="Not a directory"):
        hand_over([bytes(files[0]), bytes(files[2] / "below")])


def end_in_order(vault: Vault) -> None:
    daemon, vault.daemon = vault.daemon, None
    assert daemon is not None
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(UNMOUNT_S) == 0


def sync_and_kill(vault: Vault) -> None:
    vault.megafs("sync", "--local", vault.name, *vault.unlocking[:2])
    vault.kill()


@pytest.mark.parametrize(
    ("end", "keeps"),
    [(end_in_order, True), (sync_and_kill, True), (Vault.kill, False)],
    ids=["SIGTERM", "megafs sync --local", "control"],
)
def test_what_programs_wrote_into_open_files_outlives_the_daemon(scratch: Path, end, keeps: bool) -> None:
    """At the end of a session everything is told to end, with files open. (Killed, it loses what the kernel had.)"""
    base = scratch / f"ending-{end.__name__}"
    base.mkdir()
    with mounted(base) as vault:
        descriptors = write_open(vault.mountpoint)
        end(vault)
        close_all(descriptors)
        vault.mount()
        assert bool(lost(vault.mountpoint)) != keeps
        assert vault.new_complaints() == []


@contextmanager
def connections(base: Path) -> Iterator[Path]:
    """The kernel's directory of FUSE connections, where one can be broken off."""
    place = base / "connections"
    place.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def ends(daemon: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        daemon.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def waits_for_ever(pid: int) -> bool:
    """Whether a thread of the process is in a wait that no signal ends."""
    states = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    return "D" in states


@contextmanager
def unanswering(place: Path, asker: str) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, mounted; gone at the end, or the test's way out was not one."""
    place.mkdir()
    command = [sys.executable, "-m", "tests.mounted.unanswering", str(place), asker]
    with subprocess.Popen(command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        try:
            limit = time.monotonic() + ENDED_S
            while not is_mounted(place):
                assert time.monotonic() < limit, "it does not mount"
                time.sleep(0.02)  # another process is starting
            yield daemon
        finally:
            daemon.kill()
            subprocess.run(["fusermount3", "-uz", str(place)], check=False, capture_output=True)


@pytest.mark.needs_root
@pytest.mark.parametrize(("asker", "dies"), [("other", True), ("own", False)], ids=["another process", "control"])
def test_killed_while_the_kernel_hands_over(tmp_path: Path, asker: str, dies: bool) -> None:
    """A daemon that was killed while a thread of its own waited in syncfs stayed for ever: the thread waited for the
    daemon, and held its end of the mount open. Three were seen. (That thread is the control.)"""
    place = tmp_path / "place"
    with connections(tmp_path) as all_of_them, unanswering(place, asker) as daemon:
        connection = all_of_them / str(os.minor(os.stat(place).st_dev))
        written = os.open(place / "image", os.O_WRONLY)
        os.write(written, b"x" * 5000)
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdin.write(b"ask\n")
        daemon.stdin.flush()
        assert daemon.stdout.readline() == b"asked\n"
        daemon.kill()
        try:
            assert ends(daemon, ENDED_S if dies else STUCK_S) == dies
            assert waits_for_ever(daemon.pid) != dies
        finally:
            if connection.exists():
                (connection / "abort").write_text("1")
        assert ends(daemon, ENDED_S)
        told = [tried(call, written) for call in (os.fsync, os.close)]
        assert any(told), "the writer was told nothing"
