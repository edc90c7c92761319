"""Time that jumps, but not past work in threads."""

import pytest
from trio.testing import MockClock


@pytest.fixture
def autojump_clock() -> MockClock:
    """Sealing and disk writes run in threads, of which trio's clock knows nothing: it waits 50 ms before it jumps."""
    return MockClock(autojump_threshold=0.05)
