"""Where a passphrase may come from, and that it comes from nowhere else."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail

from megafs.cli import passphrase
from megafs.cli.passphrase import Source
from megafs.errors import MegaFSError, Usage


class MemoryKeyring(KeyringBackend):
    priority = 1

    def __init__(self):
        self.kept = {}

    def get_password(self, service, username):
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password


@pytest.fixture
def desktop(monkeypatch):
    before = keyring.get_keyring()
    kept = MemoryKeyring()
    keyring.set_keyring(kept)
    yield kept
    keyring.set_keyring(before)


@pytest.mark.parametrize("text", ["correct horse", " with spaces ", "ü€", "x" * 4096])
def test_a_file_holds_one_line(tmp_path, text):
    file = tmp_path / "f"
    for end in ("", "\n", "\r\n"):
        file.write_bytes((text + end).encode())
        file.chmod(0o600)
        assert Source(file=file).given() == text


@pytest.mark.parametrize("data", [b"", b"\n", b"two\nlines\n", b"\xff\xfe", b"x" * 4097])
def test_a_file_that_holds_no_passphrase(tmp_path, data):
    file = tmp_path / "f"
    file.write_bytes(data)
    with pytest.raises(Usage):
        Source(file=file).given()


def test_a_file_that_others_can_read_is_said(tmp_path, capsys):
    file = tmp_path / "f"
    file.write_text("p")
    file.chmod(0o644)
    assert Source(file=file).given() == "p"
    assert "chmod 600" in capsys.readouterr().err
    file.chmod(0o600)
    Source(file=file).given()
    assert capsys.readouterr().err == ""


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(Usage, match="No such file"):
        Source(file=tmp_path / "absent").given()


def test_a_command_prints_it():
    assert Source(command="printf 'a b\\n'").given() == "a b"


@pytest.mark.parametrize("command", ["false", "/no/such/program", "true", "'unbalanced", ""])
def test_a_command_that_fails_is_a_sentence(command):
    with pytest.raises(Usage):
        Source(command=command).given()


def test_a_failing_commands_output_is_not_shown():
    with pytest.raises(Usage) as caught:
        Source(command="sh -c 'echo secret; exit 3'").given()
    assert "secret" not in str(caught.value)
    assert "status 3" in str(caught.value)


def test_two_sources_exclude_each_other(tmp_path):
    with pytest.raises(Usage):
        Source(file=tmp_path / "f", command="true")


def test_the_keyring_is_asked_only_after_it_was_told(vault, desktop):
    desktop.set_password("megafs", str(vault.root), "from elsewhere")
    assert not (vault.root / "remembered").exists()
    passphrase.remember(vault, passphrase.opened(vault, "correct horse"))
    kept = desktop.get_password("megafs", str(vault.root))
    assert kept.startswith("megafs-key-1:"), "a key of its own, not the passphrase"
    assert Source().unlock(vault).body == b"body"
    assert Source().unlock(vault).label == "keyring"
    assert Source().existing(vault) == kept
    assert [path.name for path in vault.root.iterdir() if "horse" in path.read_text(errors="replace")] == []


def test_no_keyring_is_a_sentence(vault, desktop):
    keyring.set_keyring(fail.Keyring())
    before = vault.slot.read_bytes()
    with pytest.raises(MegaFSError, match="no desktop keyring"):
        passphrase.remember(vault, passphrase.opened(vault, "correct horse"))
    assert vault.slot.read_bytes() == before
    assert not (vault.root / "remembered").exists()


def asked_on_a_terminal(code, typed):
    """What ``code`` prints in a process whose terminal is ours, when ``typed`` are the lines given at its prompts."""
    ours, theirs = pty.openpty()
    program = f"from megafs.cli.passphrase import *\ntry:\n    print({code})\nexcept Exception as e:\n    print(e)"
    take_terminal = "import fcntl, os, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    with subprocess.Popen(
        [sys.executable, "-c", f"{take_terminal}\n{program}"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        shown = b""
        for line in typed:
            while not shown.endswith(b": "):
                shown += os.read(ours, 1024)
            os.write(ours, line.encode() + b"\n")
            shown += b"|"
        printed = process.communicate(timeout=30)[0].decode().strip()
    os.close(ours)
    return shown.decode(), printed


def test_a_new_one_is_asked_twice_and_not_echoed():
    shown, printed = asked_on_a_terminal("Source().new('v')", ["pass 1", "pass 1"])
    assert printed == "pass 1"
    assert "pass 1" not in shown
    assert shown.count(": ") == 2


@pytest.mark.parametrize("typed", [["one", "other"], ["", ""]])
def test_a_slip_is_a_sentence(typed):
    _, printed = asked_on_a_terminal("Source().new('v')", typed[: 2 if typed[0] else 1])
    assert "differ" in printed or "empty" in printed


def test_an_existing_one_is_asked_once(vault):
    code = f"Source().existing(VaultPaths(root=Path({str(vault.root)!r})))"
    shown, printed = asked_on_a_terminal(code, ["pass 1"])
    assert printed == "pass 1"
    assert "Passphrase of v" in shown


def test_without_a_terminal_it_says_what_to_use():
    program = "from megafs.cli.passphrase import Source; Source().new('v')"
    done = subprocess.run([sys.executable, "-c", program], start_new_session=True, capture_output=True, text=True)
    assert "--passphrase-file" in done.stderr


def test_no_code_reads_a_passphrase_from_the_environment():
    text = "".join(path.read_text() for path in Path(passphrase.__file__).parent.glob("*.py"))
    assert "getenv" not in text
    assert "envvar" not in text
    assert "environ" not in Path(passphrase.__file__).read_text().partition('"""')[2].partition('"""')[2]
