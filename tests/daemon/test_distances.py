"""What things cost in requests and bytes of hosts, counted; the seconds are printed by contrib/bench/hosts."""

import random

import pytest
import trio

from megafs.config import CHUNK_BYTES, KIB, MIB
from megafs.index.database import Database
from megafs.model import ROOT_INO, Ino, Policy
from tests.security.rig import Rig
from tests.support.hedging import STALL_S, cold_reads, p99

OVER_BYTES = 400  # what sealing adds to a chunk at most


class Counted:
    """Requests and bytes from some point on."""

    def __init__(self, rig):
        self._rig = rig
        self.restart()

    def restart(self):
        self._since = len(self._rig.brain.transcript)
        self._before = self.received

    @property
    def received(self):
        return sum(int(stack.measured.statistics().get("received_bytes", 0)) for stack in self.stacks)

    stacks = ()

    @property
    def gets(self):
        return sum(seen.verb == "get" for seen in self._rig.brain.transcript[self._since :])

    @property
    def requests(self):
        return len(self._rig.brain.transcript) - self._since

    @property
    def bytes(self):
        return self.received - self._before


async def cold(drive, counted):
    """As after a mount with an empty cache."""
    await drive.sync()
    engine = drive.engine
    for number, _, _, _ in engine.packs.locals():
        engine.packs.delete_local(number)
        engine.disk.unlink(number)
    engine.reader.cache.clear()
    counted.stacks = engine.stacks.values()
    counted.restart()


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path, hosts=3, policy=Policy(copies=2))


async def large_file(drive, size, counted):
    ino = await drive.write(b"film", random.Random(5).randbytes(size))
    await cold(drive, counted)
    return Ino(ino)


async def test_the_first_byte_of_a_large_cold_file_is_one_request_for_one_chunk(rig):
    counted = Counted(rig)
    async with rig.running() as drive:
        ino = await large_file(drive, 40 * MIB, counted)
        await drive.engine.content.read(ino, 0, 128 * KIB, 40 * MIB)
        assert (counted.requests, counted.gets) == (1, 1), "one round trip, two more at most for a new connection"
        assert counted.bytes <= CHUNK_BYTES + OVER_BYTES


async def test_a_thumbnail_never_brings_the_film(rig):
    counted = Counted(rig)
    async with rig.running() as drive:
        ino = await large_file(drive, 40 * MIB, counted)
        for start in range(0, 64 * KIB, 16 * KIB):  # the head
            await drive.engine.content.read(ino, start, 16 * KIB, 40 * MIB)
        for start in (40 * MIB - 16 * KIB, 20 * MIB):  # an index at the end, a frame in the middle
            await drive.engine.content.read(ino, start, 16 * KIB, 40 * MIB)
        await quiet(drive)
        assert counted.gets == 3
        assert counted.bytes <= 3 * (CHUNK_BYTES + OVER_BYTES)


async def quiet(drive):
    """Until nothing is read ahead any more."""
    limiter = drive.engine.content._trips
    while limiter.borrowed_tokens or limiter.statistics().tasks_waiting:
        await trio.sleep(0.01)


async def test_reading_on_takes_few_requests_and_nothing_twice(rig):
    counted = Counted(rig)
    async with rig.running() as drive:
        size = 40 * MIB
        ino = await large_file(drive, size, counted)
        wanted = random.Random(5).randbytes(size)
        for start in range(0, size, 128 * KIB):
            assert await drive.engine.content.read(ino, start, 128 * KIB, size) == wanted[start : start + 128 * KIB]
        await quiet(drive)
        assert counted.gets <= size // MIB + 25, "a megabyte each, but for the beginning and ends of packs"
        assert size <= counted.bytes <= 1.01 * size


async def test_wrong_bytes_are_served_from_elsewhere_and_reported_for_repair(rig, caplog):
    counted = Counted(rig)
    async with rig.running() as drive:
        ino = await large_file(drive, 2 * MIB, counted)
        engine, damaged = drive.engine, []
        engine.fetcher.on_damage = lambda pack, host: damaged.append(host)
        (pack,) = engine.packs.all()
        having = {host for host, _, _ in engine.packs.copies(pack.number)}
        liar = next(host for host in engine.fetcher.ranked() if host in having)
        rig.puppets[liar].deed = lambda name, data: None if data is None else bytes(len(data))
        assert await engine.content.read(ino, 0, 2 * MIB, 2 * MIB) == random.Random(5).randbytes(2 * MIB)
        assert set(damaged) == {liar}
        assert engine.fetcher.wrong.keys() == {liar}


async def test_listing_ten_thousand_files_asks_no_host(rig):
    counted = Counted(rig)
    async with rig.running() as drive:
        names = drive.engine.names
        for number in range(10_000):
            names.create(ROOT_INO, b"file %d" % number, 0o100644, 0, 0)
        drive.engine.commits.note_change()
        await cold(drive, counted)
        after, found = 2, 0
        while page := names.page(ROOT_INO, after):
            found, after = found + len(page), page[-1][0]
        assert found == 10_000
        assert counted.requests == 0


async def test_twelve_thousand_small_files_are_few_objects(rig):
    chance = random.Random(9)
    async with rig.running() as drive:
        engine = drive.engine
        for number in range(12_000):
            ino = engine.names.create(ROOT_INO, b"source %d" % number, 0o100644, 0, 0).ino
            await engine.content.write(ino, 0, chance.randbytes(chance.choice((500, 2_000, 4_000, 9_000, 20_000))))
            engine.commits.note_change()
        await drive.sync()
        objects = {puppet.label: len(puppet.memory.objects) for puppet in rig.puppets.values()}
        assert max(objects.values()) <= 40, objects


SMALL = (500, 2_000, 4_000, 9_000, 20_000)


async def small_files(drive, count, counted):
    """Files of the root, in order, and what is in them; cold."""
    engine, chance, files = drive.engine, random.Random(9), []
    for number in range(count):
        ino = engine.names.create(ROOT_INO, b"source %d" % number, 0o100644, 0, 0).ino
        files.append((ino, chance.randbytes(chance.choice(SMALL))))
        await engine.content.write(ino, 0, files[-1][1])
        engine.commits.note_change()
    await cold(drive, counted)
    return files


async def test_small_files_read_in_order_come_many_at_once(rig):
    counted = Counted(rig)
    async with rig.running() as drive:
        files = await small_files(drive, 6_000, counted)
        size = sum(len(data) for _, data in files)
        packs = len(list(drive.engine.packs.all()))
        for ino, data in files:
            assert bytes(await drive.engine.content.read(ino, 0, len(data), len(data))) == data
        assert counted.gets <= 50 * packs, "a few to begin with, then megabytes; and what a busy machine hedges"
        assert counted.bytes <= 1.2 * size, "hardly anything twice"


async def test_single_small_files_bring_little_else(rig):
    counted = Counted(rig)
    async with rig.running() as drive:
        files = await small_files(drive, 3_000, counted)
        for number in (1_500, 100, 2_900, 700):  # here and there: nothing but themselves
            ino, data = files[number]
            assert bytes(await drive.engine.content.read(ino, 0, len(data), len(data))) == data
        assert counted.gets == 4
        assert counted.bytes <= sum(len(files[number][1]) + OVER_BYTES for number in (1_500, 100, 2_900, 700))
        ino, data = files[701]  # and the one behind: as much again at most
        await drive.engine.content.read(ino, 0, len(data), len(data))
        assert counted.gets == 5
        assert counted.bytes <= 60_000 + 5 * OVER_BYTES


async def test_hedging_halves_the_p99_of_cold_reads_with_one_slow_host_of_three(tmp_path, autojump_clock):
    took = {}
    for hedged in (False, True):
        database = Database(tmp_path / f"{hedged}.db", bytes(32), create=True)
        database.adopt(1)
        took[hedged] = p99(await cold_reads(database, hedged=hedged))
        database.close()
    assert took[False] == pytest.approx(STALL_S), "the control feels the slow host"
    assert took[True] <= took[False] / 2
