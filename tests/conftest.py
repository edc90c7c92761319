"""Options of the whole suite."""

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import settings

from tests.mounted.both import Tally, tally

# `--hypothesis-profile=ci`: the same examples each time, three times as many; `thorough`: thousands. No deadlines: the
# machine may be busy.
settings.register_profile("dev", max_examples=100, deadline=None)
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=3000, deadline=None)
settings.load_profile("dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that lengthen a run or check the suite itself."""
    group = parser.getgroup("megafs")
    group.addoption("--stand-in", action="store_true", help="tests/mounted: compare plain with plain")
    group.addoption("--rounds", type=int, default=0, help="kill and power cut rounds, state machine runs (0: a few)")
    group.addoption("--seed", type=int, default=-1, help="where random series begin (-1: anywhere; they print it)")
    group.addoption(
        "--minutes", type=float, default=3.0, help="how long the soak goes on (-m soak), and atheris in all (-m fuzz)"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A series is as long as it was asked to be."""
    for item in items:
        if item.get_closest_marker("crash") or item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How many were asked for; 0: the usual number."""
    return int(request.config.getoption("rounds"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Where a random series begins."""
    asked = int(request.config.getoption("seed"))
    number = asked if asked >= 0 else random.SystemRandom().randrange(1 << 30)
    print(f"--seed {number}")
    return number


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, for what computes itself what a disk keeps; on the disk where there is none."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="megafs-", dir="/dev/shm") as place:
        yield Path(place)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist (``-n 2``) hands over what it has counted."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = asdict(tally)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """Add it up."""
    tally.add(Tally(**getattr(node, "workeroutput", {}).get("tally", {})))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was compared."""
    for line in tally.lines():
        terminalreporter.write_line(line)
