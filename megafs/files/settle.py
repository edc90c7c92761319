"""Windows of a file that were written in small pieces are rewritten as one chunk when they are left alone.

Told by files.content of every small extent that lands; counts them per window of CHUNK_BYTES. A window that has had
many and none for a while is read and written back like any other content, if nothing of it changed meanwhile. What is
forgotten (more windows than are remembered, a restart) stays in small extents and is only slower to read.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import trio

from megafs.config import CHUNK_BYTES
from megafs.errors import MegaFSError
from megafs.model import Ino

SMALL_BYTES = 32 * 1024  # an extent below this counts
MANY = 16  # small extents of one window: reading it then costs more than twice one chunk
IDLE_S = 30.0  # since the last one
PAUSE_S = 0.05  # between two windows: nobody waits for this
REMEMBERED = 10_000  # windows; the longest untouched are forgotten first

Window = tuple[Ino, int]  # file, number of the window


class Settler:
    """Owner of the counts."""

    def __init__(self, settle: Callable[[Ino, int, int], Awaitable[bool]]) -> None:
        """``settle(ino, start, stop)`` rewrites a range if it can, and says whether it did."""
        self._settle = settle
        self._counts: OrderedDict[Window, tuple[int, float]] = OrderedDict()
        self._woken = trio.Event()
        self.settled = 0

    def note(self, ino: Ino, start: int) -> None:
        """A small extent of this file begins at ``start``."""
        window = (ino, start // CHUNK_BYTES)
        count, _ = self._counts.pop(window, (0, 0.0))
        self._counts[window] = (count + 1, trio.current_time())
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)
        if count + 1 == MANY:
            self._woken.set()

    def due(self) -> list[Window]:
        """Windows worth rewriting that were left alone long enough."""
        before_s = trio.current_time() - IDLE_S
        return [window for window, (count, last_s) in self._counts.items() if count >= MANY and last_s <= before_s]

    async def run(self) -> None:
        """Rewrite until cancelled; sleeps while no window has many small extents."""
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            while any(count >= MANY for count, _ in self._counts.values()):
                await trio.sleep(IDLE_S)
                for window in self.due():
                    _, last_s = self._counts.get(window, (0, trio.current_time()))
                    if last_s > trio.current_time() - IDLE_S:
                        continue  # forgotten, or written again, while others were rewritten
                    del self._counts[window]
                    ino, number = window
                    try:
                        start = number * CHUNK_BYTES
                        self.settled += await self._settle(ino, start, start + CHUNK_BYTES)
                    except MegaFSError:
                        continue  # not readable now: whoever asks for it in earnest is told
                    await trio.sleep(PAUSE_S)
