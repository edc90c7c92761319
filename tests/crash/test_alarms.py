"""A25: a device that is killed at random moments, over hosts that are slow or away, raises no false alarm; a host that
was put back to an older state, and a state directory that was, raise a true one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIVES = 12
MANY_LIVES = 200
repository = Path(__file__).parents[2]


def lived(root: Path, lives: int, seed: int, *control: str) -> dict:
    """What the program says of so many lives."""
    root.mkdir()
    command = [sys.executable, "-m", "tests.crash.killed", str(root), str(lives), str(seed), *control]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    print(f"seed {seed}: {told}", flush=True)
    return told


def check_quiet(told: dict, lives: int) -> None:
    assert told["alarms"] == []
    assert told["counts"]["ended -9"] == lives
    assert told["counts"]["settled 0"] == 1


def test_no_false_alarm(tmp_path, seed):
    check_quiet(lived(tmp_path / "vault", LIVES, seed), LIVES)


@pytest.mark.crash
def test_no_false_alarm_in_many_lives(tmp_path, rounds, seed):
    """``--rounds N``: N kills (A25)."""
    left, number = rounds or MANY_LIVES, 0
    while left:
        lives = min(left, MANY_LIVES)
        check_quiet(lived(tmp_path / f"vault{number}", lives, seed + number), lives)
        left, number = left - lives, number + 1


@pytest.mark.parametrize(
    ("put_back", "said"), [("host", "host1"), ("state", "older than the hosts'")], ids=["host", "state"]
)
def test_what_was_put_back_is_noticed(tmp_path, seed, put_back, said):
    """The negative control (A25)."""
    told = lived(tmp_path / "vault", 5, seed, put_back)
    check_quiet(told, 5)
    assert any(said in line for line in told["alarms after the control"])
