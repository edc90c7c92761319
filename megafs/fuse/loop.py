"""The loop under pyfuse3: takes requests without a trip through trio's scheduler for each one.

pyfuse3 takes its ``trio`` from a global of its module (that is how its asyncio mode works); ``install`` puts a stand-in
there. It differs from trio in two things that pyfuse3 does once per request, and passes everything else through (the
very first request: fuse.handshake):

* ``Lock``: taking it while it is free is no checkpoint, and it is not fair. pyfuse3's reading task gives it back after
  each request while a second one waits for it; a fair lock therefore switches tasks for every request.
* ``lowlevel.wait_readable``: asks the fd first, then keeps asking for up to POLL_S, because whoever got an answer
  usually has its next request ready within that time; only then does it wait in trio (two epoll_ctl, one epoll_wait, a
  reschedule, a virtual processor that has to be woken).

Two promises replace what is taken away. *Everybody runs*: after a turn without a wait the loop gives way for TICKS
rounds of trio's scheduler, so other tasks, timeouts, thread results and cancellation are never more than TURN_S late,
and a request that waits for a thread is late by no more than about the time that it waited anyway. *Idle is idle*:
there is no polling but directly after a request, and a pace that polling does not match (a client that thinks for a
millisecond between requests) shrinks the polling to nothing until requests come close together again.

pyfuse3 runs several tasks of ``_session_loop``: one holds the lock and waits for the fd, others wait for the lock. When
a handler really waits (for a disk, a host) the lock is free, and the task that was woken at its release takes over.

Measured with contrib/bench/ceiling.py, 2 virtual processors, one client that asks getxattr in a loop: 71 µs a request
with trio's own, 23 µs here, 7 µs where idle processors are not halted at once (``guest_halt_poll_ns``). A request whose
handler waits for a thread: 0.2 ms, and beside a client that never stops asking 0.5 ms (fixed turns of 3 ms: 4 ms),
with ``pyfuse3.main(min_tasks=8)``, which spares the starting of tasks. Beside a thread that computes in Python a
request waits for ``sys.getswitchinterval()``: 5.2 ms by default, 0.7 ms at 0.0005, which costs a thread that
compresses and seals nothing.
"""

import select
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import pyfuse3
import trio
from trio.lowlevel import current_task

from megafs.fuse.handshake import Handshake

POLL_S = 60e-6  # longer gains nothing: a reply, the client's return and its next request take 5 to 40 µs here
POLL_LEAST_S = 8e-6  # below that one poll(2) is all there is time for
THINKING_S = 300e-6  # a wait this long cannot be bridged by polling
TURN_S = 0.003  # how long others wait at most; three rounds cost about 50 µs, so under 2% of it
TURN_LEAST_S = 0.0002  # of a first turn after a handler began to wait; see Pace.take_over
TICKS = 3  # rounds until a thread's result has reached the task that waits for it: queue, task, its successor


class Poll(Protocol):
    """``select.poll`` as far as it is used here."""

    def register(self, fd: int, eventmask: int, /) -> None:
        """Watch ``fd``."""

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        """What is ready; non-empty too when the fd was hung up: reading then tells."""


class Pace:
    """How long to poll and when to give way; the one mutable state of the loop, owned by the trio thread."""

    __slots__ = ("_clock", "_fd", "_poll", "_polls", "may_poll", "poll_s", "reader", "turn_began_s", "turn_s", "waits")

    def __init__(self, clock: Callable[[], float] = time.perf_counter, polls: Callable[[], Poll] = select.poll) -> None:
        self._clock = clock
        self._polls = polls
        self._fd = -1
        self._poll = polls()
        self.poll_s = POLL_S
        self.may_poll = False  # not while the result that a handler waits for could come in
        self.reader: trio.lowlevel.Task | None = None  # the task of pyfuse3 that took the last request
        self.turn_s = TURN_S
        self.turn_began_s = clock()
        self.waits = 0  # real ones, for tests and the curious

    def turn_is_over(self) -> bool:
        """Whether others have waited long enough."""
        return self._clock() - self.turn_began_s >= self.turn_s

    def take_over(self, task: trio.lowlevel.Task) -> None:
        """Another task reads now, so the handler of the one before waits for something: give way soon, then, as long
        as no other handler begins to wait, after twice the time, and so on up to TURN_S."""
        self.reader = task
        self.may_poll = False
        self.turn_s = TURN_LEAST_S
        self.turn_began_s = self._clock()

    async def give_way(self) -> None:
        """Let every other task run; a cancellation arrives here."""
        for _ in range(TICKS):
            await trio.lowlevel.checkpoint()
        self.turn_s = min(2 * self.turn_s, TURN_S)
        self.turn_began_s = self._clock()

    def readable(self, fd: int) -> bool:
        """Is there a request now, or within ``poll_s``?"""
        if fd != self._fd:
            self._fd, self._poll = fd, self._polls()
            self._poll.register(fd, select.POLLIN)
        poll = self._poll.poll
        if poll(0):
            return True
        if not (self.may_poll and self.poll_s):
            return False
        clock = self._clock
        stop_s = clock() + self.poll_s
        while clock() < stop_s:
            if poll(0):
                return True
        return False

    async def wait(self, fd: int) -> None:
        """Wait in trio, and learn from how long it took."""
        began_s = self._clock()
        self.waits += 1
        await trio.lowlevel.wait_readable(fd)
        now_s = self._clock()
        if now_s - began_s < THINKING_S:
            self.poll_s = min(POLL_S, max(2 * self.poll_s, POLL_LEAST_S))
        else:
            self.poll_s = self.poll_s / 2 if self.poll_s > POLL_LEAST_S else 0.0
        self.turn_began_s = now_s


class Lock:
    """An unfair lock whose free path is no checkpoint.

    ``__aexit__`` wakes the longest waiter but leaves the lock free: if the task that released it comes back before
    it waits for anything, it takes the lock again and the other goes back to sleep.
    """

    __slots__ = ("_held", "_lot", "_pace")

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._held = False
        self._lot = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        pace = self._pace
        if self._held or pace.reader is not current_task() or pace.turn_is_over():
            await self._acquire()
        else:
            self._held = pace.may_poll = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held = False
        if self._lot:
            self._lot.unpark()

    async def _acquire(self) -> None:
        while self._held:
            await self._lot.park()
        self._held = True
        pace, task = self._pace, current_task()
        if pace.reader is not task:
            pace.take_over(task)
            return
        pace.may_poll = True
        if not pace.turn_is_over():
            return
        # Gives way with the lock held: otherwise the next waiter would begin a turn of its own before the other
        # tasks ran. And before pyfuse3 looks whether the session has ended, so that an end during it is seen.
        passed = False
        try:
            await pace.give_way()
            passed = True
        finally:
            if not passed:
                await self.__aexit__(None, None, None)


class Lowlevel:
    """``trio.lowlevel`` with another ``wait_readable``. With a handshake its first two calls are that."""

    def __init__(self, pace: Pace, handshake: Handshake | None = None) -> None:
        self._pace = pace
        self._handshake = handshake
        self.wait_readable = self._always if handshake is None else self._first

    async def _first(self, fd: int) -> None:
        assert self._handshake is not None
        await self._handshake.begin(fd)
        self.wait_readable = self._second

    async def _second(self, fd: int) -> None:
        assert self._handshake is not None
        self._handshake.end(fd)
        self.wait_readable = self._always
        await self._always(fd)

    async def _always(self, fd: int) -> None:
        if not self._pace.readable(fd):
            await self._pace.wait(fd)

    def __getattr__(self, name: str) -> object:
        return getattr(trio.lowlevel, name)


class Trio:
    """What pyfuse3 takes for ``trio``."""

    def __init__(self, pace: Pace, handshake: Handshake | None = None) -> None:
        self._pace = pace
        self.lowlevel = Lowlevel(pace, handshake)

    def Lock(self) -> Lock:  # trio's name
        return Lock(self._pace)

    def __getattr__(self, name: str) -> object:
        return getattr(trio, name)


def install(*, enabled: bool = True) -> None:
    """Before ``pyfuse3.init``: the mounts that follow use this loop, or with ``enabled=False`` trio's own."""
    pyfuse3.trio = Trio(Pace(), Handshake()) if enabled else trio  # type: ignore[attr-defined]


def uninstall() -> None:
    """Back to trio's own, for mounts that follow."""
    install(enabled=False)
