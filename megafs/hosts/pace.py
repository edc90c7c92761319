"""Rates: the bytes of every body, piece by piece, through one bucket each way.

``Limited`` sets the pace of a request; hosts look it up where they send and receive, with ``current()``, because it
concerns nothing between. Without a rate a body is one piece and nothing waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import trio

from megafs.hosts.protocol import Bytes

PIECE_S = 0.1  # what passes at once: a tenth of a second of the line
PIECE_LEAST_BYTES, PIECE_MOST_BYTES = 4 << 10, 256 << 10
UNLIMITED_BYTES = 1 << 40


class TokenBucket:
    """Lets ``rate_bytes_s`` bytes pass on trio's clock, in the order in which they asked; 0: all of them at once.

    One bucket may serve many hosts: the line is shared.
    """

    def __init__(self, rate_bytes_s: float) -> None:
        self.rate_bytes_s = rate_bytes_s
        self._free_at = 0.0

    @property
    def piece_bytes(self) -> int:
        """How much may pass at once."""
        if not self.rate_bytes_s:
            return UNLIMITED_BYTES
        return min(max(int(self.rate_bytes_s * PIECE_S), PIECE_LEAST_BYTES), PIECE_MOST_BYTES)

    def wait_s(self, count: int) -> float:
        """Book bytes; how long until their turn."""
        now = trio.current_time()
        start = max(self._free_at, now)
        if self.rate_bytes_s:
            self._free_at = start + count / self.rate_bytes_s
        return start - now

    def give_back(self, count: int) -> None:
        """What was booked does not pass."""
        if self.rate_bytes_s:
            self._free_at -= count / self.rate_bytes_s


class Pace:
    """One request's way through the buckets. ``waited_s``: how long it waited for its turns so far."""

    def __init__(self, up: TokenBucket, down: TokenBucket) -> None:
        self._up, self._down = up, down
        self.scope: trio.CancelScope | None = None  # whose deadline does not count the waiting
        self.waited_s = 0.0

    def cut(self, data: Bytes) -> Iterator[memoryview]:
        """A body in the pieces in which it may be sent."""
        view, most = memoryview(data), self._up.piece_bytes
        return (view[start : start + most] for start in range(0, len(view), most))

    @property
    def piece_bytes(self) -> int:
        """How much to receive at once."""
        return self._down.piece_bytes

    async def sending(self, count: int) -> None:
        """Call before so many bytes are sent."""
        await self._turn(self._up, count)

    async def received(self, count: int) -> None:
        """Call when so many bytes have arrived, before more are read."""
        await self._turn(self._down, count)

    def sending_in_thread(self, count: int) -> None:
        """The same from a thread that trio started."""
        if self._up.rate_bytes_s:
            trio.from_thread.run(self.sending, count)

    def received_in_thread(self, count: int) -> None:
        """The same from a thread that trio started."""
        if self._down.rate_bytes_s:
            trio.from_thread.run(self.received, count)

    async def _turn(self, bucket: TokenBucket, count: int) -> None:
        wait_s = bucket.wait_s(count)
        if wait_s <= 0:
            return
        self.waited_s += wait_s
        if self.scope is not None:
            self.scope.deadline += wait_s
        try:
            await trio.sleep(wait_s)
        except trio.Cancelled:
            bucket.give_back(count)
            raise


UNLIMITED = TokenBucket(0)
_pace: ContextVar[Pace] = ContextVar("pace")


def current() -> Pace:
    """The pace of the request at hand."""
    try:
        return _pace.get()
    except LookupError:
        return Pace(UNLIMITED, UNLIMITED)


@contextmanager
def paced(up: TokenBucket, down: TokenBucket) -> Iterator[None]:
    """What is sent and received within passes through these buckets."""
    token = _pace.set(Pace(up, down))
    try:
        yield
    finally:
        _pace.reset(token)
