"""What MegaFS asks of the index, the disk and the hosts, counted: a regression fails here on any machine, however fast.

A whole vault without a kernel: the handlers are called directly. tests/fuse/test_costs.py counts single requests.
"""

import os
from collections import Counter
from contextlib import contextmanager

import apsw
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from megafs.config import KIB, MIB, ROWS_PER_REQUEST
from megafs.crypto.keys import ident_pack
from megafs.files.landing import PARTS_A_SLICE
from megafs.files.namespace import Change
from megafs.index.database import PAGE_BYTES
from megafs.model import ROOT_INO, ChunkId, HostId, Kind
from megafs.sync.collect import SLICE_ROWS
from megafs.sync.compact import SLICE_ROWS as SLICE_MOVED
from tests.security.rig import WHO, Drive, Rig

FILE_BYTES = 1 << 30
SMALL_FILES = 12_000
SMALL_BYTES = 1_500
OBJECTS_A_HOST = 40
REST_S = 400  # after the last change: packs, hosts and free space are looked at once more within 300 s
IDLE_S = 60
BEATS = ("megafs.sync.scrub.", "megafs.sync.mirror.")  # tasks
BEATS_A_MINUTE = 2
EXTENTS = 50_000  # the more there are, the more slices; no slice is longer
WRITERS = 8
CHUNKS = 3_000
PARTS = 8


class Steps(trio.abc.Instrument):
    """Statements between two switches of tasks, and how often tasks run; those of BEATS apart."""

    def __init__(self) -> None:
        self.statements = self.most = self.all = self.woken = self.beats = 0
        self.ours: trio.lowlevel.Task | None = None
        self._is_beat = False

    def note(self, event: dict[str, object]) -> None:
        sql = str(event["sql"])
        if not sql.startswith("PRAGMA") and "'main'." not in sql:  # the session's own, 2 µs a changed row
            self.statements += 1
            self.all += not self._is_beat

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.statements = 0
        self._is_beat = task.name.startswith(BEATS)
        self.beats += task.name.startswith(BEATS) and task.name.endswith(".run")
        self.woken += task is not self.ours and not self._is_beat

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self.statements)


@contextmanager
def counted(drive: Drive):
    """Statements of the engine's connection while the body runs."""
    steps = Steps()
    steps.ours = trio.lowlevel.current_task()
    drive.engine.database.connection.trace_v2(apsw.SQLITE_TRACE_STMT, steps.note)
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)
        drive.engine.database.connection.trace_v2(0)


def put(rig: Rig, since: int = 0) -> list[tuple[str, int]]:
    """(name, bytes) of what hosts got, behind the first ``since``."""
    return [(seen.name, len(seen.data)) for seen in rig.brain.transcript[since:] if seen.verb == "put"]


async def test_a_small_overwrite_in_a_large_file(tmp_path):
    """4 KiB in 1 GiB: one small pack, no read-modify-write."""
    rig = Rig(tmp_path)
    async with rig.running() as drive:
        ino = await drive.write(b"large", os.urandom(4 * MIB))
        drive.engine.names.change(ino, Change(size=FILE_BYTES))
        await drive.write(b"large", os.urandom(MIB), start=FILE_BYTES - MIB)
        await drive.sync()
        before = len(rig.brain.transcript)
        await drive.write(b"large", os.urandom(4 * KIB), start=2 * MIB)
        await drive.sync()
        (host,) = rig.puppets
        packs = {
            rig.name(host, Kind.PACK, ident_pack(pack.id))
            for number, *_ in drive.engine.packs.locals()
            if (pack := drive.engine.packs.get(number)) is not None
        }
        sent = put(rig, before)
        data = [size for name, size in sent if name in packs]
        rest = [size for name, size in sent if name not in packs]
        assert data, "it was sent"
        assert sum(data) <= 8 * KIB
        assert len(rest) <= 4, "its commit, the commit that says where the pack lies, and their heads"
        assert sum(rest) <= 8 * KIB


async def test_many_small_files_are_few_objects(tmp_path):
    rig = Rig(tmp_path, hosts=2)
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
        assert steps.all < 40 * SMALL_FILES
        for puppet in rig.puppets.values():
            assert 0 < len(puppet.memory.objects) <= OBJECTS_A_HOST


def test_nothing_happens_when_nothing_happens(tmp_path):
    """A minute after minutes of rest, every loop of a mount running: no statement, no sync, no put, no task that runs,
    but the heartbeat: whether hosts still have what they were given."""
    rig, clock = Rig(tmp_path, hosts=2), MockClock(rate=1)
    syncs: Counter[str] = Counter()

    async def rest(seconds: int) -> None:
        for _ in range(seconds):
            clock.jump(1)
            await wait_all_tasks_blocked(0.001)

    async def restless() -> None:
        while True:
            await trio.sleep(IDLE_S / 2)

    async def idle() -> None:
        async with rig.running(everything=True) as drive:
            await drive.write(b"file", os.urandom(MIB))
            await drive.sync()
            await rest(REST_S)
            disk, database = drive.engine.disk, drive.engine.database
            original = disk.sync, database.sync_wal
            disk.sync = lambda number: syncs.update(["pack"]) or original[0](number)
            database.sync_wal = lambda: syncs.update(["wal"]) or original[1]()
            before = len(rig.brain.transcript)
            with counted(drive) as steps:
                await rest(IDLE_S)
            assert (steps.all, steps.woken, dict(syncs)) == (0, 0, {})
            assert steps.beats <= BEATS_A_MINUTE, "of all hosts together"
            assert not put(rig, before)
            async with trio.open_nursery() as nursery:  # the control: what is counted is seen
                nursery.start_soon(restless)
                with counted(drive) as steps:
                    await rest(IDLE_S)
                    woken = steps.woken
                    await drive.write(b"file", os.urandom(MIB))
                    await drive.sync()
                nursery.cancel_scope.cancel()
            assert woken >= 2
            assert steps.all
            assert syncs
            assert put(rig, before)

    trio.run(idle, clock=clock)


async def test_a_million_extents_go_in_slices(tmp_path):
    """However long the list, nobody waits for more than one slice of it: about 10 ms (sync.collect)."""
    rig = Rig(tmp_path)
    async with rig.running() as drive:
        ino = await drive.write(b"file", os.urandom(64 * KIB))
        engine = drive.engine
        (place,) = drive.places(ino)
        database = engine.database
        first = database.new_id()
        database._counter += EXTENTS
        database._session.enabled = False  # rows of this device alone: their log is not what is measured
        database.connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO extent SELECT ? + i, ?, (1 << 20) + i * 4096, (1 << 20) + i * 4096 + 4096, ?, 0 FROM n",
            (EXTENTS, first, ino, ChunkId(place.chunk)),
        )
        engine.names.change(ino, Change(size=FILE_BYTES))
        with counted(drive) as steps:
            engine.names.change(ino, Change(size=64 * KIB))
            assert steps.all <= 2 * ROWS_PER_REQUEST + 10, "the request marks what it cannot do"
        with counted(drive) as steps:
            await engine.keeping.collector.sweep()
        assert steps.most <= 4 * SLICE_ROWS + 20
        assert steps.all > 10 * SLICE_ROWS, "it did go on"


async def test_a_storm_of_writers_leaves_the_loop_its_turns(tmp_path):
    """Of eight writers at once: no task keeps the loop for more statements than a batch that lands needs."""
    rig = Rig(tmp_path)
    async with rig.running() as drive:
        data = os.urandom(4 * KIB)

        async def writer(number: int) -> None:
            opened, _ = await drive.operations.create(ROOT_INO, b"w%d" % number, 0o100644, os.O_RDWR, WHO)
            for step in range(200):
                await drive.operations.write(opened.fh, step * 8 * KIB, data)
                await trio.lowlevel.checkpoint()

        with counted(drive) as steps:
            async with trio.open_nursery() as nursery:
                for number in range(WRITERS):
                    nursery.start_soon(writer, number)
            await drive.engine.commits.durable_now()
        assert steps.all > WRITERS * 200
        assert steps.most <= 4 * PARTS_A_SLICE + 20


async def test_a_pack_of_many_chunks_is_emptied_in_slices(tmp_path):
    """What is left of it moves while others have their turns."""
    rig = Rig(tmp_path)
    async with rig.running() as drive:
        names, data = drive.engine.names, os.urandom(2 * KIB)
        for number in range(CHUNKS):
            row = names.create(ROOT_INO, b"%d" % number, 0o100644, 0, 0)
            await drive.engine.content.write(row.ino, 0, data)
        await drive.sync()
        for number in range(CHUNKS * 2 // 3):
            names.unlink(ROOT_INO, b"%d" % number)
        for ino in list(names.unlinked):
            names.purge(ino)
        await drive.engine.keeping.collector.sweep()
        with counted(drive) as steps:
            assert await drive.engine.keeping.compactor.run_once() == CHUNKS - CHUNKS * 2 // 3
        assert steps.all > CHUNKS / 3
        assert steps.most <= 4 * SLICE_MOVED + 20


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
