"""Where the passphrase comes from: a file, a command, the desktop keyring, or a question on the terminal.

A file, a command and the keyring may also give a random key (``crypto.slot.SlotKey``) in the place of a passphrase.
Never from the command line or the environment: both can be read by others on the machine.
"""

import shlex
import stat
import subprocess
import sys
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from megafs.cli.terminal import note
from megafs.config import VaultPaths
from megafs.errors import MegaFSError, Usage, WrongKey

if TYPE_CHECKING:
    from megafs.crypto.opened import Opened

PASSPHRASE_BYTES = 4096
COMMAND_S = 120.0  # a password manager may ask its owner first
SERVICE = "megafs"  # under which the keyring keeps it; the user name there is the vault's directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the command line says about the passphrase."""

    file: Path | None = None
    command: str | None = None

    def __post_init__(self) -> None:
        if self.file is not None and self.command is not None:
            raise Usage("--passphrase-file and --passphrase-command exclude each other")

    def given(self) -> str | None:
        """The passphrase from the file or the command; None if neither was named."""
        if self.file is not None:
            return _from_file(self.file)
        if self.command is not None:
            return _from_command(self.command)
        return None

    def unlock(self, paths: VaultPaths, *, ask_keyring: bool = True) -> "Opened":
        """The slot file of a vault that is there, opened. Blocks. Raises DamagedSlot, WrongKey, Usage."""
        given = self.given()
        found = kept(paths) if given is None and ask_keyring else None
        if found is not None:
            try:
                return opened(paths, found)
            except WrongKey:
                note(f"what the desktop keyring holds does not open {paths.root.name} any more; --remember renews it")
        asked = given if given is not None else _asked(f"Passphrase of {paths.root.name}: ")
        return opened(paths, asked)

    def existing(self, paths: VaultPaths) -> str:
        """The passphrase of a vault that is there."""
        given = self.given()
        if given is None:
            given = kept(paths)
        return given if given is not None else _asked(f"Passphrase of {paths.root.name}: ")

    def new(self, name: str) -> str:
        """A passphrase for a new vault; on a terminal asked twice."""
        given = self.given()
        if given is not None:
            return given
        first = _asked(f"New passphrase for {name}: ")
        if first != _asked("The same again: "):
            raise Usage("the two passphrases differ; nothing was done")
        return first


def remember(paths: VaultPaths, opened: "Opened") -> None:
    """Give the desktop keyring a random key and the slot file a slot for it, and note in the vault's directory that it
    is there. The passphrase itself is kept nowhere."""
    import keyring
    from keyring.errors import KeyringError

    from megafs import slotfile
    from megafs.crypto.slot import SlotKey

    key = SlotKey.generate()
    try:
        keyring.set_password(SERVICE, str(paths.root), key.text())
    except KeyringError as error:
        raise MegaFSError(f"no desktop keyring takes a key here: {error}") from error
    slotfile.put_slot(paths, opened, slotfile.KEYRING, key)
    _marker(paths).touch(mode=0o600)


def opened(paths: VaultPaths, text: str) -> "Opened":
    """The slot file, opened with what a person or a file gave."""
    from megafs import slotfile
    from megafs.crypto.slot import secret_from

    return slotfile.unlock(paths, secret_from(text))


def _marker(paths: VaultPaths) -> Path:
    return paths.root / "remembered"


def kept(paths: VaultPaths) -> str | None:
    """What the desktop keyring has for the vault, if it was ever given anything."""
    if not _marker(paths).exists():
        return None
    import keyring
    from keyring.errors import KeyringError

    try:
        found = keyring.get_password(SERVICE, str(paths.root))
    except KeyringError as error:
        note(f"the desktop keyring does not answer: {error}")
        return None
    return found


def _from_file(file: Path) -> str:
    if str(file) == "-":
        return _line(sys.stdin.buffer.read(PASSPHRASE_BYTES + 2))
    try:
        with open(file, "rb") as opened:
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                note(f"others can read {file}; chmod 600 makes it yours")
            return _line(opened.read(PASSPHRASE_BYTES + 2))
    except OSError as error:
        raise Usage(f"the passphrase file cannot be read: {error.strerror}: {file}") from error


def _from_command(command: str) -> str:
    try:
        words = shlex.split(command)
        if not words:
            raise ValueError("it is empty")
        done = subprocess.run(words, stdout=subprocess.PIPE, timeout=COMMAND_S, check=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise Usage(f"the passphrase command failed: {_reason(error)}") from error
    return _line(done.stdout)


def _reason(error: Exception) -> str:
    """What went wrong, without the command's output."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"it ended with status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it did not end within {COMMAND_S:.0f} s"
    return str(error)


def _line(data: bytes) -> str:
    """The text less one line end. A passphrase may hold spaces, so nothing else is cut."""
    text = data.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(text) <= PASSPHRASE_BYTES or b"\n" in text:
        raise Usage(f"a passphrase is one line of 1 to {PASSPHRASE_BYTES} bytes")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise Usage("the passphrase is not UTF-8") from error


def _asked(question: str) -> str:
    try:
        with open("/dev/tty"):
            pass
    except OSError as error:
        raise Usage(
            "there is no terminal to ask for the passphrase: use --passphrase-file or --passphrase-command"
        ) from error
    try:
        found = getpass(question)
    except EOFError as error:
        raise Usage("no passphrase was given") from error
    if not found:
        raise Usage("the passphrase is empty")
    return found
