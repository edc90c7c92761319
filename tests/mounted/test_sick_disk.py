"""The state directory on a disk that is full, answers EIO, or is gone: callers are told, the daemon stays, status says
why, all goes on once the cause is gone; nothing that fsync acknowledged is lost, and no wrong data is ever read.

Those that take longest on a busy machine run with the long series (``-m crash``).
"""

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mounted.sickdisk import DEAD, NO_READS, NO_WRITES, WELL, SickDisk, sick_disk
from tests.mounted.test_machine import patterned
from tests.mounted.vault import HOSTS, NotWorking, Vault, answers, mounted

pytestmark = pytest.mark.needs_root
DISK_BYTES = 512 << 20
SICK_S = 1.5
WELL_S = 15.0  # the commit is tried again every second; the disk is looked at twice a second
MAY_SAY = {errno.EIO, errno.EROFS, errno.ENOSPC}


@dataclass(slots=True, kw_only=True)
class Patient:
    """A vault on a disk, and what it has promised."""

    vault: Vault
    disk: SickDisk
    promised: dict[str, bytes] = field(default_factory=dict)
    written: int = 0

    def save(self) -> int:
        """Write a new file and fsync it and its name; the errno, or 0: then it is promised."""
        self.written += 1
        name, data = f"file{self.written}", patterned(5000 + 3000 * (self.written % 40), self.written % 256)
        try:
            fd = os.open(self.vault.mountpoint / name, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.write(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            directory = os.open(self.vault.mountpoint, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            return error.errno or -1
        self.promised[name] = data
        return 0

    def status(self) -> dict[str, object]:
        vault = self.vault
        return json.loads(vault.megafs("status", vault.name, "--json", "--state-dir", str(vault.state)))

    def wrong(self) -> list[str]:
        """Promised files that are not what they were; an error while the disk is sick is no lie."""
        found = []
        for name, data in self.promised.items():
            try:
                if (self.vault.mountpoint / name).read_bytes() != data:
                    found.append(name)
            except FileNotFoundError:
                found.append(f"{name} is gone")
        return found

    def must_be_up(self) -> None:
        assert answers(self.vault.mountpoint), self.vault.said()
        assert self.vault.daemon is not None
        assert self.vault.daemon.poll() is None, self.vault.said()

    def while_sick(self) -> set[int]:
        """What the callers were told; status says why while it lasts."""
        told, why = set(), ""
        limit = time.monotonic() + SICK_S
        while time.monotonic() < limit or not told:
            assert time.monotonic() < limit + 20, "nobody was told anything"
            told |= {self.save()} - {0}
            time.sleep(0.05)  # another process and its disk
        self.must_be_up()
        why = str(self.status()["read_only"])
        assert why
        assert told <= MAY_SAY, told
        return told

    def recovers(self) -> None:
        """Writing works again by itself. What was promised is there, also after a kill, for a fresh daemon."""
        limit = time.monotonic() + WELL_S
        while self.save():
            assert time.monotonic() < limit, self.vault.said()
            time.sleep(0.1)  # another process and its disk
        assert self.status()["read_only"] == ""
        assert self.wrong() == []
        self.vault.kill()
        self.vault.mount()
        assert self.wrong() == []
        assert self.save() == 0


@pytest.fixture(scope="module")
def shared(scratch: Path) -> Iterator[Patient]:
    base = scratch / "sick"
    with sick_disk(base, DISK_BYTES) as disk:
        user = base / "user"
        user.mkdir()
        vault = Vault(base=user, state=disk.root / "state")
        try:
            vault.create()
            vault.mount()
            yield Patient(vault=vault, disk=disk)
            vault.unmount()
        finally:
            vault.abandon()


@pytest.fixture
def patient(shared: Patient) -> Iterator[Patient]:
    """Well at the beginning and at the end."""
    for _ in range(5):
        assert shared.save() == 0
    yield shared
    shared.disk.become(WELL)
    shared.must_be_up()


def test_full(patient: Patient) -> None:
    filler = patient.disk.fill()
    try:
        told = patient.while_sick()
    finally:
        filler.unlink()
    assert told == {errno.ENOSPC}
    patient.recovers()


@pytest.mark.parametrize("mood", [pytest.param(NO_WRITES, marks=pytest.mark.crash), DEAD])
def test_errors(patient: Patient, mood: str) -> None:
    patient.disk.become(mood)
    try:
        patient.while_sick()
    finally:
        patient.disk.become(WELL)
    patient.recovers()


@pytest.mark.crash
def test_errors_on_read(patient: Patient) -> None:
    """What the disk does not give comes from the hosts, or is an error; never wrong data."""
    vault = patient.vault
    vault.unmount("--wait")
    vault.mount()
    for name in patient.promised:
        (vault.mountpoint / name).stat()
    patient.disk.become(NO_READS)
    good = 0
    try:
        for name, data in patient.promised.items():
            try:
                assert (vault.mountpoint / name).read_bytes() == data
                good += 1
            except OSError as error:
                assert error.errno == errno.EIO  # the row of this file is on the disk, too  # noqa: PT017
        patient.must_be_up()
    finally:
        patient.disk.become(WELL)
    print(f"{good} of {len(patient.promised)} files could be read")
    patient.recovers()


def test_an_index_that_fails_in_the_middle_of_a_change(patient: Patient) -> None:
    """Nothing more is committed, as nobody knows how much of the change is there; once the disk gives the index again
    the daemon goes on from the last commit by itself, and kernel and programs see exactly what is there."""
    vault = patient.vault
    places = [vault.mountpoint / f"place{number}" for number in range(40)]
    for number, place in enumerate(places):
        place.mkdir()
        for name in range(12):
            (place / f"{name}-{number}").write_bytes(b"x" * name)
    vault.unmount()
    vault.mount()
    assert patient.save() == 0
    # The kernel knows that the names are free, so that the first to miss a page is the change and not a look before it.
    assert not any((place / "new").exists() for place in places)
    kept = os.open(vault.mountpoint / "file1", os.O_RDWR)
    os.write(kept, patient.promised["file1"])  # the kernel has it
    patient.disk.become(NO_READS)
    try:
        told = {number: outcome(place / "new") for number, place in enumerate(places)}
        assert errno.EIO in told.values(), told
        assert set(told.values()) <= MAY_SAY | {0}, told
        why = str(patient.status()["read_only"])
        assert "the index could not be read" in why, why
        assert outcome(vault.mountpoint / "refused") == errno.EROFS
        patient.must_be_up()
    finally:
        patient.disk.become(WELL)
    limit = time.monotonic() + WELL_S
    while patient.status()["read_only"]:
        assert time.monotonic() < limit, vault.said()
        time.sleep(0.1)  # another process and its disk
    assert patient.save() == 0
    with suppress(OSError):  # what the kernel could not hand over is told once
        os.fsync(kept)
    os.pwrite(kept, patient.promised["file1"], 0)
    os.fsync(kept)
    os.close(kept)
    seen = listing(vault.mountpoint)
    assert sum(name.endswith("/new") for name in seen) < len(places)
    assert patient.wrong() == []
    vault.unmount()
    vault.mount()
    assert listing(vault.mountpoint) == seen
    patient.recovers()


def outcome(path: Path) -> int:
    """Make a file that holds something; the errno, or 0."""
    try:
        path.write_bytes(b"new")
    except OSError as error:
        return error.errno or -1
    return 0


def listing(root: Path) -> dict[str, bytes]:
    """Every file and what is in it."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.crash
def test_damaged_cached_packs_heal(patient: Patient) -> None:
    """Bytes of the cache that rotted are fetched again: right for the reader, counted for the owner."""
    vault = patient.vault
    vault.unmount("--wait")
    packs = sorted((vault.state / vault.name / "packs").iterdir())
    assert packs
    for pack in packs:
        size = pack.stat().st_size
        with pack.open("r+b") as file:
            for offset in range(100, size, 2000):
                file.seek(offset)
                file.write(b"rot")
    vault.mount()
    assert patient.wrong() == []
    assert int(str(patient.status()["chunks_healed"])) > 0
    assert patient.status()["read_only"] == ""
    patient.recovers()


def test_vanished(patient: Patient) -> None:
    """The state directory is no longer where it was."""
    state, aside = patient.vault.state, patient.vault.state.with_name("aside")
    state.rename(aside)
    try:
        for _ in range(10):
            assert patient.save() in MAY_SAY | {0}
        patient.must_be_up()
        assert patient.wrong() == []
    finally:
        aside.rename(state)
    patient.recovers()


def test_turned_read_only(patient: Patient) -> None:
    """By its own file system, after an error. Reading goes on; only a new mount of the disk makes it writable."""
    patient.disk.turn_read_only()
    assert patient.while_sick() <= {errno.EIO, errno.EROFS}
    assert patient.wrong() == []
    patient.vault.kill()
    patient.disk.remount()
    patient.vault.mount()
    patient.recovers()


@pytest.mark.crash
def test_a_damaged_index_is_rebuilt(scratch: Path) -> None:
    """Mount names the cure; the cure brings back all that was shipped, and says what only this device had."""
    base = scratch / "repair"
    base.mkdir()
    with mounted(base) as vault:
        (vault.mountpoint / "shipped").write_bytes(patterned(300_000, 1))
        vault.unmount("--wait")
        vault.mount()
        packs = vault.state / vault.name / "packs"
        before = set(os.listdir(packs))
        (vault.mountpoint / "newer").write_bytes(patterned(100_000, 2))
        vault.megafs("sync", "--local", vault.name, "--state-dir", str(vault.state))
        vault.kill()
        assert set(os.listdir(packs)) > before
        rot(vault.state / vault.name / "index.db")
        with pytest.raises(NotWorking, match=f"megafs attach {vault.name} --repair "):
            vault.mount()
        hosts = [part for number in range(HOSTS) for part in ("--host", f"file://{base}/host{number}")]
        key = ["--recovery-key-file", str(vault.recovery_key), "--yes"]
        vault.megafs("attach", "--repair", vault.name, *hosts, *key, *vault.unlocking)
        vault.mount()
        assert os.listdir(vault.mountpoint) == ["shipped"]
        assert (vault.mountpoint / "shipped").read_bytes() == patterned(300_000, 1)
        (aside,) = vault.state.glob(f".{vault.name}.damaged-*")
        assert len(os.listdir(aside / "packs")) == 1
        (vault.mountpoint / "after").write_bytes(b"goes on")
        vault.unmount("--wait")
        vault.mount()
        assert sorted(os.listdir(vault.mountpoint)) == ["after", "shipped"]


def rot(file: Path) -> None:
    """Bytes all over are not what they were."""
    size = file.stat().st_size
    with file.open("r+b") as opened:
        for offset in range(2000, size, 4096):
            opened.seek(offset)
            opened.write(b"rot")
