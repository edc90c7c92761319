"""The slot file on a disk: format 1 becomes format 2, a change is whole or not there, the former bytes are gone."""

import os
import subprocess
import sys

import pytest

from megafs import slotfile
from megafs.config import VaultPaths
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.slot import SlotKey, open_slots, slots_of
from megafs.errors import DamagedSlot, WrongKey
from tests.crypto.test_slot import former_slot
from tests.support.slots import LEAST, light_file

RECOVERY = RecoveryKey(bytes(32))


@pytest.fixture
def paths(tmp_path):
    made = VaultPaths(root=tmp_path / "v")
    made.root.mkdir()
    made.slot.write_bytes(light_file("right", b"body"))
    return made


def test_a_file_of_format_1_becomes_one_of_format_2(paths, monkeypatch):
    monkeypatch.setattr(slotfile, "affordable", lambda: LEAST)
    former = former_slot(64 * 1024, 3, 1, derived=True)
    paths.slot.write_bytes(former)
    with pytest.raises(WrongKey):
        slotfile.unlock(paths, "wrong")
    assert paths.slot.read_bytes() == former
    opened = slotfile.unlock(paths, "right")
    assert (opened.body, opened.label) == (b"former body", "passphrase")
    assert slots_of(paths.slot.read_bytes())[0].label == "passphrase"
    assert slotfile.unlock(paths, "right") == opened
    slotfile.store_body(paths, opened.key, b"another")
    assert slotfile.unlock(paths, "right").body == b"another"


def test_slots_come_and_the_body_changes_beside_them(paths):
    opened = slotfile.unlock(paths, "right")
    slotfile.store_body(paths, opened.key, b"newer")  # by a daemon, since we opened it
    slotfile.put_slot(paths, opened, "anna", "other", cost=LEAST)
    slotfile.put_slot(paths, opened, "passphrase", "changed", cost=LEAST)
    for secret in ("other", "changed"):
        assert slotfile.unlock(paths, secret).body == b"newer"
    with pytest.raises(WrongKey):
        slotfile.unlock(paths, "right")
    with pytest.raises(DamagedSlot):
        slotfile.store_body(paths, bytes(32), b"x")


def test_a_new_device_has_a_slot_for_its_recovery_key(monkeypatch):
    monkeypatch.setattr(slotfile, "affordable", lambda: LEAST)
    data = slotfile.new_slots(b"body", "right", RECOVERY)
    assert [slot.label for slot in slots_of(data)] == ["passphrase", "recovery"]
    assert open_slots(RECOVERY, data).body == b"body"
    assert [slot.label for slot in slots_of(slotfile.new_slots(b"b", SlotKey(bytes(32)), None))] == ["key"]


def test_the_former_bytes_are_overwritten(paths):
    former = os.open(paths.slot, os.O_RDONLY)  # as a forensic tool would reach the blocks
    before = os.read(former, 1 << 20)
    slotfile.put_slot(paths, slotfile.unlock(paths, "right"), "key", SlotKey(bytes(32)))
    left = os.pread(former, 1 << 20, 0)
    os.close(former)
    assert len(left) == len(before)
    assert not any(before[at : at + 8] in left for at in range(len(before) - 8))
    assert os.stat(paths.slot).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("call", ["rename", "fsync", "write"])
def test_a_change_that_is_broken_off_leaves_the_former_file(paths, monkeypatch, call):
    """As a power cut would: up to the rename the former file is there, whole."""
    opened, before = slotfile.unlock(paths, "right"), paths.slot.read_bytes()

    def broken(*arguments):
        raise OSError(5, "cut")

    if call == "write":
        monkeypatch.setattr(slotfile, "write_private", broken)
    else:
        monkeypatch.setattr(os, call, broken)
    with pytest.raises(OSError, match="cut"):
        slotfile.put_slot(paths, opened, "passphrase", "changed", cost=LEAST)
    monkeypatch.undo()
    assert paths.slot.read_bytes() == before
    slotfile.put_slot(paths, opened, "passphrase", "changed", cost=LEAST)  # what is left over is in nobody's way
    assert slotfile.unlock(paths, "changed").body == b"body"


def test_whoever_changes_it_waits_for_the_other(paths):
    """Two processes put slots at once; none is lost."""
    program = (
        "import sys; from pathlib import Path; from megafs import slotfile; from megafs.config import VaultPaths\n"
        "from megafs.crypto.slot import SlotKey\n"
        "paths = VaultPaths(root=Path(sys.argv[1])); opened = slotfile.unlock(paths, 'right')\n"
        "for n in range(6): slotfile.put_slot(paths, opened, sys.argv[2] + str(n), SlotKey(bytes(32)))"
    )
    both = [subprocess.Popen([sys.executable, "-c", program, str(paths.root), name]) for name in ("a", "b")]
    assert [each.wait(60) for each in both] == [0, 0]
    labels = {slot.label for slot in slots_of(paths.slot.read_bytes())}
    assert labels == {"passphrase", *(f"{name}{n}" for name in "ab" for n in range(6))}


def test_the_machine_says_how_much_memory_is_free():
    cost = slotfile.affordable()
    assert 64 * 1024 <= cost.memory_kib <= 256 * 1024
