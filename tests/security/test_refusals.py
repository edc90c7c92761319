"""Wrong passphrase, wrong recovery key, damaged slot: one sentence each, status 3, not a byte changed on any disk."""

import hashlib
import subprocess

import pytest

from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.slot import FORMER, HEADER, SLOT

pytestmark = pytest.mark.mounted


def digest_of(*roots):
    """Of every name, mode, content and modification time below."""
    state = hashlib.sha256()
    for root in roots:
        for path in sorted([root, *root.rglob("*")]):
            status = path.lstat()
            times = (
                "" if path.is_dir() else f"{status.st_mtime_ns} {status.st_size}"
            )  # a folder for what is tried is made and gone
            state.update(f"{path} {status.st_mode} {times}".encode())
            state.update(path.read_bytes() if path.is_file() else b"")
    return state.hexdigest()


def refused(vault, *arguments):
    """Run it; it must fail with status 3, one sentence and nothing changed. Returns the sentence."""
    before = digest_of(*vault.places())
    done = subprocess.run(vault.command(*arguments), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    assert digest_of(*vault.places()) == before
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_wrong_passphrase_and_damaged_slots(guarded):
    """A01."""
    mount = ["mount", guarded.name, str(guarded.mountpoint), "--state-dir", str(guarded.state), "--passphrase-file"]
    wrong = guarded.base / "wrong"
    wrong.write_text("not the passphrase\n")
    wrong.chmod(0o600)
    assert "passphrase is wrong" in refused(guarded, *mount, str(wrong))
    slot = guarded.state / guarded.name / "slot"
    whole = slot.read_bytes()
    weak = FORMER.pack(b"MegaFSs1", 8, 1, 1, bytes(16)) + whole[FORMER.size : -8]
    damaged = {
        "flipped": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
        "cut": whole[:-1],
        "empty": b"",
        "weak parameters": weak + hashlib.sha256(weak).digest()[:8],
        "greedy parameters": greedy(whole),
    }
    said = set()
    for kind, data in damaged.items():
        slot.write_bytes(data)
        sentence = refused(guarded, *mount, str(guarded.passphrase))
        assert "slot" in sentence, kind
        said.add(sentence)
    assert len(said) >= 3
    slot.write_bytes(whole)
    guarded.mount()  # control: with the slot as it was and the right passphrase it opens
    before = digest_of(guarded.state / guarded.name / "log")
    (guarded.mountpoint / "file").write_text("x")
    guarded.unmount()
    assert digest_of(guarded.state / guarded.name / "log") != before  # and the digest sees what changes


def greedy(whole):
    body = bytearray(whole[:-8])
    kind, label, _, _, _, salt, wrapped = SLOT.unpack_from(body, HEADER.size)
    SLOT.pack_into(body, HEADER.size, kind, label, 0xFFFFFFFF, 64, 16, salt, wrapped)
    return bytes(body) + hashlib.sha256(body).digest()[:8]


def test_wrong_recovery_keys(guarded):
    words = guarded.recovery_key.read_text().split()
    swapped = [words[1], words[0], *words[2:]] if words[0] != words[1] else words[::-1]
    wrong = {
        "of another vault": RecoveryKey.generate().words(),
        "a word too few": words[:-1],
        "an unknown word": ["megafsword", *words[1:]],
        "two in the wrong order": swapped,
    }
    hosts = [part for n in range(3) for part in ("--host", f"file://{guarded.base}/host{n}")]
    said = set()
    for kind, text in wrong.items():
        file = guarded.base / "words"
        file.write_text(" ".join(text))
        file.chmod(0o600)
        unlocking = ["--state-dir", str(guarded.state), "--passphrase-file", str(guarded.passphrase), "--yes"]
        sentence = refused(guarded, "attach", "there", *hosts, "--recovery-key-file", str(file), *unlocking)
        # One word alone may be a word of any sentence.
        assert not any(part in sentence for part in ("megafsword", " ".join(words[4:7]))), kind
        said.add(sentence)
        assert not (guarded.state / "there").exists()
    assert len(said) == 4
