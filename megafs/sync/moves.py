"""How often anything has changed that shipping knows of; for loops that rest while nothing does. No clock, no disk."""

import trio

IDLE_S = 3600.0  # a loop that nothing stirs looks all the same: time passes, too


class Moves:
    """A counter that can be waited for; owner: sync.ship, which is told of every durable commit and acknowledgement."""

    def __init__(self) -> None:
        self.count = 0
        self._event = trio.Event()

    def note(self) -> None:
        """Something has changed."""
        self.count += 1
        self._event.set()
        self._event = trio.Event()

    async def beyond(self, seen: int) -> None:
        """Return when ``count`` is greater, at once if it is; after IDLE_S in any case."""
        with trio.move_on_after(IDLE_S):
            while self.count <= seen:
                await self._event.wait()
