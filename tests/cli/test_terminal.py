"""Sizes as people write and read them; names of vaults; where they live."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.cli import places
from megafs.cli.terminal import progress_bar, size_bytes, size_text
from megafs.control.messages import Progress
from megafs.errors import NoVault, Usage


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("500000", 500_000), ("1K", 1024), ("20G", 20 << 30), ("1.5 GiB", 3 << 29), ("2tb", 2 << 40), ("7B", 7)],
)
def test_sizes_are_read(text, count):
    assert size_bytes(text) == count


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5", "1,5G", "20 X", "1e9", "20G20", "٣G٣"])
def test_what_is_no_size(text):
    with pytest.raises(Usage):
        size_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 30, "20.0 GiB"), (1 << 62, "4096.0 PiB")],
)
def test_sizes_are_shown(count, text):
    assert size_text(count) == text


@given(st.integers(0, 1 << 60))
def test_a_shown_size_reads_back_nearly(count):
    assert size_bytes(size_text(count)) == pytest.approx(count, rel=0.06)


def test_without_a_terminal_only_hosts_that_take_long_are_named(capsys):
    now = iter([0, 1, 2, 6, 7, 8])
    with progress_bar("shipping", lambda: next(now)) as show:
        for waiting in (("a",), ("a", "b"), ("b",), ("b",), ("b", "c")):
            show(Progress(done_bytes=1, total_bytes=2, waiting_for=waiting))
    assert capsys.readouterr().err == "megafs: waiting for b\nmegafs: waiting for c\n"


@pytest.mark.parametrize("name", ["", ".", "..", ".v", "a/b", "a b", "-v", "a" * 65, "ü", "v\n"])
def test_names_that_are_none(name, state):
    with pytest.raises(Usage):
        places.new_vault(state, name)


def test_vaults_are_what_has_a_slot(state, vault):
    (state / "other").mkdir()
    (state / "file").touch()
    assert places.vaults(state) == [vault]
    assert places.vault(state, "v") == vault
    with pytest.raises(NoVault, match="no vault other"):
        places.vault(state, "other")
    assert places.vaults(state / "absent") == []


def test_state_directory_follows_xdg(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert places.state_directory(None) == tmp_path / "megafs"
    assert places.state_directory(tmp_path / "x").is_absolute()
