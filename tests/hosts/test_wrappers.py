"""Retries, limits, measurements and the breaker, on trio's mock clock."""

import os

import pytest
import trio

from megafs.config import PACK_BYTES
from megafs.errors import HostFailing, HostFull, HostRefused, HostUnreachable, ObjectMissing
from megafs.hosts import stacked
from megafs.hosts.measured import FULL_S, Measured
from megafs.hosts.wrappers import Limited, Retrying, Timed, Wrapped
from tests.contracts.host import NAME, OTHER, listed
from tests.support.hosts import CountingHost, DyingHost, Evil, EvilHost, FlakyHost, MemoryHost, SlowHost


class Refusing(Wrapped):
    """Raises what it is told to."""

    error: Exception | None = HostRefused("refusing: no")

    async def around(self, request, work):
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return await work()


async def test_retrying_outlives_a_bad_spell(autojump_clock) -> None:
    memory = MemoryHost()
    counting = CountingHost(FlakyHost(memory, share=0.7, seed=1))
    host = Retrying(counting, patience_s=600)
    data = {name: os.urandom(10) for name in (NAME, OTHER)}
    for name, content in data.items():
        await host.put(name, content)
        assert await host.get(name) == content
        assert await host.head(name) == 10
    assert await listed(host) == {NAME: 10, OTHER: 10}
    assert counting.requests["put"] > 2
    await host.delete(NAME)
    assert set(memory.objects) == {OTHER}


async def test_retrying_gives_up_when_its_patience_ends_and_pauses_grow(autojump_clock) -> None:
    counting = CountingHost(DyingHost(MemoryHost()))
    host = Retrying(counting, patience_s=60, first_s=1, most_s=8, chance=lambda: 0.5)
    with pytest.raises(HostUnreachable):
        await host.put(NAME, b"x")
    assert trio.current_time() == pytest.approx(1 + 2 + 4 + 8 * 6, abs=0.1)
    assert counting.requests["put"] == 10


@pytest.mark.parametrize(("chance", "times"), [(0.0, [0, 0.5, 1.5]), (0.5, [0, 1]), (1.0, [0, 1.5])])
async def test_pauses_are_jittered(autojump_clock, chance, times) -> None:
    attempts = []

    class Noting(DyingHost):
        async def head(self, name):
            attempts.append(trio.current_time())
            return await super().head(name)

    with pytest.raises(HostUnreachable):
        await Retrying(Noting(MemoryHost()), patience_s=2, first_s=1, chance=lambda: chance).head(NAME)
    assert attempts == pytest.approx(times)


async def test_no_patience_is_one_attempt(autojump_clock) -> None:
    counting = CountingHost(DyingHost(MemoryHost()))
    with pytest.raises(HostUnreachable):
        await Retrying(counting, patience_s=0).get(NAME)
    assert counting.requests["get"] == 1
    assert trio.current_time() == 0


@pytest.mark.parametrize("error", [HostRefused("h: no"), HostFull("h: full"), ObjectMissing("h: none")])
async def test_what_will_not_change_is_not_repeated(autojump_clock, error) -> None:
    refusing = Refusing(MemoryHost())
    refusing.error = error
    counting = CountingHost(refusing)
    with pytest.raises(type(error)):
        await Retrying(counting, patience_s=60).put(NAME, b"x")
    assert counting.requests["put"] == 1


async def test_a_list_that_breaks_in_the_middle_goes_on(autojump_clock) -> None:
    memory = MemoryHost()
    names = {NAME[:-1] + letter for letter in "abcdefgh"}
    for name in names:
        await memory.put(name, b"x")
    dying = DyingHost(memory, calls=4)
    host = Retrying(dying, patience_s=60)
    found = []
    async for name, _ in host.list():
        found.append(name)
        if len(found) == 4:
            dying.revive()
    assert sorted(found) == sorted(names)


async def test_a_hanging_host_is_unreachable_after_the_limit(autojump_clock) -> None:
    slow = SlowHost(MemoryHost())
    host = Timed(slow, label="slow", reply_s=10, floor_bytes_s=1000)
    slow.hang = True
    with pytest.raises(HostUnreachable, match="slow: no answer to head within 10 s"):
        await host.head(NAME)
    assert trio.current_time() == pytest.approx(10)
    with pytest.raises(HostUnreachable):
        await host.put(NAME, bytes(5000))
    assert trio.current_time() == pytest.approx(10 + 15)
    with pytest.raises(HostUnreachable):
        await host.get(NAME, 100, 1100)
    assert trio.current_time() == pytest.approx(10 + 15 + 11)
    with pytest.raises(HostUnreachable):
        await listed(host)


async def test_a_slow_drip_ends_but_an_honest_slow_line_does_not(autojump_clock) -> None:
    host = SlowHost(MemoryHost(), bytes_s=128 << 10)
    timed = Timed(host, label="line", reply_s=60)
    await timed.put(NAME, bytes(PACK_BYTES))
    assert trio.current_time() == pytest.approx(128)
    host.bytes_s = 1000.0
    with pytest.raises(HostUnreachable):
        await timed.get(NAME)
    assert trio.current_time() < 128 + 60 + 257


async def test_connections_are_bounded_and_one_is_kept_from_puts(autojump_clock) -> None:
    counting = CountingHost(SlowHost(MemoryHost(), latency_s=1))
    host = Limited(counting, connections=3)
    await host.put(NAME, b"x")
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(host.put, OTHER, b"y")
        await trio.sleep(0.1)
        assert counting.running == 2
        started = trio.current_time()
        assert await host.get(NAME) == b"x"
        assert trio.current_time() - started == pytest.approx(1)
    assert counting.peak == 3
    async with trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(host.get, NAME)
    assert counting.peak == 3


async def test_latency_throughput_and_counts_are_measured(autojump_clock) -> None:
    host = Measured(SlowHost(MemoryHost(), latency_s=0.05, bytes_s=10 << 20), label="m")
    assert (host.latency_s, host.p95_s(), host.healthy) == (0.0, 0.0, True)
    await host.put(NAME, bytes(8 << 20))
    await host.put(OTHER, bytes(100))
    for _ in range(30):
        await host.get(OTHER)
    await host.get(NAME)
    assert host.latency_s == pytest.approx(0.05, rel=0.1)
    assert host.p95_s() == pytest.approx(0.05, rel=0.1)
    assert host.download_bytes_s == pytest.approx(10 << 20, rel=0.1)
    assert host.upload_bytes_s == pytest.approx(10 << 20, rel=0.15)
    assert host.expected_s(10 << 20) == pytest.approx(1.05, rel=0.1)
    statistics = host.statistics()
    assert statistics["requests"] == 33
    assert statistics["sent_bytes"] == (8 << 20) + 100
    assert statistics["received_bytes"] == (8 << 20) + 3000
    assert "failures" not in statistics


async def test_a_read_that_is_given_up_makes_the_host_look_slow(autojump_clock) -> None:
    slow = SlowHost(MemoryHost(), latency_s=0.01)
    host = Measured(slow, label="m")
    await host.put(NAME, b"x")
    for _ in range(20):
        await host.get(NAME, 0, 1)
    assert host.p95_s() == pytest.approx(0.01)
    slow.latency_s = 100
    for _ in range(20):
        with trio.move_on_after(1):
            await host.get(NAME, 0, 1)
    assert host.latency_s > 0.9
    assert host.p95_s() == pytest.approx(1)
    assert host.healthy


async def test_the_breaker_opens_probes_and_closes(autojump_clock) -> None:
    dying = DyingHost(MemoryHost())
    counting = CountingHost(dying)
    host = Measured(counting, label="m", failures=3, probe_s=10, probe_most_s=25, chance=lambda: 0.5)
    for _ in range(3):
        assert host.healthy
        with pytest.raises(HostUnreachable):
            await host.head(NAME)
    assert not host.healthy
    for _ in range(50):
        with pytest.raises(HostUnreachable, match="not asked again yet"):
            await host.head(NAME)
    assert counting.requests["head"] == 3
    for pause_s, asked in ((10, 4), (20, 5), (25, 6), (25, 7)):  # the probe time doubles up to its bound
        await trio.sleep(pause_s - 0.1)
        with pytest.raises(HostUnreachable, match="not asked"):
            await host.head(NAME)
        await trio.sleep(0.1)
        with pytest.raises(HostUnreachable, match="dying"):
            await host.head(NAME)
        assert counting.requests["head"] == asked
    host.ask_now()
    with pytest.raises(HostUnreachable, match="dying"):
        await host.head(NAME)
    assert host.paused_s == 10, "who waits for it does not wait for long"
    dying.revive()
    host.ask_now()
    await host.put(NAME, b"x")
    assert host.healthy
    assert host.statistics()["failures"] == 8


async def test_who_waits_has_it_asked_at_once(autojump_clock) -> None:
    dying = DyingHost(MemoryHost())
    host = Measured(dying, label="m", failures=1, probe_s=100, chance=lambda: 0.5)
    with pytest.raises(HostUnreachable):
        await host.head(NAME)
    dying.revive()
    with pytest.raises(HostUnreachable, match="not asked"):
        await host.put(NAME, b"x")
    host.ask_now()
    await host.put(NAME, b"x")
    assert host.healthy


async def test_the_share_of_failures_is_that_of_the_last_requests() -> None:
    dying = DyingHost(MemoryHost())
    host = Measured(dying, label="m", failures=1000)
    for _ in range(3):
        with pytest.raises(HostUnreachable):
            await host.head(NAME)
    assert 0.05 < host.failing < 0.06, "three of about fifty"
    for _ in range(200):
        with pytest.raises(HostUnreachable):
            await host.head(NAME)
    assert host.failing > 0.95
    dying.revive()
    await host.put(NAME, b"x")
    for _ in range(200):
        await host.head(NAME)
    assert host.failing < 0.02


async def test_one_probe_at_a_time_and_a_cancelled_one_frees_the_way(autojump_clock) -> None:
    slow = SlowHost(MemoryHost())
    dying = DyingHost(slow)
    host = Measured(dying, label="m", failures=1, probe_s=10, chance=lambda: 0.5)
    with pytest.raises(HostUnreachable):
        await host.head(NAME)
    await trio.sleep(10)
    dying.revive()
    slow.hang = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.head, NAME)
        await trio.sleep(1)
        with pytest.raises(HostUnreachable, match="not asked"):
            await host.head(NAME)
        nursery.cancel_scope.cancel()
    slow.hang = False
    await host.put(NAME, b"x")
    assert host.healthy


@pytest.mark.parametrize("error", [HostRefused("h: no"), HostFull("h: full"), ObjectMissing("h: none")])
async def test_an_answer_is_not_a_failure(error) -> None:
    refusing = Refusing(MemoryHost())
    refusing.error = error
    host = Measured(refusing, label="m", failures=2)
    for _ in range(10):
        with pytest.raises(type(error)):
            await host.put(NAME, b"x")
    assert host.healthy
    assert host.refusing is isinstance(error, HostRefused)
    assert host.full is isinstance(error, HostFull)
    assert host.last_error == ("" if isinstance(error, ObjectMissing) else str(error))


async def test_a_full_host_is_full_until_it_takes_as_much_as_it_refused(autojump_clock) -> None:
    host = Measured(MemoryHost(space_bytes=20), label="m")
    await host.put(NAME, bytes(10))
    with pytest.raises(HostFull):
        await host.put(NAME[::-1], bytes(12))
    assert host.full
    await host.put(NAME[::-1], bytes(1))  # a commit still fits where a pack does not
    assert host.full
    await host.delete(NAME)
    await host.put(NAME, bytes(12))
    assert not host.full
    with pytest.raises(HostFull):
        await host.put(NAME[1:], bytes(12))
    assert host.full
    await trio.sleep(FULL_S)  # its owner may have made room, which nobody tells
    assert not host.full


@pytest.mark.parametrize("has_quota", [False, True])
async def test_room_on_a_full_host_is_used_once_it_says_so(has_quota) -> None:
    """But not at the word of one that never knew that it was full."""
    memory = MemoryHost(space_bytes=20)
    host = Measured(memory, label="m")
    await host.put(NAME, bytes(15))
    with pytest.raises(HostFull):
        await host.put(NAME[::-1], bytes(12))
    if not has_quota:
        await host.usage()
        assert host.full
    memory.objects.clear()
    await host.usage()
    assert host.full is has_quota


class Unwilling(MemoryHost):
    """Has an error of its own for what is larger than ``most``; ``deaf``: for everything."""

    most, deaf = 10, False

    async def put(self, name, data):
        if len(data) > self.most:
            raise HostFailing("m: PUT answered with 500")
        await super().put(name, data)

    async def head(self, name):
        if self.deaf:
            raise HostFailing("m: HEAD answered with 500")
        return await super().head(name)


async def test_who_fails_at_what_is_large_only_is_taken_for_full(autojump_clock) -> None:
    unwilling = Unwilling()
    host = Measured(unwilling, label="m")
    for _ in range(2):
        with pytest.raises(HostFailing):
            await host.put(NAME, bytes(100))
        await host.put(OTHER, bytes(5))  # a commit still fits
    assert not host.full
    with pytest.raises(HostFull, match="3 times, though it answers otherwise: taken for full"):
        await host.put(NAME, bytes(100))
    assert host.full
    assert host.answers
    unwilling.most = 1000
    await host.put(NAME, bytes(100))
    assert not host.full
    unwilling.most = 10
    for _ in range(2):
        with pytest.raises(HostFailing):
            await host.put(NAME, bytes(100))
    assert not host.full, "the count began anew"


async def test_who_fails_at_everything_is_not_taken_for_full(autojump_clock) -> None:
    unwilling = Unwilling()
    unwilling.deaf = True
    host = Measured(unwilling, label="m")
    for _ in range(10):
        with pytest.raises(HostUnreachable):
            await host.put(NAME, bytes(100))
    assert not host.full
    assert not host.healthy


async def test_who_refuses_everything_is_told_from_who_refuses_deletes() -> None:
    refusing = Refusing(MemoryHost())
    refusing.error = HostRefused("h: no")
    host = Measured(refusing, label="m", failures=2)
    for _ in range(5):
        with pytest.raises(HostRefused):
            await host.delete(NAME)
    assert not host.refusing
    for _ in range(2):
        with pytest.raises(HostRefused):
            await host.head(NAME)
    assert host.refusing
    refusing.error = None
    await host.put(NAME, b"x")
    assert not host.refusing


async def test_the_stack_waits_for_shipping_and_does_not_for_reading(autojump_clock) -> None:
    slow = SlowHost(MemoryHost())
    dying = DyingHost(slow)
    stack = stacked(dying, label="h", reply_s=5, patience_s=300)
    started = trio.current_time()
    with pytest.raises(HostUnreachable):
        await stack.prompt.get(NAME)
    assert trio.current_time() == started

    async def revive() -> None:
        await trio.sleep(100)
        dying.revive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(revive)
        await stack.patient.put(NAME, b"x")
    assert 100 < trio.current_time() - started < 300
    assert await stack.prompt.get(NAME) == b"x"
    assert stack.measured.healthy
    slow.hang = True
    with pytest.raises(HostUnreachable, match="no answer"):
        await stack.prompt.head(NAME)
    await stack.aclose()


@pytest.mark.parametrize("deed", list(Evil))
async def test_an_evil_host_does_what_it_says(deed) -> None:
    evil = EvilHost(MemoryHost())
    await evil.put(NAME, b"before")
    await evil.put(NAME, b"content")
    await evil.put(OTHER, b"another")
    assert await evil.get(NAME) == b"content"
    assert evil.served_wrongly == 0
    evil.deeds[NAME] = deed
    if deed is Evil.WITHHOLD:
        with pytest.raises(ObjectMissing):
            await evil.get(NAME)
    else:
        answer = await evil.get(NAME)
        assert answer != b"content"
        assert await evil.head(NAME) == len(answer)
    assert evil.served_wrongly > 0
    assert await evil.get(OTHER) == b"another"
    assert ("put", NAME, 7) in evil.transcript


async def test_a_halfway_dying_host_keeps_what_it_denied() -> None:
    memory = MemoryHost()
    dying = DyingHost(memory, calls=0, halfway=True)
    with pytest.raises(HostUnreachable):
        await dying.put(NAME, b"x")
    with pytest.raises(HostUnreachable):
        await dying.put(OTHER, b"x")
    assert set(memory.objects) == {NAME}
