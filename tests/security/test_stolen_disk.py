"""A stolen disk and curious hosts: canaries and keys are searched for in every byte that MegaFS wrote (A24, A40)."""

import base64
import json
import os
import shutil
from contextlib import ExitStack

import pytest
import zstandard

from tests.mounted.sickdisk import sick_disk
from tests.security.canary import Scan, canary
from tests.security.planted import keys_of, plant
from tests.support.slots import opened_body

pytestmark = pytest.mark.mounted
DISK_BYTES = 160 << 20
LEAST_BYTES = 1 << 19  # a scan of less has missed something


@pytest.fixture
def scan_of(guarded):
    """A scan for everything secret about a vault, made once canaries are planted."""

    def make(told):
        words = guarded.recovery_key.read_text()
        slot = (guarded.state / guarded.name / "slot").read_bytes()
        return Scan({**told, **keys_of(guarded.phrase, slot, words), "passphrase": guarded.phrase.encode()})

    return make


def clean(scan, guarded):
    found, looked = scan.files(guarded.places())
    assert looked > LEAST_BYTES
    assert not found, found


def test_nothing_shows_while_mounted_after_a_kill_after_unmounting_and_on_hosts(guarded, scan_of):
    """A24, A40."""
    guarded.mount()
    told = plant(guarded.mountpoint)
    scan = scan_of(told)
    guarded.megafs("sync", guarded.name, "--state-dir", str(guarded.state))
    assert {path.name for path in (guarded.state / guarded.name).iterdir()} >= {"index.db-wal", "index.db-shm", "log"}
    clean(scan, guarded)
    before = told
    told = {**before, **{f"second {kind}": text for kind, text in plant(guarded.mountpoint).items()}}
    scan = scan_of(told)  # the second ones are not shipped, and partly not committed, when the kill comes
    guarded.kill()
    clean(scan, guarded)
    guarded.mount()
    guarded.unmount("--wait")
    clean(scan, guarded)
    control(scan, told, guarded)
    nothing_to_guess_on_hosts(guarded)


@pytest.mark.needs_root
def test_nothing_shows_after_a_full_disk_and_a_new_epoch(guarded, scan_of):
    """ENOSPC amid packs and commits, a kill there, and the VACUUM that a new epoch makes of the index (A40)."""
    with ExitStack() as stack:
        disk = stack.enter_context(sick_disk(guarded.base / "sick", DISK_BYTES))
        stack.callback(guarded.abandon)
        shutil.copytree(guarded.state, disk.root / "state")
        guarded.state = disk.root / "state"
        guarded.mount()
        told = plant(guarded.mountpoint)
        filler = disk.fill()
        with pytest.raises(OSError, match="No space left"):
            for number in range(1000):
                told |= {f"name {number}": canary().encode(), f"content {number}": canary().encode()}
                with (guarded.mountpoint / told[f"name {number}"].decode()).open("wb") as file:
                    file.write(told[f"content {number}"] * 500)
                    os.fsync(file)
        scan = scan_of(told)
        clean(scan, guarded)
        guarded.kill()
        clean(scan, guarded)
        filler.unlink()
        guarded.mount()
        guarded.unmount("--wait")
        guarded.megafs("rotate", guarded.name, "--recovery-key-file", str(guarded.recovery_key), *guarded.unlocking)
        scan = scan_of(told)  # with the keys of the new epoch, too
        clean(scan, guarded)
        guarded.mount()
        guarded.unmount("--wait")
        clean(scan, guarded)
        (guarded.state / "control").write_bytes(told["name 0"])
        assert {finding.label for finding in scan.files([guarded.state])[0]} == {"name 0"}


def nothing_to_guess_on_hosts(guarded):
    """No part of the slot is on a host, so there is nothing that a passphrase could be tried on (A09)."""
    scan = Scan({"slot": (guarded.state / guarded.name / "slot").read_bytes()})
    assert not scan.files(guarded.base.glob("host?"))[0]
    assert scan.files([guarded.state])[0], "the control: it is on this device"


def control(scan, told, guarded):
    """The same scan finds canaries, a key and a passphrase that are put into a copy."""
    copy = guarded.base / "copy"
    shutil.copytree(guarded.state / guarded.name, copy)
    assert not scan.files([copy])[0]
    slot = guarded.state / guarded.name / "slot"
    key = bytes.fromhex(json.loads(opened_body(guarded.phrase, slot))["seed"])
    with (copy / "index.db").open("r+b") as index:
        index.seek(10_000)
        index.write(base64.b64encode(key))
    with (copy / "log" / "megafs.log").open("a") as log:
        log.write(f"opened with {guarded.phrase}\n")
    (copy / "packs" / told["second file name"].decode()).write_bytes(zstandard.compress(told["text"] * 9))
    found, _ = scan.files([copy])
    assert {"slot.seed", "passphrase", "second file name", "text"} == {finding.label for finding in found}


def test_passphrase_and_words_are_in_no_argument_and_no_environment(guarded, scan_of):
    state = ["--state-dir", str(guarded.state)]
    guarded.megafs("mount", guarded.name, str(guarded.mountpoint), "--passphrase-file", str(guarded.passphrase), *state)
    try:
        scan = scan_of(plant(guarded.mountpoint))
        daemons = [pid for pid in os.listdir("/proc") if pid.isdigit() and is_daemon(pid, guarded)]
        assert daemons, "the daemon goes on in the background"
        for pid in daemons:
            for name in ("cmdline", "environ", "comm", "maps", "mountinfo"):
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    assert not scan.bytes(file.read(), name)
        status = guarded.megafs("status", guarded.name, "--json", *state)
        assert not scan.bytes(status.encode(), "status")
        assert scan.bytes(f"--passphrase={guarded.phrase}".encode(), "control")
    finally:
        guarded.megafs("unmount", str(guarded.mountpoint))


def is_daemon(pid, guarded):
    """Whether this is the process that has the vault's control socket as its own: its command line names the vault."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        with open(f"/proc/{pid}/environ", "rb") as file:
            return b"megafs.cli.background" in words and os.fsencode(guarded.base) in file.read()
    except OSError:
        return False
