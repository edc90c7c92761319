"""The second decoder, contrib/restore: host folders and 24 words in, the same files out, without any of our code."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megafs.crypto.recovery import RecoveryKey
from megafs.model import Policy
from megafs.sync.survey import survey
from tests.security.rig import Rig
from tests.security.test_evil_histories import checkpointed

ROOT = Path(__file__).parent.parent.parent
RESTORE = ROOT / "contrib" / "restore"


def restore(words, to, *folders):
    file = to.parent / "words"
    file.write_text("\n".join(f"{n}. {word}" for n, word in enumerate(words, 1)))
    command = [sys.executable, str(RESTORE), "--words-file", str(file), "--to", str(to), *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def tree(root):
    """Everything that must come back, by relative path."""
    found = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content = path.read_bytes() if kind == stat.S_IFREG else os.readlink(path) if kind == stat.S_IFLNK else ""
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        links = status.st_nlink if kind == stat.S_IFREG else 0
        found[str(path.relative_to(root))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            links,
            content,
            xattrs,
        )
    return found


def test_it_uses_nothing_of_ours():
    text = RESTORE.read_text()
    assert "import megafs" not in text
    assert "from megafs" not in text


@pytest.mark.mounted
def test_a_vault_made_through_the_command_line_comes_back(guarded):
    guarded.mount()
    there = guarded.mountpoint
    (there / "folder").mkdir()
    (there / "folder" / "text").write_text("the same line again and again\n" * 30_000)
    (there / "folder" / "noise").write_bytes(os.urandom(600_000))
    (there / "empty").touch()
    with (there / "holes").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"behind a hole")
        file.truncate(5 << 20)
    with (there / "folder" / "noise").open("r+b") as file:
        for at in (0, 100_000, 599_000):
            file.seek(at)
            file.write(os.urandom(1000))
    os.link(there / "folder" / "text", there / "hard")
    (there / "link").symlink_to("folder/text")
    os.setxattr(there / "empty", "user.note", b"\0binary\xff")
    os.mkfifo(there / "fifo")
    name = os.fsencode(there) + b"/" + bytes(range(1, 32)) + b"\xff\xfe\n."
    os.mkdir(name)
    (there / "gone").write_text("deleted again")
    (there / "gone").unlink()
    (there / "empty").chmod(0o4750)
    os.utime(there / "folder" / "text", ns=(10**18, 10**18 + 1))
    guarded.megafs("sync", guarded.name, "--state-dir", str(guarded.state))
    right = tree(there)
    guarded.unmount("--wait")
    folders = sorted(guarded.base.glob("host?"))
    words = guarded.recovery_key.read_text().split()
    for number, some in enumerate((folders, folders[1:])):
        to = guarded.base / f"restored{number}"
        done = restore(words, to, *some)
        assert done.returncode == 0, done.stderr
        assert tree(to) == right
    refused = restore(RecoveryKey.generate().words(), guarded.base / "no", *folders)
    assert refused.returncode == 1
    assert "open nothing" in refused.stderr


@pytest.mark.parametrize("coarse", [False, True])
async def test_from_a_checkpoint_and_with_a_damaged_folder(tmp_path, coarse):
    rig = Rig(tmp_path, 3)
    rig.settings = replace(rig.settings, coarse_sizes=coarse)
    await rig.put_boots()
    async with rig.running() as drive:
        files = {b"file %d" % n: os.urandom(30_000) for n in range(3)}
        for name, data in files.items():
            await drive.write(name, data)
            await drive.sync()
        await checkpointed(drive)
        await drive.write(b"file 1", b"changed", start=100)
        await drive.sync()
    assert (await survey(rig.objects(), rig.device.trust)).checkpoint is not None
    files[b"file 1"] = files[b"file 1"][:100] + b"changed" + files[b"file 1"][107:]
    folders = []
    for number, puppet in enumerate(rig.puppets.values()):
        folders.append(tmp_path / f"folder{number}")
        folders[-1].mkdir()
        for name, data in puppet.picture().items():
            spoiled = data[:70] + bytes([data[70] ^ 1]) + data[71:] if number == 0 else data
            (folders[-1] / name).write_bytes(spoiled)
    done = restore(rig.recovery.words(), tmp_path / "there", *folders)
    assert done.returncode == 0, done.stderr
    for name, data in files.items():
        assert (tmp_path / "there" / name.decode()).read_bytes() == data
    alone = restore(rig.recovery.words(), tmp_path / "alone", folders[0])  # control: damaged everywhere, it says so
    assert alone.returncode == 1
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize("coarse", [False, True])
async def test_from_shards(tmp_path, coarse):
    rig = Rig(tmp_path, 3, Policy(copies=0, k=2, m=1))
    rig.settings = replace(rig.settings, coarse_sizes=coarse)
    await rig.put_boots()
    data = os.urandom(500_000)
    async with rig.running() as drive:
        await drive.write(b"file", data)
        await drive.sync()
    folders = []
    for number, puppet in enumerate(rig.puppets.values()):
        folders.append(tmp_path / f"folder{number}")
        folders[-1].mkdir()
        for name, stored in puppet.picture().items():
            (folders[-1] / name).write_bytes(stored)
    done = restore(rig.recovery.words(), tmp_path / "there", *folders)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there" / "file").read_bytes() == data
    sizes = {path.stat().st_size for folder in folders for path in folder.iterdir()}
    assert (max(sizes) == 80 + (1 << 19)) == coarse, "half of a pack of 1 MiB, and a shard's header"
