"""`megafs passphrase`: what opens a vault on this device changes at once, for everyone else it stays."""

import fcntl
import json
import os

import pytest

from megafs import slotfile
from megafs.cli import main, passphrase
from megafs.crypto.passphrase import MEMORY_FLOOR_KIB, Cost
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.shares import split
from megafs.crypto.slot import slots_of
from megafs.errors import WrongKey
from tests.cli.test_passphrase import desktop
from tests.support.slots import LEAST

RECOVERY = RecoveryKey(bytes(32))
assert desktop, "a fixture"


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(slotfile, "affordable", lambda: LEAST)


@pytest.fixture
def files(tmp_path, phrase_file):
    """The right passphrase, another one, a wrong one; the recovery key and shares of it."""
    made = {"old": phrase_file}
    texts = {"new": "battery staple", "wrong": "x", "words": " ".join(RECOVERY.words())}
    texts |= {f"share{n}": f"# share {n}\n{share}" for n, share in enumerate(split(RECOVERY, 2, 3))}
    for name, text in texts.items():
        made[name] = tmp_path / name
        made[name].write_text(text + "\n")
        made[name].chmod(0o600)
    return made


@pytest.fixture
def run(vault):
    def run(*arguments):
        return main(["passphrase", "v", *map(str, arguments), "--state-dir", str(vault.root.parent)])

    return run


def opens(vault, *texts):
    """Which of these open it."""
    found = []
    for text in texts:
        try:
            assert slotfile.unlock(vault, text).body == b"body"
            found.append(text)
        except WrongKey:
            pass
    return found


def test_change(vault, run, files, capsys):
    assert run("--passphrase-file", files["old"], "--new-passphrase-file", files["new"]) == 0
    assert opens(vault, "correct horse", "battery staple") == ["battery staple"]
    assert capsys.readouterr().out == ""
    assert run("change", "--passphrase-file", files["old"], "--new-passphrase-file", files["new"]) == 3


def test_a_wrong_one_changes_nothing(vault, run, files, capsys):
    before = vault.slot.read_bytes()
    for action in (["change"], ["add", "anna"], ["remove", "passphrase"], ["add", "--keyring"]):
        assert run(*action, "--passphrase-file", files["wrong"], "--new-passphrase-file", files["new"]) == 3
        assert run(*action, "--recovery-key-file", files["words"], "--new-passphrase-file", files["new"]) == 3
        assert "none of the slots" in capsys.readouterr().err
    assert vault.slot.read_bytes() == before


def test_the_lost_one_is_replaced_with_the_recovery_key(vault, run, files):
    slotfile.put_slot(vault, slotfile.unlock(vault, "correct horse"), "recovery", RECOVERY)
    for given in (["words"], ["share0", "share2"]):
        keys = [part for name in given for part in ("--recovery-key-file", files[name])]
        assert run("change", *keys, "--new-passphrase-file", files["new"]) == 0
        assert opens(vault, "correct horse", "battery staple", RECOVERY) == ["battery staple", RECOVERY]
    assert run("change", "--recovery-key-file", files["share1"], "--new-passphrase-file", files["new"]) == 3


def test_several_people(vault, run, files, tmp_path, capsys):
    key = tmp_path / "key"
    assert run("add", "anna", "--passphrase-file", files["old"], "--new-passphrase-file", files["new"]) == 0
    assert run("add", "usb", "--passphrase-file", files["new"], "--key-file", key) == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert run("add", "usb2", "--passphrase-file", files["new"], "--key-file", key) == 2, "a file is never overwritten"
    assert run("add", "anna", "--passphrase-file", files["old"], "--new-passphrase-file", files["new"]) == 2
    assert passphrase.Source(file=key).unlock(vault).label == "usb"
    capsys.readouterr()
    assert run("list", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(each["slot"], each["kind"]) for each in told] == [
        ("passphrase", "passphrase"), ("anna", "passphrase"), ("usb", "random key")
    ]  # fmt: skip
    assert told[0]["memory_bytes"] == 64 << 20
    assert run("list") == 0
    assert "64.0 MiB a guess" in capsys.readouterr().out
    assert run("remove", "usb", "--passphrase-file", key) == 2, "what was just given stays"
    assert run("remove", "passphrase", "--passphrase-file", key) == 0
    assert opens(vault, "correct horse", "battery staple") == ["battery staple"]
    assert run("remove", "nobody", "--passphrase-file", key) == 2


def test_only_makes_everything_new(vault, run, files):
    before = vault.slot.read_bytes()
    former = slotfile.unlock(vault, "correct horse")
    slotfile.put_slot(vault, former, "recovery", RECOVERY)
    changed = ["change", "--only", "--passphrase-file", files["old"], "--new-passphrase-file", files["new"]]
    lock = os.open(vault.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert run(*changed) == 5, "a daemon has the vault"
    os.close(lock)
    assert run(*changed) == 0
    assert opens(vault, "correct horse", RECOVERY, "battery staple") == ["battery staple"]
    assert slotfile.unlock(vault, "battery staple").key != former.key
    assert before != vault.slot.read_bytes()


def test_the_cost_can_be_chosen(vault, run, files):
    chosen = ["--passphrase-file", files["old"], "--new-passphrase-file", files["new"], "--memory"]
    for wrong in ("1M", "63M", "5G"):
        assert run("change", *chosen, wrong) == 2
    assert run("add", "anna", *chosen, "65M") == 0
    assert [slot.cost for slot in slots_of(vault.slot.read_bytes())] == [LEAST, Cost(memory_kib=65 << 10)]
    assert LEAST.memory_kib == MEMORY_FLOOR_KIB


def test_the_keyring_follows(vault, run, files, desktop):
    assert run("add", "--keyring", "--passphrase-file", files["old"]) == 0
    assert passphrase.Source().unlock(vault).label == "keyring"
    assert run("change", "--passphrase-file", files["old"], "--new-passphrase-file", files["new"]) == 0
    assert passphrase.Source().unlock(vault).label == "keyring", "its key is its own"
    kept = desktop.get_password("megafs", str(vault.root))
    desktop.set_password("megafs", str(vault.root), "battery staple")  # as an earlier version did
    assert run("change", "--passphrase-file", files["new"], "--new-passphrase-file", files["old"]) == 0
    now = desktop.get_password("megafs", str(vault.root))
    assert now.startswith("megafs-key-1:")
    assert now != kept
    assert passphrase.Source().unlock(vault).label == "keyring"


def test_the_keyring_does_not_change_anything(vault, run, files, desktop, monkeypatch):
    """Who finds the desktop unlocked must not be able to lock its owner out."""
    assert run("add", "--keyring", "--passphrase-file", files["old"]) == 0
    before = vault.slot.read_bytes()

    def asked(question):
        raise WrongKey("asked")

    monkeypatch.setattr(passphrase, "_asked", asked)
    assert run("change", "--new-passphrase-file", files["new"]) == 3
    assert vault.slot.read_bytes() == before


@pytest.mark.parametrize("arguments", [["steal"], ["add"], ["remove"]], ids=" ".join)
def test_what_cannot_be_meant(run, files, arguments):
    assert run(*arguments, "--passphrase-file", files["old"]) == 2
