"""Options of the whole suite."""

from dataclasses import asdict

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
    group.addoption("--minutes", type=float, default=3.0, help="how long the soak goes on (-m soak)")


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
