"""What MegaFS asks of the index, the disk and the hosts, counted: a regression fails here on any machine, however fast.

A whole vault without a kernel: the handlers are called directly. tests/fuse/test_costs.py counts single requests,
test_answers.py what one turn of a task may cost.
"""

import os

import apsw
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from megafs.config import KIB, MIB
from megafs.crypto.keys import ident_pack
from megafs.files.namespace import Change
from megafs.index.database import PAGE_BYTES
from megafs.model import ROOT_INO, HostId, Kind
from megafs.packs import format
from tests.daemon.counting import BEATS, Steps, counted, put, synced
from tests.security.rig import Drive, Rig

FILE_BYTES = 1 << 30
OVERWRITE_BYTES = 8 * KIB
SMALL_FILES = 12_000
SMALL_BYTES = 1_500
OBJECTS_A_HOST = 40
SEEN_TO_S = 125  # after the last change: the claim, the hosts and the packs were looked at, the last loop is at rest
ROOM_S = 300  # how often room is asked for
MARGIN_S = 15
IDLE_S = 60
BEATS_A_MINUTE = 2
PARTS = 8


def packs_put(rig: Rig, drive: Drive, since: int) -> tuple[list[int], list[int]]:
    """Sizes of the packs that went to the only host, and of what else did."""
    (host,) = rig.puppets
    packs = {
        rig.name(host, Kind.PACK, ident_pack(pack.id))
        for number, *_ in drive.engine.packs.locals()
        if (pack := drive.engine.packs.get(number)) is not None
    }
    sent = put(rig, since)
    return [size for name, size in sent if name in packs], [size for name, size in sent if name not in packs]


async def test_a_small_overwrite_in_a_large_file(tmp_path):
    """4 KiB in 1 GiB: one small pack, no read-modify-write. The control: what lies around it is put together anew."""
    rig = Rig(tmp_path)
    async with rig.running() as drive:
        engine = drive.engine
        ino = await drive.write(b"large", os.urandom(4 * MIB))
        engine.names.change(ino, Change(size=FILE_BYTES))
        await drive.write(b"large", os.urandom(MIB), start=FILE_BYTES - MIB)
        await drive.sync()
        before = len(rig.brain.transcript)
        await drive.write(b"large", os.urandom(4 * KIB), start=2 * MIB)
        await drive.sync()
        data, rest = packs_put(rig, drive, before)
        assert len(data) == 1
        assert sum(data) <= OVERWRITE_BYTES
        assert len(rest) <= 4, "its commit, the commit that says where the pack lies, and their heads"
        assert sum(rest) <= OVERWRITE_BYTES
        before = len(rig.brain.transcript)
        await engine.content.settle(ino, 2 * MIB, 2 * MIB + 256 * KIB)
        await engine.commits.durable_now()
        await drive.sync()
        assert sum(packs_put(rig, drive, before)[0]) > 256 * KIB


async def small_files(rig: Rig) -> Steps:
    """12,000 of them are made and shipped; what was counted while they were shipped."""
    async with rig.running() as drive:
        engine = drive.engine
        body = os.urandom(SMALL_BYTES)
        for number in range(SMALL_FILES):
            row = engine.names.create(ROOT_INO, b"%d" % number, 0o100644, 0, 0)
            await engine.content.write(row.ino, 0, body)
            engine.commits.note_change()
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
        with counted(drive) as steps:
            await drive.sync()
        return steps


async def test_many_small_files_are_few_objects(tmp_path):
    rig = Rig(tmp_path, hosts=2)
    steps = await small_files(rig)
    assert steps.all < 4 * SMALL_FILES
    for puppet in rig.puppets.values():
        assert 0 < len(puppet.memory.objects) <= OBJECTS_A_HOST


async def test_small_files_in_small_packs_are_seen(tmp_path, monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(format, "PACK_BYTES", 256 * KIB)
    rig = Rig(tmp_path)
    await small_files(rig)
    assert len(rig.evil.memory.objects) > OBJECTS_A_HOST


def test_nothing_happens_when_nothing_happens(tmp_path, monkeypatch):
    """Two minutes after the last change every loop of a mount that runs has seen to it. From then on: no statement, no
    sync, no put, no task that runs, but the heartbeat (whether hosts still have what they were given), and, every five
    minutes, a look at how much room there is."""
    rig, clock = Rig(tmp_path, hosts=2), MockClock(rate=1)

    async def rest(seconds: int) -> None:
        for _ in range(seconds):
            clock.jump(1)
            await wait_all_tasks_blocked(0.001)

    async def still(drive: Drive, seconds: int) -> None:
        before = len(rig.brain.transcript)
        with counted(drive) as steps, synced(monkeypatch) as syncs:
            await rest(seconds)
        assert (steps.all, steps.aside, steps.woken, dict(syncs), put(rig, before)) == (0, 0, 0, {}, [])
        assert steps.beats <= BEATS_A_MINUTE * seconds / 60, "of all hosts together"

    async def restless() -> None:
        async def twitch() -> None:
            while True:
                await trio.sleep(IDLE_S / 2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(twitch)

    def look_aside(drive: Drive) -> None:
        with drive.engine.database.snapshot() as connection:
            connection.execute("SELECT count(*) FROM inode").fetchall()

    async def idle() -> None:
        async with rig.running(everything=True) as drive:
            await drive.write(b"file", os.urandom(MIB))
            await drive.sync()
            await rest(SEEN_TO_S)
            await still(drive, ROOM_S - SEEN_TO_S - MARGIN_S)
            with counted(drive) as steps:
                await rest(2 * MARGIN_S)
            assert 0 < steps.all < 10, "the look at the room"
            await still(drive, IDLE_S)
            await control(drive)

    async def control(drive: Drive) -> None:
        """What is counted is seen, and what a heartbeat starts is part of it."""
        before = len(rig.brain.transcript)
        for name, times in ((None, (2, 3)), (f"{BEATS[0]}Scrubber.run", (0,))):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(restless, name=name)
                with counted(drive) as steps:
                    await rest(IDLE_S)
                nursery.cancel_scope.cancel()
            assert steps.woken in times, name
        with counted(drive) as steps, synced(monkeypatch) as syncs:
            await drive.write(b"file", os.urandom(MIB))
            await drive.sync()
            await trio.to_thread.run_sync(look_aside, drive)
        assert steps.all
        assert steps.aside
        assert syncs["fdatasync"]
        assert put(rig, before)

    trio.run(idle, clock=clock)


async def test_what_is_sent_next_is_found_without_reading_what_waits(tmp_path):
    """Parts of a checkpoint wait by the hundred: the lane asks for the oldest upload, and is given that one's body."""
    rig = Rig(tmp_path)
    async with rig.running() as drive:
        ledger, connection = drive.engine.ledger, drive.engine.database.connection
        for number in range(PARTS):
            last = ledger.add_upload(Kind.PART, b"%d" % number, bytes(MIB))
        drive.engine.database.commit(0)
        connection.execute("PRAGMA shrink_memory")
        before = connection.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]
        assert ledger.next_upload(HostId(bytes(16)), last).ident == b"0"
        missed = connection.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0] - before
        assert MIB <= missed * PAGE_BYTES < 2 * MIB, "one of them, and what leads there"
