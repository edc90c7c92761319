"""Real servers behind a proxy with faults: an answer is whole and right in length, or it is an error; never a hang."""

import os
import secrets

import pytest
import trio

from megafs.errors import HostUnreachable, ObjectMissing
from megafs.hosts import open_host, sftp, stacked
from megafs.hosts.wrappers import Timed
from tests.contracts.host import NAME, OTHER
from tests.support.proxy import Proxy

SERVERS = ["rclone s3", "rclone webdav", "rclone sftp"]
DATA = os.urandom(1 << 20)


class Way:
    """A host directly and the same one through the proxy."""

    def __init__(self, server, proxy: Proxy, folder: str) -> None:
        self.proxy = proxy
        known = f"[127.0.0.1]:{server.port}"
        url = server.place_through(folder, proxy.port)
        self.is_ssh = server.url.startswith("sftp")
        if self.is_ssh:
            path = server.root.parent / "known_hosts"
            line = path.read_text().splitlines()[0]
            (server.root.parent / f"known-{proxy.port}").write_text(line.replace(known, f"[127.0.0.1]:{proxy.port}"))
            url = url.replace("known_hosts=" + str(path), f"known_hosts={server.root.parent}/known-{proxy.port}")
        self.direct = open_host(server.place(folder), secrets=server.secrets, label="direct")
        self.host = open_host(url, secrets=server.secrets, label="far")


@pytest.fixture(params=SERVERS)
async def way(request, server_of):
    server = server_of(request.param)
    async with Proxy.running(server.port) as proxy:
        way = Way(server, proxy, secrets.token_hex(4))
        await way.direct.prepare()
        yield way
        await way.host.aclose()
        await way.direct.aclose()


async def test_without_faults_all_is_well(way) -> None:
    await way.host.put(NAME, DATA)
    assert await way.host.get(NAME) == DATA
    assert way.proxy.bytes_up > len(DATA)
    assert way.proxy.bytes_down > len(DATA)


@pytest.mark.parametrize("after", [100, 20_000, 700_000])
async def test_an_answer_that_is_cut_off_is_never_taken_for_a_short_one(way, after) -> None:
    await way.direct.put(NAME, DATA)
    way.proxy.faults.cut_down_after = after
    for start, stop in ((0, None), (0, len(DATA)), (1, len(DATA) - 1), (0, len(DATA) + 100)):
        with pytest.raises(HostUnreachable):
            await way.host.get(NAME, start, stop)
    way.proxy.faults.cut_down_after = None
    assert await way.host.get(NAME) == DATA


@pytest.mark.parametrize("after", [10, 2_000, 500_000])
async def test_a_put_that_is_cut_off_leaves_the_whole_object_or_none(way, after) -> None:
    way.proxy.faults.cut_up_after = after
    with pytest.raises(HostUnreachable):
        await way.host.put(NAME, DATA)
    with pytest.raises(ObjectMissing):
        await way.direct.get(NAME)
    way.proxy.faults.cut_up_after = None
    await way.host.put(NAME, DATA)
    assert await way.direct.get(NAME) == DATA
    assert {name: size async for name, size in way.direct.list()} == {NAME: len(DATA)}


async def test_a_reset_is_unreachable_and_passes(way) -> None:
    await way.host.put(NAME, DATA)
    way.proxy.faults.reset = True
    for request in (way.host.get(NAME), way.host.put(OTHER, b"x"), way.host.head(NAME), way.host.delete(OTHER)):
        with pytest.raises(HostUnreachable):
            await request
    way.proxy.faults.reset = False
    assert await way.host.get(NAME, 5, 10) == DATA[5:10]


async def test_a_black_hole_ends_within_the_limit_and_passes(way, monkeypatch) -> None:
    monkeypatch.setattr(sftp, "ALIVE_S", 0.1)  # else the old connection is given up after half a minute only
    host = Timed(way.host, label="far", reply_s=0.4)
    await host.put(NAME, DATA)
    way.proxy.faults.blackhole = True
    for request in (lambda: host.get(NAME, 0, 10), lambda: host.put(OTHER, b"x"), lambda: host.head(NAME)):
        started = trio.current_time()
        with pytest.raises(HostUnreachable):
            await request()
        assert trio.current_time() - started < 2
    way.proxy.faults.blackhole = False
    with trio.fail_after(10):
        while True:
            try:
                assert await host.get(NAME, 5, 10) == DATA[5:10]
                break
            except HostUnreachable:
                continue


async def test_distance_is_measured_and_survived(way) -> None:
    way.proxy.faults.delay_s = 0.02
    stack = stacked(way.host, label="far", reply_s=10, patience_s=10)
    await stack.patient.put(NAME, DATA)
    for _ in range(3):
        assert await stack.prompt.get(NAME, 0, 1000) == DATA[:1000]
    assert stack.measured.latency_s >= 0.04


async def test_patience_outlives_a_server_that_cuts_for_a_while(way) -> None:
    stack = stacked(way.host, label="far", reply_s=10, patience_s=30)
    way.proxy.faults.cut_up_after = 300_000

    async def heal() -> None:
        await trio.sleep(0.5)
        way.proxy.faults.cut_up_after = None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heal)
        await stack.patient.put(NAME, DATA)
    assert await way.direct.get(NAME) == DATA
    assert stack.measured.statistics()["failures"] >= 1


async def test_wrong_bytes_are_seen_by_ssh_and_by_nobody_else(way) -> None:
    """The control of the tests above: the proxy does change bytes, and HTTP without TLS does not notice."""
    await way.direct.put(NAME, DATA)
    assert await way.host.head(NAME) == len(DATA)
    way.proxy.faults.corrupt_down_at = 600_000
    if way.is_ssh:
        with pytest.raises(HostUnreachable):
            await way.host.get(NAME)
    else:
        answer = await way.host.get(NAME)
        assert answer != DATA
        assert len(answer) == len(DATA)
