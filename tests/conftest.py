"""Options of the whole suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that lengthen a run or check the suite itself."""
    group = parser.getgroup("megafs")
    group.addoption("--stand-in", action="store_true", help="tests/mounted: compare plain with plain (checks the suite)")
    group.addoption("--rounds", type=int, default=0, help="kill and power cut rounds, state machine runs (0: a few)")
