"""Drives whose mounts go when the test ends, and whose daemons have not complained of anything unexpected."""

from contextlib import ExitStack

import pytest

from tests.daemon.drive import Drive


@pytest.fixture
def drives(tmp_path):
    """Makes a drive: ``drives("name", urls)``."""
    each = []
    with ExitStack() as made:

        def make(name, urls):
            drive = Drive(tmp_path / name, urls)
            made.callback(drive.close)
            each.append(drive)
            return drive

        yield make
    unexpected = [line for drive in each for line in drive.complaints()]
    assert not unexpected, "\n".join(unexpected)


@pytest.fixture
def folders(tmp_path):
    """Four folders that serve as hosts."""
    return [tmp_path / name for name in ("one", "two", "three", "four")]
