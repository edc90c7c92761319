"""An asyncio loop in a thread of its own, for client libraries that need one; trio hands work over and waits.

A cancelled wait cancels the work there as well. The thread starts with the first work and ends with ``aclose``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

import trio

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Aside:
    """Owns the loop and the thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # Libraries leave tasks of parallel reads and writes behind when a connection breaks; the request itself tells
        # of it, asyncio would print each of them besides.
        self._loop.set_exception_handler(lambda _, context: log.debug("asyncio: %s", context.get("message")))
        self._thread = Thread(target=self._loop.run_forever, name=name, daemon=True)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    async def run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """The result of ``work`` in the asyncio thread."""
        if not self._thread.is_alive():
            self._thread.start()
        done, token = trio.Event(), trio.lowlevel.current_trio_token()

        async def entered() -> Result:
            return await work()

        def tell(_: object) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        future = asyncio.run_coroutine_threadsafe(entered(), self._loop)
        future.add_done_callback(tell)
        try:
            await done.wait()
        finally:
            future.cancel()  # does nothing to one that is done
        return future.result()

    async def in_trio(self, work: Callable[[], Awaitable[None]], token: trio.lowlevel.TrioToken) -> None:
        """In the asyncio thread: wait for ``work``, which raises nothing, in trio's; there it goes on if cancelled."""
        done = asyncio.Event()

        async def there() -> None:
            try:
                await work()
            finally:
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(done.set)

        token.run_sync_soon(trio.lowlevel.spawn_system_task, there)
        await done.wait()

    async def aclose(self) -> None:
        """Stop the loop and join the thread."""
        if self._thread.is_alive():
            with trio.CancelScope(shield=True):  # milliseconds: the thread must not outlive us
                await self.run(_settled)
                self._loop.call_soon_threadsafe(self._loop.stop)
                await trio.to_thread.run_sync(self._thread.join)
        if not self._loop.is_closed():
            self._loop.close()


async def _settled() -> None:
    """Let what was cancelled end, so that no task is destroyed while it is pending."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)
