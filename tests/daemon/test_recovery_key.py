"""The recovery key of a living vault, by the command line: checked, printed, shared, rotated."""

import shutil
import subprocess
import sys

import pytest

from megafs.config import VaultPaths
from megafs.control import client
from megafs.control.messages import Boots, Request
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.shares import recovery_key
from megafs.errors import Unavailable, WrongKey
from megafs.slotfile import unlock
from megafs.sync import boot
from tests.daemon.drive import ROOT
from tests.support.hosts import MemoryHost

pytestmark = pytest.mark.mounted


def objects_of(words, folder):
    """The boot objects of these words on a folder host."""
    names = set(RecoveryKey.from_text(words).boot_names())
    return [path for path in folder.rglob("*") if path.name in names]


def written(drive, name, text):
    file = drive.folder / name
    file.write_text(text)
    return file


def test_a_wiped_host_gets_its_boot_object_back_and_shares_attach(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    drive.create()
    given = ("--recovery-key-file", drive.words)
    drive.run("recovery-key", "v", *given, status=8)  # not mounted
    drive.mount()
    (drive.mountpoint / "file").write_text("content")
    drive.sync()
    words = drive.words.read_text()
    (lost,) = objects_of(words, folders[1])
    lost.unlink()
    told = drive.told("recovery-key", "v", *given)["hosts"]
    assert [(each["label"], each["generation"], each["is_new"]) for each in told] == [
        ("file-1", 1, False), ("file-2", 1, True)
    ]  # fmt: skip
    assert len(objects_of(words, folders[1])) == 1
    again = drive.run("recovery-key", "v", "check", *given).stdout
    assert "made now" not in again
    drive.run("recovery-key", "v", status=2)
    drive.run("recovery-key", "v", "print", *given, "--shares", "3-of-2", status=2)
    wrong = written(drive, "wrong", " ".join(RecoveryKey.generate().words()))
    drive.run("recovery-key", "v", "--recovery-key-file", wrong, status=3)

    assert drive.run("recovery-key", "v", "print", *given).stdout.split() == words.split()
    sheet = drive.folder / "sheet.txt"
    drive.run("recovery-key", "v", "print", *given, "--sheet", sheet)
    assert recovery_key(sheet.read_text()).words() == words.split()
    assert folders[0].as_uri() in sheet.read_text()
    assert sheet.stat().st_mode & 0o777 == 0o600
    drive.run("recovery-key", "v", "print", *given, "--sheet", sheet, status=2)  # never over a file
    drive.run("recovery-key", "v", "print", *given, "--sheet", sheet, "--shares", "2-of-3")
    shares = [drive.folder / f"sheet-{n}.txt" for n in (1, 2, 3)]
    assert all(share.exists() for share in shares)
    assert "contrib/restore" in sheet.read_text()
    assert all("contrib/restore" not in share.read_text() for share in shares)  # it knows words only
    drive.unmount()
    shutil.rmtree(folders[0])
    other = drives("second", [folders[1].as_uri()])
    other.attach(shares[0], status=3)
    other.attach(shares[2], "--recovery-key-file", shares[0])
    other.mount()
    assert (other.mountpoint / "file").read_text() == "content"
    other.unmount()


def test_rotated_words_open_everything_and_the_old_ones_nothing(drives, folders, tmp_path):
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    drive.create()
    drive.mount()
    (drive.mountpoint / "file").write_text("content")
    old = drive.words.read_text()
    given = ("--recovery-key-file", drive.words)
    drive.run("recovery-key", "v", "rotate", *given, stdin=subprocess.DEVNULL, status=2)  # nobody to ask
    new = drive.run("recovery-key", "v", "rotate", *given, "--yes").stdout
    assert len(new.split()) == 24
    assert new.split() != old.split()
    for folder in folders[:2]:
        assert objects_of(old, folder) == []
        assert len(objects_of(new, folder)) == 1
    drive.run("recovery-key", "v", "check", *given, status=3)
    drive.sync()
    new_file = written(drive, "new", new)
    changed = written(drive, "changed", "battery staple\n")
    passphrase = ("passphrase", "v", "change", "--new-passphrase-file", changed)
    drive.run(*passphrase, *given, status=3)  # on this device they end, too
    drive.run(*passphrase, "--recovery-key-file", new_file)
    drive.unmount()
    assert unlock(VaultPaths(root=drive.state / "v"), "battery staple").label == "passphrase"
    other = drives("second", [folders[1].as_uri()])
    other.attach(drive.words, status=3)
    other.attach(new_file)
    other.mount()
    assert (other.mountpoint / "file").read_text() == "content"
    other.unmount()
    for words, status in ((new_file, 0), (drive.words, 1)):
        to = tmp_path / f"restored-{status}"
        command = [sys.executable, ROOT / "contrib" / "restore", "--words-file", words, "--to", to, *folders[:2]]
        assert subprocess.run(command, capture_output=True).returncode == status
        assert (to / "file").exists() is (status == 0)


def test_a_rotation_that_is_broken_off_leaves_both_and_a_no_leaves_the_old(drives, folders):
    drive = drives("first", [folder.as_uri() for folder in folders[:2]])
    drive.create()
    drive.mount()
    old, new = RecoveryKey.from_text(drive.words.read_text()), RecoveryKey.generate()
    both = {"words": " ".join(old.words()), "new_words": " ".join(new.words())}

    def call(name, **words):
        told = client.ask(drive.state / "v", Request(call=name, **words))
        assert isinstance(told, Boots)
        return told

    call("rekey", **both)  # and here whoever asked was killed
    for key in (old, new):
        assert all(host.generation for host in call("boots", words=" ".join(key.words())).hosts)
    call("retire", words=both["new_words"], new_words=both["words"])
    assert all(host.generation == 1 for host in call("boots", words=both["words"]).hosts)
    with pytest.raises(WrongKey):
        call("boots", words=both["new_words"])
    with pytest.raises(WrongKey):  # words that open nothing take nothing away
        call("retire", words=both["words"], new_words=both["new_words"])
    assert all(host.generation == 1 for host in call("boots", words=both["words"]).hosts)
    there = drive.folder / "there"
    there.write_text("not a sheet")
    rotate = ("recovery-key", "v", "rotate", "--recovery-key-file", drive.words, "--yes", "--sheet")
    assert "name another one" in drive.run(*rotate, there, status=2).stderr
    drive.run(*rotate, drive.folder / "nowhere" / "sheet", status=1)
    assert there.read_text() == "not a sheet"
    drive.run("recovery-key", "v", "check", "--recovery-key-file", drive.words)
    drive.unmount()


class Keeping(MemoryHost):
    """Says that it deletes, and keeps."""

    async def delete(self, name):
        assert name


async def test_a_host_that_keeps_what_it_should_delete_is_noticed():
    key = RecoveryKey.generate()
    for host, keeps in ((MemoryHost(), False), (Keeping(), True)):
        await host.put(key.boot_names()[7], key.seal_boot(b"{}"))
        try:
            gone = await boot.retire(host, key)
        except Unavailable:
            gone = -1
        assert gone == (-1 if keeps else 1)
