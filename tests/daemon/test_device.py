"""A state directory is whole or absent, whatever ended the one who made it."""

import os

import pytest

from megafs.config import Settings, VaultPaths
from megafs.daemon.device import new_state


def test_it_appears_only_when_the_body_succeeded(tmp_path):
    paths = VaultPaths(root=tmp_path / "v")
    with pytest.raises(RuntimeError), new_state(paths, Settings()):
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    with new_state(paths, Settings()):
        assert not paths.root.exists()
    assert os.listdir(tmp_path) == ["v"]


def test_what_a_killed_one_left_goes_with_the_next(tmp_path):
    """Only what no living process makes, and only of this name."""
    dead, other = tmp_path / ".v.new-4194999", tmp_path / ".w.new-4194999"
    alive = tmp_path / ".v.new-1"
    for directory in (dead, other, alive):
        (directory / "packs").mkdir(parents=True)
    with new_state(VaultPaths(root=tmp_path / "v"), Settings()):
        pass
    assert sorted(os.listdir(tmp_path)) == [alive.name, other.name, "v"]
