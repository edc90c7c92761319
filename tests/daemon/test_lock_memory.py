"""After ``megafs lock`` the daemon's memory holds no key and no passphrase, in no spelling, whoever left it there."""

import base64
import os
import subprocess
import time
from pathlib import Path

import pytest

from megafs.config import VaultPaths
from megafs.control import client
from megafs.crypto.keys import EpochKeys
from megafs.crypto.slot import open_slots
from megafs.daemon.device import Device
from tests.daemon.drive import LIMIT_S, MEGAFS, ROOT

pytestmark = pytest.mark.mounted
WINDOW = 16  # bytes of a key that nothing may show
PART = 1 << 22
FILES = 5


def keys_of(drive):
    """Everything that opens something, by name."""
    paths = VaultPaths(root=drive.state / "v")
    opened = open_slots(drive.phrase.read_text().strip(), paths.slot.read_bytes())
    device = Device.of(opened)
    (secret,) = device.keyring.secrets.values()
    derived = EpochKeys.of(secret)
    return {
        "vault secret": secret,
        "seed of the device": device.signer.key.seed,
        "slot key": device.slot_key,
        "index key": device.keyring.index_key(device.id),
        "key of metadata": derived.meta,
        "key of chunks": derived.chunk,
        "passphrase": drive.phrase.read_bytes().strip(),
    }


def spellings(key):
    """A key in pieces of 16 bytes, since what was freed may have lost its beginning; a passphrase whole."""
    if len(key) != 32:
        return {"raw": key, "hex": key.hex().encode()}
    pieces = {}
    for at in range(0, 32, WINDOW):
        piece, digits = key[at : at + WINDOW], key[at : at + WINDOW].hex()
        texts = {"hex": digits, "HEX": digits.upper(), "hex of hex": digits.encode().hex()}
        pieces |= {f"raw {at}": piece, **{f"{how} {at}": text.encode() for how, text in texts.items()}}
    for shift in range(3):  # where base64 of a longer text may have its groups of three
        pieces[f"base64 {shift}"] = base64.b64encode(key[shift:])[4:-8]
    return pieces


def found_in(pid, wanted):
    """Which of the wanted bytes, by name, are in the memory of a process. Root reads what is not dumpable."""
    longest, found = max(map(len, wanted.values())), set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, rights, *_ = line.split()
            start, end = (int(address, 16) for address in addresses.split("-"))
            if rights[:2] != "rw":
                continue
            former = b""
            for at in range(start, end, PART):
                try:
                    memory.seek(at)
                    data = former + memory.read(min(PART, end - at))
                except OSError:  # [vvar] and what was unmapped meanwhile
                    break
                if data.count(0) < len(data):
                    found |= {name for name, text in wanted.items() if text in data}
                former = data[-longest:]
    return found


@pytest.fixture
def drive(drives, folders):
    made = drives("first", [folder.as_uri() for folder in folders[:2]])
    made.create()
    return made


def use(drive):
    """Writing, shipping, reading from hosts and disk, the side connection of the index."""
    for number in range(FILES):
        (drive.mountpoint / f"file {number}").write_bytes(os.urandom(300_000))
    drive.sync()
    drive.told("status", "v")


def stay(drive):
    """Mounted by a process in the foreground, as systemd does it."""
    options = ["--foreground", "--passphrase-file", drive.phrase, "--state-dir", drive.state]
    command = [*MEGAFS, "mount", "v", drive.mountpoint, *options]
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + LIMIT_S
    while not drive.mountpoint.is_mount():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)  # another process works, which no event tells
    return process


@pytest.mark.skipif(os.geteuid() != 0, reason="reads the memory of a process that is not dumpable")
@pytest.mark.parametrize("way", ["background", "foreground"])
def test_no_key_is_left(drive, way):
    """At once, when nothing has taken the place of what was freed, and after work."""
    keys = keys_of(drive)
    process = stay(drive) if way == "foreground" else drive.mount()
    pid = client.daemon_pid(drive.state / "v")
    everything = {(name, how): text for name, key in keys.items() for how, text in spellings(key).items()}
    opening = {name: key for name, key in keys.items() if name != "passphrase"}
    for work in (lambda drive: None, use):
        work(drive)
        # The control: before, they are there, so they would be found.
        assert found_in(pid, opening) == set(opening)
        drive.run("lock", "v")
        assert found_in(pid, everything) == set()
        drive.run("unlock", "v", "--passphrase-file", drive.phrase)
    drive.unmount()
    if process is not None:
        assert process.wait(LIMIT_S) == 0
