"""The loop under pyfuse3: it polls only as much as it should, everybody else still runs, and it ends when told."""

import errno
import itertools
import os
import select
import socket
import stat
from collections.abc import Iterator

import pyfuse3
import pytest
import trio
import trio.testing

from megafs.fuse import loop


class FakeClock:
    """Moves by ``step_s`` with every look at it."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s, self.step_s = 100.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


class FakePoll:
    """Ready at the polls that ``answers`` say, and for ever after as ``then`` says."""

    def __init__(self, *answers: bool, then: bool = False) -> None:
        self.answers, self.then, self.polls = list(answers), then, 0

    def register(self, fd: int, eventmask: int) -> None:
        assert eventmask == select.POLLIN

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        assert timeout == 0, "a poll never blocks: that would stop every task"
        self.polls += 1
        ready = self.answers.pop(0) if self.answers else self.then
        return [(0, select.POLLIN)] if ready else []


def paced(poll: FakePoll, step_s: float = 0.0) -> tuple[loop.Pace, FakeClock]:
    clock = FakeClock(step_s)
    pace = loop.Pace(clock, lambda: poll)
    pace.may_poll = True
    return pace, clock


@pytest.fixture
def pipe() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_request_that_is_there_costs_one_poll():
    poll = FakePoll(True)
    pace, _ = paced(poll)
    assert pace.readable(7)
    assert poll.polls == 1


def test_a_request_that_comes_soon_is_polled_for():
    poll = FakePoll(False, False, False, True)
    pace, _ = paced(poll, step_s=5e-6)
    assert pace.readable(7)
    assert poll.polls == 4


def test_polling_is_bounded_in_time():
    poll = FakePoll()
    pace, clock = paced(poll, step_s=5e-6)
    before_s = clock.now_s
    assert not pace.readable(7)
    assert loop.POLL_S <= clock.now_s - before_s < loop.POLL_S + 3 * clock.step_s


async def wait_for(pace: loop.Pace, clock: FakeClock, pipe: tuple[socket.socket, socket.socket], wait_s: float):
    """One request that comes ``wait_s`` after the polling gave up."""
    ours, theirs = pipe
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pace.wait, ours.fileno())
        await trio.testing.wait_all_tasks_blocked()
        clock.now_s += wait_s
        theirs.send(b"x")
    ours.recv(1)


async def test_a_slow_client_is_not_polled_for(pipe):
    poll = FakePoll()
    pace, clock = paced(poll)
    for _ in range(8):
        await wait_for(pace, clock, pipe, wait_s=0.001)
    assert pace.poll_s == 0
    assert not pace.readable(7)
    assert poll.polls == 1


async def test_a_quick_client_is_polled_for_again(pipe):
    pace, clock = paced(FakePoll())
    pace.poll_s = 0.0
    for _ in range(8):
        await wait_for(pace, clock, pipe, wait_s=50e-6)
    assert pace.poll_s == loop.POLL_S


async def test_no_polling_while_a_handler_waits():
    poll = FakePoll()
    pace, _ = paced(poll, step_s=5e-6)
    lock = loop.Lock(pace)
    handler_waits, go_on = trio.Event(), trio.Event()
    polls: list[int] = []

    async def reads_two() -> None:
        for _ in range(2):
            async with lock:
                before = poll.polls
                assert not pace.readable(7)
                polls.append(poll.polls - before)

    async def reads_one_and_waits() -> None:
        async with lock:
            pass
        handler_waits.set()
        await go_on.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reads_one_and_waits)
        await handler_waits.wait()
        await reads_two()
        go_on.set()
    assert polls[0] == 1, "the result that the handler waits for may come in next"
    assert polls[1] > 1


async def test_a_waiting_handler_makes_turns_short_and_then_longer():
    pace, _ = paced(FakePoll())
    pace.take_over(trio.lowlevel.current_task())
    turns = []
    for _ in range(8):
        turns.append(pace.turn_s)
        await pace.give_way()
    assert turns[0] == loop.TURN_LEAST_S
    assert all(later == min(2 * earlier, loop.TURN_S) for earlier, later in itertools.pairwise(turns))
    assert turns[-1] == loop.TURN_S


async def test_taking_a_free_lock_is_no_checkpoint():
    pace, _ = paced(FakePoll())
    lock = loop.Lock(pace)
    with trio.testing.assert_no_checkpoints():
        async with lock:
            pass


async def test_the_lock_excludes_and_wakes():
    pace, _ = paced(FakePoll())
    lock = loop.Lock(pace)
    seen: list[str] = []

    async def taker(name: str) -> None:
        async with lock:
            seen.append(f"{name} in")
            await trio.testing.wait_all_tasks_blocked()
            seen.append(f"{name} out")

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(taker, name)
    assert [entry.split()[1] for entry in seen] == ["in", "out"] * 3


async def test_who_comes_back_at_once_keeps_the_lock():
    pace, _ = paced(FakePoll())
    lock = loop.Lock(pace)
    turns: list[str] = []

    async def other() -> None:
        async with lock:
            turns.append("other")

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(other)
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(5):  # with a fair lock the other one would be next
            async with lock:
                turns.append("reader")
        await trio.lowlevel.checkpoint()  # a handler that waits: now the other one takes over
        turns.append("handler")
    assert turns == ["reader"] * 5 + ["other", "handler"] or turns == ["reader"] * 5 + ["handler", "other"]


async def test_a_cancelled_waiter_loses_no_wake_up():
    pace, _ = paced(FakePoll())
    lock = loop.Lock(pace)
    scope, got_it = trio.CancelScope(), trio.Event()

    async def gives_up() -> None:
        with scope:
            async with lock:
                raise AssertionError("was cancelled before")

    async def patient() -> None:
        async with lock:
            got_it.set()

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(gives_up)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(patient)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        await got_it.wait()


async def session_loop(trio_of_pyfuse3: loop.Trio, lock: loop.Lock, requests: list[int], stop_at: int = 10**9) -> None:
    """What pyfuse3's ``_session_loop`` does around a handler that never waits."""
    while requests[0] < stop_at:
        async with lock:
            await trio_of_pyfuse3.lowlevel.wait_readable(7)
        requests[0] += 1


async def test_others_run_under_endless_load():
    pace, _ = paced(FakePoll(then=True), step_s=10e-6)
    stand_in = loop.Trio(pace)
    requests, steps = [0], [0]

    async def background() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            steps[0] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(background)
        await session_loop(stand_in, stand_in.Lock(), requests, stop_at=30_000)
        nursery.cancel_scope.cancel()
    # The fake clock makes a request 10 µs, so 30,000 are 100 turns of 3 ms with three rounds each.
    assert steps[0] >= 100 * loop.TICKS * 0.9
    assert requests[0] / steps[0] > 50, "and the loop does not give way more often than that"


async def test_without_turns_nobody_else_would_run(monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(loop, "TURN_S", 10**9)
    monkeypatch.setattr(loop, "TURN_LEAST_S", 10**9)
    pace, _ = paced(FakePoll(then=True), step_s=10e-6)
    stand_in = loop.Trio(pace)
    steps = [0]

    async def background() -> None:
        await trio.lowlevel.checkpoint()
        steps[0] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(background)
        await session_loop(stand_in, stand_in.Lock(), [0], stop_at=30_000)
        assert steps[0] == 0


async def test_a_cancellation_arrives_under_endless_load():
    pace, clock = paced(FakePoll(then=True), step_s=10e-6)
    stand_in = loop.Trio(pace)
    lock, requests = stand_in.Lock(), [0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session_loop, stand_in, lock, requests)
        nursery.start_soon(session_loop, stand_in, lock, requests)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert requests[0] < 2 * loop.TURN_S / 10e-6
    pace.turn_began_s = clock()
    with trio.testing.assert_no_checkpoints():  # and the lock was given back
        async with lock:
            pass


async def test_idle_is_idle(autojump_clock, pipe):
    ours, theirs = pipe
    poll = FakePoll()
    pace, _ = paced(poll, step_s=5e-6)
    stand_in = loop.Trio(pace)
    lock, requests = stand_in.Lock(), [0]
    steps = [0]

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            steps[0] += task.name == "idle"

    async def reader() -> None:
        while True:
            async with lock:
                await stand_in.lowlevel.wait_readable(ours.fileno())
            ours.recv(1)
            requests[0] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader, name="idle")
        nursery.start_soon(reader, name="idle")
        await trio.testing.wait_all_tasks_blocked()
        theirs.send(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert requests[0] == 1
        trio.lowlevel.add_instrument(Steps())
        polls = poll.polls
        await trio.sleep(3600)
        assert (poll.polls, steps[0]) == (polls, 0)
        nursery.cancel_scope.cancel()


def test_everything_else_is_trio():
    stand_in = loop.Trio(loop.Pace())
    assert stand_in.open_nursery is trio.open_nursery
    assert stand_in.ClosedResourceError is trio.ClosedResourceError
    for name in ("current_task", "current_trio_token", "notify_closing"):
        assert getattr(stand_in.lowlevel, name) is getattr(trio.lowlevel, name)


def test_it_can_be_switched_off():
    try:
        loop.install()
        assert isinstance(pyfuse3.trio, loop.Trio)
        loop.install(enabled=False)
        assert pyfuse3.trio is trio
        loop.install()
    finally:
        loop.uninstall()
    assert pyfuse3.trio is trio


class OneFile(pyfuse3.Operations):
    """A root and one file in it; getxattr is a request that the kernel never answers itself."""

    async def getattr(self, inode, ctx):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o644
        return entry

    async def lookup(self, parent_inode, name, ctx):
        return await self.getattr(2, ctx)

    async def getxattr(self, inode, name, ctx):
        if name == b"user.waits":
            await trio.sleep(0.02)
        raise pyfuse3.FUSEError(errno.ENODATA)


def ask(path: str, name: str, times: int) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match="No data"):
            os.getxattr(path, name)


@pytest.mark.mounted
@pytest.mark.parametrize("enabled", [True, False], ids=["loop", "stock"])
async def test_a_real_mount_under_load(tmp_path, enabled):
    loop.install(enabled=enabled)
    pyfuse3.init(OneFile(), str(tmp_path), {*pyfuse3.default_options, "fsname=test"})
    steps = [0]

    async def background(task_status=trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                await trio.sleep(0.001)
                steps[0] += 1

    path = str(tmp_path / "file")
    try:
        async with trio.open_nursery() as main:
            main.start_soon(pyfuse3.main)
            ticking = await main.start(background)
            async with trio.open_nursery() as clients:
                for name in ("user.a", "user.b"):
                    clients.start_soon(trio.to_thread.run_sync, ask, path, name, 2000)
                # Handlers that wait let others pass: one after the other these would take 0.4 s.
                with trio.fail_after(5):
                    async with trio.open_nursery() as waiting:
                        for _ in range(10):
                            waiting.start_soon(trio.to_thread.run_sync, ask, path, "user.waits", 2)
            assert steps[0] >= 5
            ticking.cancel()
            pyfuse3.terminate()
    finally:
        pyfuse3.close(unmount=True)
        loop.uninstall()


@pytest.mark.mounted
async def test_a_real_mount_ends_when_told(tmp_path):
    loop.install()
    pyfuse3.init(OneFile(), str(tmp_path), {*pyfuse3.default_options, "fsname=test"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            await trio.to_thread.run_sync(ask, str(tmp_path / "file"), "user.a", 100)
            pyfuse3.terminate()  # main returns by itself, or this test hangs
    finally:
        pyfuse3.close(unmount=True)
        loop.uninstall()
