"""Drives whose mounts go when the test ends."""

from contextlib import ExitStack

import pytest

from tests.daemon.drive import Drive


@pytest.fixture
def drives(tmp_path):
    """Makes a drive: ``drives("name", urls)``."""
    with ExitStack() as made:

        def make(name, urls):
            drive = Drive(tmp_path / name, urls)
            made.callback(drive.close)
            return drive

        yield make


@pytest.fixture
def folders(tmp_path):
    """Four folders that serve as hosts."""
    return [tmp_path / name for name in ("one", "two", "three", "four")]
