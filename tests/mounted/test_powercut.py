"""Power cuts: the state directory is on an ext4 whose disk remembers what was flushed and what was only written.

A vault is mounted from it and written to; then the disk is made again as a cut at many moments may have left it (all
that was flushed, any part of the rest), its file system recovers, the vault is mounted from it, and every promise made
before that moment must hold. The host folders are on that disk too: hosts that know what came after a cut would help,
and those that have seen another cut's future would confuse.

A few cuts; ``--rounds N`` for more, all from one recording.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounted.blocklog import cut, entries
from tests.mounted.both import tally
from tests.mounted.promises import Promises, Writer, start
from tests.mounted.vault import Vault, repository

pytestmark = pytest.mark.needs_root
CUTS = 3
RECORDING_S = 4.0
IMAGE_BYTES = 256 << 20
WRITERS = 2


def run(*command: str) -> str:
    """A system program that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert not done.returncode, f"{command}: {done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One run of the writers, as the disk saw it."""

    base: Path  # the disk before
    log: Path
    manifests: Path
    vault: Vault  # as it was; its state directory is on the disk


@contextmanager
def loop_mounted(image: Path, place: Path, *options: str) -> Iterator[None]:
    """An ext4 image, mounted through a loop device."""
    device = run("losetup", "--find", "--show", *options, str(image))
    try:
        run("mount", "-t", "ext4", device, str(place))
        try:
            yield
        finally:
            run("umount", str(place))
    finally:
        run("losetup", "--detach", device)


@contextmanager
def remembering(image: Path, log: Path, place: Path) -> Iterator[Path]:
    """The image through the device that logs; yields the file to put a loop device on."""
    place.mkdir()
    command = [sys.executable, "-m", "tests.mounted.blocklog", str(place), str(image), str(log)]
    server = subprocess.Popen(command, cwd=repository)
    try:
        limit = time.monotonic() + 10
        while not (place / "image").exists():
            assert server.poll() is None, "the block log does not start"
            assert time.monotonic() < limit, "the block log does not answer"
            time.sleep(0.02)  # another process is starting
        yield place / "image"
    finally:
        subprocess.run(["fusermount3", "-uz", str(place)], check=False, capture_output=True)
        server.wait(10)


@pytest.fixture(scope="module")
def recording(scratch: Path) -> Recording:
    """Made once; all cuts are made from it."""
    base = scratch / "power"
    disk, manifests, user = base / "disk", base / "manifests", base / "user"
    for place in (disk, manifests, user):
        place.mkdir(parents=True)
    image, before, log = base / "image", base / "before", base / "log"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", str(image))
    vault = Vault(base=user, state=disk / "state", hosts_in=disk)
    with loop_mounted(image, disk):
        vault.create()
    run("cp", "--sparse=always", str(image), str(before))
    with ExitStack() as stack:
        logged = stack.enter_context(remembering(image, log, base / "device"))
        stack.enter_context(loop_mounted(logged, disk, "--direct-io=on"))
        stack.callback(vault.abandon)
        vault.mount()
        pids = [
            start(
                Writer(
                    place=vault.mountpoint / f"writer{number}",
                    manifest=manifests / f"writer{number}",
                    seed=number,
                    position=lambda: log.stat().st_size,
                    limit_s=RECORDING_S,
                )
            )
            for number in range(WRITERS)
        ]
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * WRITERS
        vault.unmount()
    return Recording(base=before, log=log, manifests=manifests, vault=vault)


def broken_after(
    recording: Recording, position: int, lots: random.Random, *, honest: bool = True
) -> tuple[list[str], int]:
    """Cut the power there, let everything recover, and compare: (broken promises, promises that had to hold)."""
    vault = recording.vault
    target = recording.base.with_name("after")
    cut(recording.log, recording.base, target, position, lots, honest=honest)
    promises = {
        f"writer{n}": Promises.read(recording.manifests / f"writer{n}", position=position) for n in range(WRITERS)
    }
    with loop_mounted(target, vault.state.parent):
        try:
            vault.mount()
            wrong = [sentence for name, kept in promises.items() for sentence in kept.broken(vault.mountpoint / name)]
            vault.unmount()
        finally:
            vault.abandon()
        complaints = vault.new_complaints()
    return wrong + complaints, sum(kept.count for kept in promises.values())


def test_promises_survive_power_cuts(request: pytest.FixtureRequest, recording: Recording) -> None:
    cuts = request.config.getoption("--rounds", default=0) or CUTS
    lots = random.Random(cuts)
    positions = [position for _, _, _, position in entries(recording.log)]
    chosen = sorted([positions[-1], *lots.choices(positions[len(positions) // 20 :], k=cuts - 1)])
    for position in chosen:
        wrong, count = broken_after(recording, position, lots)
        assert not wrong, f"cut at {position} of {positions[-1]}: " + "; ".join(wrong)
        tally.promises += count
        tally.cuts += 1


def test_a_lying_disk_is_noticed(recording: Recording) -> None:
    """The negative control: had half of the flushes not been true, promises would be found broken."""
    last = max(position for _, _, _, position in entries(recording.log))
    wrong, count = broken_after(recording, last, random.Random(1), honest=False)
    assert count
    assert wrong
