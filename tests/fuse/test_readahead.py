"""Read-ahead is raised where it may be, never lowered, and nothing breaks where it may not."""

import os

import pytest

from megafs.fuse.readahead import READ_AHEAD_KIB, raise_read_ahead


@pytest.fixture
def knob(tmp_path):
    device = os.stat(tmp_path).st_dev
    folder = tmp_path / "bdi" / f"{os.major(device)}:{os.minor(device)}"
    folder.mkdir(parents=True)
    return folder / "read_ahead_kb"


@pytest.mark.parametrize(
    ("before", "after"), [("128", READ_AHEAD_KIB), (str(READ_AHEAD_KIB), READ_AHEAD_KIB), ("8192", 8192)]
)
def test_it_is_raised_and_never_lowered(tmp_path, knob, before, after):
    knob.write_text(before + "\n")
    assert raise_read_ahead(tmp_path, tmp_path / "bdi")
    assert int(knob.read_text()) == after


def test_where_it_is_not_there_nothing_happens(tmp_path, knob):
    assert not raise_read_ahead(tmp_path, tmp_path / "bdi")


def test_what_the_kernel_says_may_be_nonsense(tmp_path, knob):
    knob.write_text("much\n")
    assert not raise_read_ahead(tmp_path, tmp_path / "bdi")
