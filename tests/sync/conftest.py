"""Time that jumps, but not past work in threads."""

from math import inf

import pytest
import trio
from trio.testing import MockClock


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """Sealing and disk writes run in threads, of which trio's clock knows nothing: while one does, it stands still. (It
    waited 50 ms before it jumped, which a busy machine needs now and then for a thread.)"""
    clock = MockClock(autojump_threshold=0)
    run_sync, running = trio.to_thread.run_sync, 0

    async def counted(*arguments, **options):
        nonlocal running
        running += 1
        clock.autojump_threshold = inf
        try:
            return await run_sync(*arguments, **options)
        finally:
            running -= 1
            if not running:
                clock.autojump_threshold = 0

    monkeypatch.setattr(trio.to_thread, "run_sync", counted)
    return clock
