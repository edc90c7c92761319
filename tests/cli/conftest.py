"""A stand-in for the daemon's entry points, and a vault directory whose slot opens."""

import logging
import os
import sys
from types import SimpleNamespace

import pytest

import megafs
from megafs.config import VaultPaths
from tests.support.slots import light_file

WORDS = [f"word{number}" for number in range(24)]


class Entries:
    """The entry points of ``megafs.daemon``, noting how they were called and doing as little as keeps their promise."""

    def __init__(self):
        self.calls = []
        self.error = None

    def create_vault(self, paths, **arguments):
        self.calls.append((paths, arguments))
        if self.error:
            raise self.error
        paths.root.mkdir(mode=0o700)
        paths.slot.write_bytes(light_file(arguments["passphrase"], b"body"))
        return WORDS

    def attach_vault(self, paths, **arguments):
        self.calls.append((paths, arguments))
        self.agreed = arguments["confirm"]("Become the writing device?")
        paths.root.mkdir(mode=0o700)
        return SimpleNamespace()

    def run(self, paths, **arguments):
        self.calls.append((paths, arguments))
        if self.error:
            raise self.error
        arguments["ready"]()


@pytest.fixture
def entries(monkeypatch):
    stand_in = Entries()
    monkeypatch.setitem(sys.modules, "megafs.daemon", stand_in)
    monkeypatch.setattr(megafs, "daemon", stand_in, raising=False)
    return stand_in


@pytest.fixture(autouse=True)
def harden(monkeypatch):
    """The process of the tests stays dumpable, and may have core files; clean_logging gives it its umask back."""
    monkeypatch.setattr("megafs.process.harden", lambda: os.umask(0o077))


@pytest.fixture(autouse=True)
def clean_logging():
    """What a mount in this process does to it, undone."""
    root, ours = logging.getLogger(), logging.getLogger("megafs")
    handlers, levels, umask = root.handlers[:], (root.level, ours.level), os.umask(0o022)
    yield ours
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    os.umask(umask)
    logging.captureWarnings(False)


@pytest.fixture
def phrase_file(tmp_path):
    file = tmp_path / "phrase"
    file.write_text("correct horse\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def state(tmp_path):
    """A state directory without a vault."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def vault(state):
    """A vault named v whose passphrase is ``correct horse``; nothing but its slot is there."""
    paths = VaultPaths(root=state / "v")
    paths.root.mkdir(mode=0o700)
    paths.slot.write_bytes(light_file("correct horse", b"body"))
    paths.slot.chmod(0o600)
    return paths
