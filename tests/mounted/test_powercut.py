"""Power cuts: the state directory is on an ext4 whose disk remembers what was flushed and what was only written.

A vault is mounted from it and written to; then the disk is made again as a cut at many moments may have left it (all
that was flushed, any part of the rest), its file system recovers, the vault is mounted from it, and every promise made
before that moment must hold. The host folders are on that disk too: hosts that know what came after a cut would help,
and those that have seen another cut's future would confuse. Now and then the state directory is gone as well: what a
``megafs sync`` before the cut had waited for must come from two of the hosts.

A few cuts; a hundred under the marker ``crash``; ``--rounds N`` for as many. A recording serves for 50.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounted.blocklog import Replay, entries
from tests.mounted.both import tally
from tests.mounted.promises import Promises, Writer, start
from tests.mounted.vault import NotWorking, Vault, repository

pytestmark = pytest.mark.needs_root
CUTS = 4
MANY_CUTS = 100
CUTS_OF_A_RECORDING = 50
ATTACHES = 4  # one cut in so many is looked at from the hosts alone, too
RECORDING_S = 6.0
SYNC_EVERY_S = 1.5
SETTLED_S = 3.0  # after syncfs: "durable one interval later", on a busy machine
IMAGE_BYTES = 256 << 20
NO_COMMIT = "status 7: megafs: The newest state on the hosts is no commit yet"
WRITERS = 2
WRITERS_NAMES = [f"writer{number}" for number in range(WRITERS)]


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
    syncs: tuple[tuple[int, float], ...]  # of each ``megafs sync``: position of the log when it returned, when it began
    steps: tuple[tuple[int, float], ...]  # (position, when) of the log
    replay: Replay


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


def record(base: Path) -> Recording:
    """Writers on a vault on a disk that remembers, and ``megafs sync`` beside them."""
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
                    place=vault.mountpoint / name,
                    manifest=manifests / name,
                    seed=number,
                    position=lambda: log.stat().st_size,
                    limit_s=RECORDING_S,
                )
            )
            for number, name in enumerate(WRITERS_NAMES)
        ]
        syncs = []
        end = time.monotonic() + RECORDING_S
        while (began := time.monotonic()) < end:
            vault.megafs("sync", vault.name, *vault.unlocking[:2])
            syncs.append((log.stat().st_size, began))
            time.sleep(SYNC_EVERY_S)  # the writers go on
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * WRITERS
        vault.unmount()
    steps = tuple((entry.position, entry.time) for entry in entries(log))
    return Recording(
        base=before,
        log=log,
        manifests=manifests,
        vault=vault,
        syncs=tuple(syncs),
        steps=steps,
        replay=Replay(log, before),
    )


@pytest.fixture(scope="module")
def recording(scratch: Path) -> Recording:
    """Made once, for the few cuts and for the control."""
    return record(scratch / "power")


def broken_after(
    recording: Recording, target: Path, position: int, *, when: float, lost: bool
) -> tuple[list[str], int]:
    """Let everything recover from a cut, and compare: (broken promises, promises that had to hold). ``lost``: the same
    from two hosts alone."""
    vault = recording.vault
    old = when - SETTLED_S
    kept = {
        name: Promises.read(recording.manifests / name, position=position, handed_before=old) for name in WRITERS_NAMES
    }
    count = sum(promises.count for promises in kept.values())
    with loop_mounted(target, vault.state.parent):
        try:
            vault.mount()
            wrong = broken(kept, vault.mountpoint)
            vault.unmount()
        finally:
            vault.abandon()
        wrong += vault.new_complaints()
        if lost:
            returned = [began for at, began in recording.syncs if at <= position]
            began = max(returned, default=0.0)
            shipped = {name: Promises.read(recording.manifests / name, made_before=began) for name in WRITERS_NAMES}
            count += sum(promises.count for promises in shipped.values())
            wrong += [f"from the hosts: {sentence}" for sentence in from_the_hosts(vault, shipped, bool(returned))]
    return wrong, count


def broken(kept: dict[str, Promises], place: Path) -> list[str]:
    return [sentence for name, promises in kept.items() for sentence in promises.broken(place / name)]


def from_the_hosts(vault: Vault, shipped: dict[str, Promises], synced: bool) -> list[str]:
    """What is broken on a machine that has nothing but two of the three hosts. Before the first ``megafs sync`` has
    returned nothing is promised of them: they may have no commit, and attach says so and makes nothing."""
    there = None
    try:
        there = vault.attach("elsewhere", hosts=(0, 2))
        there.mount()
        wrong = broken(shipped, there.mountpoint)
        there.unmount()
        return wrong + there.new_complaints()
    except NotWorking as error:
        if synced or NO_COMMIT not in str(error):
            raise
        assert not list((vault.base / "elsewhere" / "state").glob(f"{vault.name}*"))
        tally.refusals += 1
        return []
    finally:
        if there is not None:
            there.abandon()
        shutil.rmtree(vault.base / "elsewhere")


def survive(recording: Recording, cuts: int, lots: random.Random) -> None:
    """So many cuts of one recording, the last one at its end."""
    steps = recording.steps[len(recording.steps) // 20 :]
    chosen = sorted([steps[-1], *lots.choices(steps, k=cuts - 1)])
    target = recording.base.with_name("after")
    for number, (position, when) in enumerate(chosen):
        recording.replay.cut(target, position, lots)
        lost = number % ATTACHES == ATTACHES - 1
        wrong, count = broken_after(recording, target, position, when=when, lost=lost)
        assert not wrong, f"cut at {position} of {steps[-1][0]}: " + "; ".join(wrong)
        tally.promises += count
        tally.cuts += 1
        print(f"{tally.cuts} cuts, {tally.promises} promises", flush=True)


def test_promises_survive_power_cuts(recording: Recording) -> None:
    survive(recording, CUTS, random.Random())


@pytest.mark.crash
def test_promises_survive_many_power_cuts(rounds: int, seed: int, scratch: Path) -> None:
    left, number = rounds or MANY_CUTS, 0
    while left:
        cuts = min(left, CUTS_OF_A_RECORDING)
        base = scratch / f"power{number}"
        survive(record(base), cuts, random.Random(seed + number))
        shutil.rmtree(base)
        left, number = left - cuts, number + 1


def test_a_lying_disk_is_noticed(recording: Recording) -> None:
    """The negative control: had half of the flushes not been true, promises would be found broken."""
    target, (last, when) = recording.base.with_name("after"), recording.steps[-1]
    Replay(recording.log, recording.base).cut_lying(target, last)
    wrong, count = broken_after(recording, target, last, when=when, lost=False)
    assert count
    assert wrong
