"""Options of the whole suite."""

import pytest
from hypothesis import settings

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
