"""Rates: on the mock clock exactly, and on real servers as counted by a proxy in front of them."""

import os
import secrets

import pytest
import trio

from megafs.errors import HostUnreachable
from megafs.hosts import open_host, stacked
from megafs.hosts.pace import PIECE_LEAST_BYTES, Pace, TokenBucket
from megafs.hosts.wrappers import Limited
from tests.contracts.host import NAME, OTHER
from tests.hosts.test_faults import Way
from tests.support.hosts import MemoryHost, SlowHost
from tests.support.proxy import Proxy

RATE = 400_000
WINDOW_S = 0.5


class Noting(TokenBucket):
    """Remembers when how much passed."""

    def __init__(self, rate_bytes_s):
        super().__init__(rate_bytes_s)
        self.passed = []

    def wait_s(self, count):
        found = super().wait_s(count)
        self.passed.append((trio.current_time() + found, count))
        return found

    def most(self, window_s):
        """The most bytes that passed in any such time."""
        return max(sum(n for at, n in self.passed if start <= at < start + window_s) for start, _ in self.passed)


async def test_a_rate_holds_within_each_body_and_over_all_hosts(autojump_clock) -> None:
    up, down = Noting(100_000), Noting(50_000)
    hosts = [Limited(MemoryHost(), connections=4, up=up, down=down) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(hosts[number % 2].put, NAME[:-1] + "abcdef"[number], bytes(200_000))
    assert trio.current_time() == pytest.approx(12, rel=0.01)
    assert up.most(1.0) <= 1.11 * 100_000, "a second and one piece"
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(hosts[0].get, NAME[:-1] + "ace"[number], 0, 100_000)
            nursery.start_soon(hosts[1].get, NAME[:-1] + "bdf"[number])
    assert 14 <= trio.current_time() - started <= 18, "the last one is not waited for"


async def test_a_small_request_does_not_wait_for_whole_packs(autojump_clock) -> None:
    host = Limited(MemoryHost(), connections=4, up=TokenBucket(100_000))
    async with trio.open_nursery() as nursery:
        for letter in "abc":
            nursery.start_soon(host.put, NAME[:-1] + letter, bytes(5_000_000))
        await trio.sleep(30)
        other = Limited(MemoryHost(), connections=4, up=host._up)
        started = trio.current_time()
        await other.put(OTHER, bytes(500))
        assert trio.current_time() - started < 0.5
        nursery.cancel_scope.cancel()


async def test_a_turn_that_is_given_up_is_given_back(autojump_clock) -> None:
    pace = Pace(TokenBucket(100), TokenBucket(0))
    await pace.sending(1000)
    with trio.move_on_after(1):
        await pace.sending(100_000)
    await pace.sending(1)
    assert trio.current_time() == pytest.approx(10)


async def test_without_a_rate_a_body_is_one_piece_and_nothing_waits(autojump_clock) -> None:
    pace = Pace(TokenBucket(0), TokenBucket(0))
    assert [len(piece) for piece in pace.cut(bytes(1 << 20))] == [1 << 20]
    for _ in range(100):
        await pace.sending(1 << 40)
        await pace.received(1 << 40)
    assert trio.current_time() == 0


def test_pieces_are_a_tenth_of_a_second_within_bounds() -> None:
    assert TokenBucket(1_000_000).piece_bytes == 100_000
    assert TokenBucket(10).piece_bytes == PIECE_LEAST_BYTES
    assert TokenBucket(1e9).piece_bytes == 256 << 10


async def test_waiting_for_our_own_limit_is_no_silence_of_the_host(autojump_clock) -> None:
    slow = SlowHost(MemoryHost())
    stack = stacked(slow, label="h", reply_s=5, patience_s=0, up=TokenBucket(10_000))
    await stack.prompt.put(NAME, bytes(10_000_000))  # 1,000 s, of which 157 would be too long without a limit
    assert trio.current_time() == pytest.approx(1000, rel=0.01)
    assert stack.measured.latency_s < 0.1
    slow.hang = True
    started = trio.current_time()
    with pytest.raises(HostUnreachable, match="no answer"):
        await stack.prompt.put(NAME, bytes(1000))
    assert trio.current_time() - started < 6


async def most_in_any_window(proxy, count, work) -> int:
    """The most bytes, by ``count(proxy)``, that passed in WINDOW_S while ``work`` ran."""
    seen = [(trio.current_time(), count(proxy))]

    async def look() -> None:
        while True:
            await trio.sleep(0.02)
            seen.append((trio.current_time(), count(proxy)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await work()
        seen.append((trio.current_time(), count(proxy)))
        nursery.cancel_scope.cancel()
    return max(later - n for at, n in seen for then, later in seen if 0 <= then - at <= WINDOW_S)


@pytest.mark.parametrize("kind", ["rclone s3", "rclone webdav", "rclone sftp"])
async def test_a_rate_holds_on_a_real_server(kind, server_of) -> None:
    server = server_of(kind)
    async with Proxy.running(server.port) as proxy:
        proxy.buffer_bytes = 32 << 10
        way = Way(server, proxy, secrets.token_hex(4))
        await way.direct.prepare()
        data = os.urandom(1_000_000)
        await limited(way, lambda host: host.put(NAME, data), lambda proxy: proxy.bytes_up)
        await limited(way, lambda host: host.get(NAME, 0, len(data)), lambda proxy: proxy.bytes_down)
        await way.host.aclose()
        await way.direct.aclose()


async def limited(way, work, count) -> None:
    """A megabyte at RATE takes its time and no window has more than its share; without a rate it has."""
    host = Limited(way.host, connections=4, up=TokenBucket(RATE), down=TokenBucket(RATE))
    started = trio.current_time()
    most = await most_in_any_window(way.proxy, count, lambda: work(host))
    took_s = trio.current_time() - started
    assert took_s > 1_000_000 / RATE * 0.9
    assert most <= RATE * WINDOW_S * 1.5 + 150_000, "what sockets and the proxy hold besides"
    started = trio.current_time()
    await work(Limited(way.host, connections=4))
    assert trio.current_time() - started < took_s / 2, "the control"


async def test_a_rate_holds_on_a_folder(tmp_path) -> None:
    up, down = Noting(1_000_000), Noting(1_000_000)
    host = Limited(open_host((tmp_path / "disk").as_uri(), secrets={}), connections=4, up=up, down=down)
    await host.prepare()
    started = trio.current_time()
    await host.put(NAME, bytes(500_000))
    assert await host.get(NAME, 0, 500_000) == bytes(500_000)
    assert trio.current_time() - started > 0.7
    assert max(n for _, n in up.passed + down.passed) <= 100_000
