"""Pack files: descriptors that stay valid while they are used, and errors of the disk as errors of ours."""

import errno
import os
import threading

import pytest

from megafs.errors import DiskError, NoSpace
from megafs.store.disk import OPEN_FILES, Disk, told


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path)
    yield made
    made.close()


def test_buffers_are_written_one_behind_the_other(disk):
    disk.create(1)
    pieces = [bytes([n % 256]) * (n % 7) for n in range(1500)]
    disk.write(1, 10, pieces)
    assert disk.read(1, 10, 1 << 20) == b"".join(pieces)
    assert disk.read(1, 0, 10) == bytes(10)
    assert disk.read_now(1, 10, 100) in (None, b"".join(pieces)[:100])
    assert disk.read_now(1, 10, 1 << 20) is None, "shorter than asked for"


def test_creating_begins_anew_and_ensuring_does_not(disk):
    disk.create(1)
    disk.write(1, 0, [b"old"])
    disk.ensure(1)
    assert disk.read(1, 0, 3) == b"old"
    disk.create(1)
    assert disk.read(1, 0, 3) == b""


def test_what_is_absent_is_empty_or_an_error(disk):
    assert disk.read(9, 0, 10) == b""
    assert disk.read_now(9, 0, 10) is None
    assert disk.blocks(9) == 0
    disk.unlink(9)
    disk.punch(9, 0, 10)
    with pytest.raises(DiskError):
        disk.write(9, 0, [b"x"])
    with pytest.raises(DiskError):
        disk.sync(9)


def test_punching_gives_blocks_back(disk):
    disk.create(1)
    disk.write(1, 0, [os.urandom(1 << 20)])
    disk.sync(1)
    before = disk.blocks(1)
    disk.punch(1, 0, 1 << 19)
    assert disk.blocks(1) < before
    assert disk.read(1, 0, 100) == bytes(100)


def test_more_packs_than_descriptors(disk):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(OPEN_FILES + 50):
        disk.create(number)
        disk.write(number, 0, [b"%d" % number])
    assert len(os.listdir("/proc/self/fd")) <= before + OPEN_FILES
    for number in range(OPEN_FILES + 50):
        assert disk.read(number, 0, 10) == b"%d" % number


def test_a_descriptor_in_use_is_not_closed_under_its_user(disk, tmp_path):
    """Else its number goes to the next file that is opened, and the write ends there."""
    disk.create(1)
    inside, go = threading.Event(), threading.Event()
    seen = []

    def use():
        with disk._using(1) as descriptor:
            inside.set()
            go.wait(5)
            os.pwrite(descriptor, b"late", 0)
            seen.append(descriptor)

    thread = threading.Thread(target=use)
    thread.start()
    inside.wait(5)
    disk.unlink(1)
    with open(tmp_path / "index.db", "wb+", buffering=0) as other:
        go.set()
        thread.join()
        assert other.fileno() != seen[0]
        other.seek(0)
        assert other.read() == b"", "nothing strange was written into it"


def test_errors_are_told(tmp_path):
    assert isinstance(told(OSError(errno.ENOSPC, "full")), NoSpace)
    assert isinstance(told(OSError(errno.EDQUOT, "quota")), NoSpace)
    assert isinstance(told(OSError(errno.EIO, "broken")), DiskError)
    gone = Disk(tmp_path / "gone")
    for call in (gone.free_bytes, gone.numbers, gone.sync_directory, lambda: gone.create(1)):
        with pytest.raises(DiskError):
            call()
