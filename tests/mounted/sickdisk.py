"""A disk that can be made sick: an ext4 on a loop device whose backing file answers EIO when it is told to.

The backing file is the one file of a small FUSE file system (``blocklog``'s, without its log) that looks into a file
before each request: what is in there is the disk's mood. Without a journal, because a journal that met an error stays
aborted, and the disk is to become well again.

Run as a program: ``python -m tests.mounted.sickdisk MOUNTPOINT IMAGE MOOD``.
"""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from tests.mounted.blocklog import BlockLog
from tests.mounted.vault import repository

WELL, NO_WRITES, NO_READS, DEAD = "", "no writes", "no reads", "dead"


class MoodyImage(BlockLog):
    """The image as long as the mood lets it be reached."""

    def __init__(self, image: Path, mood: Path) -> None:
        super().__init__(image, Path(os.devnull))
        self.mood = os.open(mood, os.O_RDONLY)

    def refuse_in(self, *moods: str) -> None:
        if os.pread(self.mood, 20, 0).decode() in moods:
            raise pyfuse3.FUSEError(errno.EIO)

    async def read(self, fh, off, size):
        self.refuse_in(NO_READS, DEAD)
        return os.pread(self.image, size, off)

    async def write(self, fh, off, buf):
        """Refused writes arrive all the same: an ext4 without a journal that loses its inodes is not well afterwards.
        (Disks that lose what they were given: the power cuts.)"""
        written = os.pwrite(self.image, buf, off)
        self.refuse_in(NO_WRITES, DEAD)
        return written

    async def fsync(self, fh, datasync):
        self.refuse_in(NO_WRITES, DEAD)


@dataclass(slots=True, kw_only=True)
class SickDisk:
    """A mounted ext4 that does what it is told."""

    root: Path
    mood: Path
    device: str

    def become(self, mood: str) -> None:
        """From the next request on; pages that the kernel has are dropped where it can."""
        self.mood.write_text(mood)
        Path("/proc/sys/vm/drop_caches").write_text("1")

    def turn_read_only(self) -> None:
        """As ext4 with ``errors=remount-ro`` does after an error of its own: at once, under files open for writing, and
        for good."""
        run("mount", "-o", "remount,errors=remount-ro", str(self.root))
        Path("/sys/fs/ext4", Path(self.device).name, "trigger_fs_error").write_text("1")

    def remount(self) -> None:
        """What its owner does then."""
        run("umount", str(self.root))
        mount(self.device, self.root)

    def fill(self) -> Path:
        """Nothing is left on it; returns the file to remove."""
        filler = self.root / "filler"
        with filler.open("wb") as file:
            size = 1 << 28
            while size >= 4096:  # on its page to come, the disk keeps a little aside while much is being written
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
                except OSError:
                    size //= 2
        return filler


def run(*command: str) -> str:
    """A system program that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert not done.returncode, f"{command}: {done.stderr}"
    return done.stdout.strip()


def mount(device: str, root: Path) -> None:
    run("mount", "-t", "ext4", "-o", "errors=continue", device, str(root))


@contextmanager
def sick_disk(base: Path, size_bytes: int) -> Iterator[SickDisk]:
    """Mounted below ``base``, and gone at the end, whatever mood it is in."""
    image, mood, served, root = base / "image", base / "mood", base / "served", base / "disk"
    for place in (served, root):
        place.mkdir(parents=True)
    mood.write_text(WELL)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", str(image))
    command = [sys.executable, "-m", "tests.mounted.sickdisk", str(served), str(image), str(mood)]
    server = subprocess.Popen(command, cwd=repository)
    try:
        limit = time.monotonic() + 10
        while not (served / "image").exists():
            assert server.poll() is None, "the sick disk does not start"
            assert time.monotonic() < limit, "the sick disk does not answer"
            time.sleep(0.02)  # another process is starting
        device = run("losetup", "--find", "--show", "--direct-io=on", str(served / "image"))
        try:
            mount(device, root)
            try:
                yield SickDisk(root=root, mood=mood, device=device)
            finally:
                mood.write_text(WELL)
                run("umount", str(root))
        finally:
            run("losetup", "--detach", device)
    finally:
        subprocess.run(["fusermount3", "-uz", str(served)], check=False, capture_output=True)
        server.wait(10)


def serve(mountpoint: str, image: str, mood: str) -> None:
    """Until unmounted."""
    pyfuse3.init(MoodyImage(Path(image), Path(mood)), mountpoint, {"fsname=sickdisk", *pyfuse3.default_options})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    serve(*sys.argv[1:])
