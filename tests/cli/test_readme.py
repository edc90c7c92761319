"""README.md says what is: every command, setting, default and exit status."""

import dataclasses
import re
from pathlib import Path

from megafs import cli
from megafs.config import MOUNT_FLAGS, Settings
from megafs.errors import EXIT_STATUSES

TEXT = (Path(__file__).parent.parent.parent / "README.md").read_text()


def test_every_command_and_no_other():
    there = {command.name for command in cli.app.registered_commands}
    assert set(re.findall(r"^\| `megafs ([\w-]+)", TEXT, re.MULTILINE)) == there


def test_every_setting_with_its_default():
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", TEXT, re.MULTILINE))
    assert told == {field.name: str(field.default).lower() or '""' for field in dataclasses.fields(Settings)}


def test_every_exit_status():
    (paragraph,) = re.findall(r"\*\*Exit statuses\.\*\*(.*?)\n\n", TEXT, re.DOTALL)
    assert [int(status) for status in re.findall(r"(?:^|·)\s*(\d+) ", paragraph)] == list(EXIT_STATUSES)


def test_every_option_that_it_names_exists(capsys):
    for command in [[], *([command.name] for command in cli.app.registered_commands)]:
        cli.main([*command, "--help"])
    shown = capsys.readouterr().out
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) - {"--user", "--now"}  # systemctl's
    assert {option for option in used if option not in shown} == set()


def test_flags_of_mount_8():
    script = (Path(__file__).parent.parent.parent / "contrib" / "mount.fuse.megafs").read_text()
    (row,) = re.findall(r"^ +((?:\w+ \| )+\w+)\)\n +flags=", script, re.MULTILINE)
    assert set(row.split(" | ")) == set(MOUNT_FLAGS)
