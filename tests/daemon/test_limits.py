"""The line is one: all hosts of a mount share what the settings allow."""

import trio

from megafs.config import MountOptions, Settings
from megafs.daemon.hosts import Opener
from megafs.daemon.mountoptions import limited
from megafs.model import HostId, HostSpec
from tests.support.hosts import CountingHost, MemoryHost, SlowHost

MEGABYTE = 1_000_000


def stacks(settings, hosts):
    opener = Opener(settings, lambda url: {})
    return [
        opener.stack(HostSpec(id=HostId(bytes([number]) * 16), url="file:///x", label=str(number)), host)
        for number, host in enumerate(hosts)
    ]


async def seconds_for_four_megabytes(settings):
    first, second = stacks(settings, [MemoryHost(), MemoryHost()])
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for name in "ab":
            for stack in (first, second):
                nursery.start_soon(stack.prompt.put, name, bytes(MEGABYTE))
    put_s = trio.current_time() - started
    for stack in (first, second):
        for name in "ab":
            await stack.prompt.get(name, 0, MEGABYTE)
    return put_s, trio.current_time() - started - put_s


async def test_all_hosts_share_the_rates(autojump_clock):
    settings = Settings(upload_bytes_s=MEGABYTE, download_bytes_s=2 * MEGABYTE)
    up_s, down_s = await seconds_for_four_megabytes(settings)
    assert 3 <= up_s <= 4.1
    assert 1.5 <= down_s <= 2.1
    assert await seconds_for_four_megabytes(Settings()) == (0, 0)


async def test_connections_of_one_host(autojump_clock):
    counting = CountingHost(SlowHost(MemoryHost(), latency_s=1))
    (stack,) = stacks(Settings(connections=3), [counting])
    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(stack.prompt.put, "abcdefghi"[number], b"x")
    assert counting.peak == 2, "one is kept free for readers"


def test_a_mount_may_ask_for_other_rates():
    settings = Settings(upload_bytes_s=5, download_bytes_s=7)
    assert limited(settings, MountOptions()) == settings
    assert limited(settings, MountOptions(upload_bytes_s=6)) == Settings(upload_bytes_s=6, download_bytes_s=7)
