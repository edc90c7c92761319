"""The command line as a whole: one sentence and the class's status for every failure, help, and a light start."""

import subprocess
import sys

import pytest

from megafs import cli, errors
from megafs.errors import EXIT_STATUSES, MegaFSError

SUBCOMMANDS = ("create", "mount", "status", "sync", "unmount", "attach", "hosts", "doctor")
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MegaFSError)]


@pytest.mark.parametrize("arguments", [[], *([name] for name in SUBCOMMANDS)], ids=" ".join)
def test_help_shows_every_exit_status(arguments, capsys):
    assert cli.main([*arguments, "--help"]) == 0
    shown = capsys.readouterr().out
    for status, meaning in EXIT_STATUSES.items():
        assert f"{status}  {meaning}" in shown


def test_help_lists_the_subcommands(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in SUBCOMMANDS)


def test_nothing_heavy_is_imported_before_it_is_needed():
    loaded = "import megafs.cli, sys; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in shown  # the list is what it seems to be
    assert not {"trio", "pyfuse3", "cryptography", "apsw", "opendal", "rich", "keyring"} & set(shown)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_error_is_one_sentence_and_its_status(kind, entries, state, phrase_file, capsys):
    entries.error = kind(1) if kind is errors.Refused else kind("the reason")
    arguments = ["create", "v", "--host", "file:///a", "--state-dir", str(state), "--passphrase-file", str(phrase_file)]
    assert cli.main(arguments) == kind.status
    assert kind.status in EXIT_STATUSES
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"megafs: {entries.error}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["creat"],
        ["create", "v"],
        ["create"],
        ["mount", "v"],
        ["status", "--bogus"],
        ["mount", "v", "d", "--cache-size"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_sentence_and_status_2(arguments, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("megafs: ")
    assert shown.err.count("\n") == 1
    assert "--help" in shown.err


def test_options_stand_after_the_subcommand(state):
    assert cli.main(["status", "--state-dir", str(state)]) == 0
    assert cli.main(["--state-dir", str(state), "status"]) == 2


def test_a_bug_is_said_to_be_one(entries, state, phrase_file, capsys):
    entries.error = ZeroDivisionError("x")
    arguments = ["create", "v", "--host", "file:///a", "--state-dir", str(state), "--passphrase-file", str(phrase_file)]
    assert cli.main(arguments) == 1
    assert "bug in MegaFS (ZeroDivisionError)" in capsys.readouterr().err.splitlines()[-1]


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "megafs 0.1.0\n"


def test_no_subcommand_shows_the_help_and_fails(capsys):
    assert cli.main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Commands:" in shown.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_and_candidates(shell, tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "_MEGAFS_COMPLETE": f"source_{shell}"}
    program = [sys.executable, "-c", "from megafs.cli import main; main()"]
    shown = subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout
    assert "_MEGAFS_COMPLETE" in shown
