"""Who asks waits for no long step: statements and CPU time of each turn that a task has, whatever there is to do."""

import os

import pytest
import trio

from megafs.config import KIB, MIB, ROWS_PER_REQUEST
from megafs.files import landing
from megafs.files.namespace import Change
from megafs.model import ROOT_INO, ChunkId
from megafs.sync import collect, compact
from tests.daemon.counting import Steps, counted
from tests.security.rig import WHO, Drive, Rig

EXTENTS = 50_000  # the more there are, the more slices; no slice is longer
MANY_EXTENTS = 1_000_000
ANSWER_MS = 50
MOST_REAPED = 4 * collect.SLICE_ROWS + 20
MOST_LANDED = 4 * landing.PARTS_A_SLICE + 20
MOST_MOVED = 4 * compact.SLICE_ROWS + 20
WRITERS = 8
WRITES = 200
CHUNKS = 3_000


def scatter(drive: Drive, ino: int, extents: int) -> None:
    """Pages of one chunk behind the first MiB; of this device alone, as making their log is not what is measured."""
    (place,) = drive.places(ino)
    database = drive.engine.database
    first = database.new_id()
    database._counter += extents
    database._session.enabled = False
    database.connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO extent SELECT ? + i, ?, (1 << 20) + i * 4096, (1 << 20) + i * 4096 + 4096, ?, 0 FROM n",
        (extents, first, ino, ChunkId(place.chunk)),
    )
    database._session.enabled = True
    drive.engine.names.change(ino, Change(size=MIB + (extents + 1) * 4 * KIB))


async def deletion(folder, extents: int) -> Steps:
    """A file of many extents becomes short, its deletion is logged, and all of it commits."""
    rig = Rig(folder)
    async with rig.running() as drive:
        engine = drive.engine
        ino = await drive.write(b"file", os.urandom(64 * KIB))
        scatter(drive, ino, extents)
        await engine.commits.durable_now()
        with counted(drive) as steps:
            engine.names.change(ino, Change(size=64 * KIB))
            assert steps.all <= 2 * ROWS_PER_REQUEST + 10, "the request marks what it cannot do"
        with counted(drive) as steps:
            await engine.keeping.collector.sweep()
            while engine.keeping.collector._left:
                await engine.commits.durable_now()
                await engine.keeping.collector.sweep()
            await engine.commits.durable_now()
        assert engine.database.connection.execute("SELECT count(*) FROM extent").get == 1
        assert steps.all > 2 * extents, "each of them went"
        return steps


async def storm(folder) -> Steps:
    """Eight writers at once, each in a file of its own."""
    rig = Rig(folder)
    async with rig.running() as drive:
        data = os.urandom(4 * KIB)

        async def writer(number: int) -> None:
            opened, _ = await drive.operations.create(ROOT_INO, b"w%d" % number, 0o100644, os.O_RDWR, WHO)
            for step in range(WRITES):
                await drive.operations.write(opened.fh, step * 8 * KIB, data)
                await trio.lowlevel.checkpoint()

        with counted(drive) as steps:
            async with trio.open_nursery() as nursery:
                for number in range(WRITERS):
                    nursery.start_soon(writer, number)
            await drive.engine.commits.durable_now()
        assert steps.all > WRITERS * WRITES
        return steps


@pytest.mark.parametrize("extents", [EXTENTS, pytest.param(MANY_EXTENTS, marks=pytest.mark.soak)])
async def test_extents_go_in_slices(tmp_path, extents):
    """However long the list, nobody waits for more than one slice of it, or for the commit of a sweep."""
    steps = await deletion(tmp_path, extents)
    assert steps.most <= MOST_REAPED
    assert steps.within_ms() < ANSWER_MS


async def test_extents_that_go_at_once_are_seen(tmp_path, monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(collect, "SLICE_ROWS", 10**9)
    steps = await deletion(tmp_path, EXTENTS)
    assert steps.most > 2 * EXTENTS
    assert steps.within_ms() > ANSWER_MS


async def test_a_storm_of_writers_leaves_the_loop_its_turns(tmp_path):
    """No task keeps the loop for more statements than a batch that lands needs."""
    steps = await storm(tmp_path)
    assert steps.most <= MOST_LANDED
    assert steps.within_ms() < ANSWER_MS


async def test_a_storm_that_lands_at_once_is_seen(tmp_path, monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(landing, "PARTS_A_SLICE", 10**9)
    assert (await storm(tmp_path)).most > WRITERS * WRITES


async def moving(folder) -> Steps:
    """A pack that lost most of its chunks is emptied."""
    rig = Rig(folder)
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
        return steps


async def test_a_pack_of_many_chunks_is_emptied_in_slices(tmp_path):
    """What is left of it moves while others have their turns."""
    assert (await moving(tmp_path)).most <= MOST_MOVED


async def test_a_pack_that_is_emptied_at_once_is_seen(tmp_path, monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(compact, "SLICE_ROWS", 10**9)
    assert (await moving(tmp_path)).most > MOST_MOVED
