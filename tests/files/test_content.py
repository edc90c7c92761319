"""Content against a bytearray: writes, truncates, flushes, landings and refusals in any order."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from megafs.config import CHUNK_BYTES, SMALL_CHUNK_BYTES
from megafs.errors import Corrupt, DiskError, NoSpace
from megafs.files.namespace import Change
from megafs.index.invariants import faults
from megafs.model import ROOT_INO
from tests.files.rig import Rig, database_at

FILES = 2
OFFSETS = st.sampled_from([0, 1, 4096, 60_000, SMALL_CHUNK_BYTES, 200_000, CHUNK_BYTES, CHUNK_BYTES + 5]) | st.integers(
    0, 300_000
)
LENGTHS = st.sampled_from([1, 100, 4096, SMALL_CHUNK_BYTES, CHUNK_BYTES]) | st.integers(1, 10_000)
WHICH = st.integers(0, FILES - 1)
STEPS = st.one_of(
    st.tuples(st.just("write"), WHICH, OFFSETS, LENGTHS, st.integers(0, 255)),
    st.tuples(st.just("write"), WHICH, OFFSETS, LENGTHS, st.integers(0, 255)),
    st.tuples(st.just("truncate"), WHICH, OFFSETS),
    st.tuples(st.just("flush")),
    st.tuples(st.just("answer"), st.integers(0, 5)),
    st.tuples(st.just("answer"), st.integers(0, 5)),
    st.tuples(st.just("refuse"), st.integers(0, 5)),
    st.tuples(st.just("hold")),
    st.tuples(st.just("release")),
    st.tuples(st.just("forget"), WHICH),
    st.tuples(st.just("pause")),
)


@pytest.fixture(scope="module")
def database():
    with TemporaryDirectory() as folder:
        opened = database_at(Path(folder) / "index.db")
        yield opened
        opened.close()


class Story:
    """One example: the real thing and the model, step by step."""

    def __init__(self, rig: Rig, nursery: trio.Nursery) -> None:
        self.rig, self.nursery = rig, nursery
        self.inos = [rig.file(b"%d" % number) for number in range(FILES)]
        self.model = [bytearray() for _ in range(FILES)]
        self.is_held = False
        self.flushes = 0

    async def write(self, which, start, length, fill):
        data = bytes([fill]) * length
        await self.rig.content.write(self.inos[which], start, data)
        file = self.model[which]
        file.extend(bytes(max(0, start + length - len(file))))
        file[start : start + length] = data

    async def truncate(self, which, size):
        self.rig.names.change(self.inos[which], Change(size=size))
        file = self.model[which]
        del file[size:]
        file.extend(bytes(size - len(file)))

    async def flush(self):
        if self.flushes < 3:
            self.flushes += 1
            self.nursery.start_soon(self._flush)

    async def _flush(self):
        try:
            await self.rig.content.flush()
        except DiskError:
            pass
        finally:
            self.flushes -= 1

    async def answer(self, which, *, refuse=False):
        if self.rig.store.waiting:
            self.rig.store.answer(which, refuse=refuse)

    async def refuse(self, which):
        await self.answer(which, refuse=True)

    async def hold(self):
        if not self.is_held:
            self.is_held = True
            self.rig.content.hold()

    async def release(self):
        if self.is_held:
            self.is_held = False
            await self.rig.content.release()

    async def forget(self, which):
        """Unlinked and forgotten; another file takes its name."""
        names, ino = self.rig.names, self.inos[which]
        names.unlink(ROOT_INO, b"%d" % which)
        names.purge(ino)
        self.inos[which] = self.rig.file(b"%d" % which)
        self.model[which] = bytearray()

    async def pause(self):
        await trio.sleep(2)

    async def compare(self):
        for ino, file in zip(self.inos, self.model, strict=True):
            assert self.rig.names.get(ino).size == len(file)
            assert await self.rig.read(ino) == file

    async def end(self):
        """Everything lands; then the index alone says the same."""
        await self.release()
        while self.rig.content.has_work() or self.flushes or self.rig.store.waiting:
            await self.flush()
            await wait_all_tasks_blocked()
            while self.rig.store.waiting:
                await self.answer(0)
                await wait_all_tasks_blocked()
        await self.compare()
        for ino, file in zip(self.inos, self.model, strict=True):
            assert self.rig.names.row(ino).size == len(file)
        assert self.rig.content.unsealed_bytes == 0
        self.rig.database.rows.write()
        assert not [fault for fault in faults(self.rig.database.connection) if fault.rule != "id-unused"]


async def tell(database, steps):
    rig = Rig(database)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.content.run)
        await wait_all_tasks_blocked()
        story = Story(rig, nursery)
        for name, *arguments in steps:
            await getattr(story, name)(*arguments)
            await wait_all_tasks_blocked()
            await story.compare()
        await story.end()
        nursery.cancel_scope.cancel()


@given(steps=st.lists(STEPS, max_size=25))
@settings(max_examples=150)
def test_files_hold_what_was_written(database, steps):
    try:
        trio.run(tell, database, steps, clock=MockClock(autojump_threshold=0))
    finally:
        database.rollback()


@pytest.fixture
async def rig(tmp_path, nursery):
    database = database_at(tmp_path / "index.db")
    rig = Rig(database)
    nursery.start_soon(rig.content.run)
    await wait_all_tasks_blocked()
    yield rig
    database.close()


async def test_a_flush_fails_if_a_batch_before_it_failed_though_a_later_one_did_not(rig, autojump_clock, nursery):
    """Otherwise the commit behind it would acknowledge what is dirty again."""
    first, second = rig.file(b"1"), rig.file(b"2")
    said = []

    async def flush():
        try:
            await rig.content.flush()
            said.append("stored")
        except DiskError:
            said.append("refused")

    await rig.content.write(first, 0, b"a" * CHUNK_BYTES)
    await wait_all_tasks_blocked()
    await rig.content.write(second, 0, b"b")
    nursery.start_soon(flush)
    await wait_all_tasks_blocked()
    assert len(rig.store.waiting) == 2
    rig.store.answer(0, refuse=True)
    await wait_all_tasks_blocked()
    rig.store.answer(0)
    await wait_all_tasks_blocked()
    assert said == ["refused"]
    assert await rig.read(first) == b"a" * CHUNK_BYTES


async def test_a_flush_does_not_wait_for_what_came_after_it(rig, nursery):
    """Under a steady writer something always flies."""
    ino = rig.file()
    over = trio.Event()

    async def flush():
        await rig.content.flush()
        over.set()

    await rig.content.write(ino, 0, b"before")
    nursery.start_soon(flush)
    await wait_all_tasks_blocked()
    await rig.content.write(ino, CHUNK_BYTES, b"a" * CHUNK_BYTES)
    await wait_all_tasks_blocked()
    assert len(rig.store.waiting) == 2
    rig.store.answer(0)
    with trio.fail_after(1):
        await over.wait()


async def test_writers_wait_for_room_and_are_told_when_the_disk_refuses(tmp_path, nursery, autojump_clock):
    database = database_at(tmp_path / "index.db")
    rig = Rig(database, dirty_bytes=4 * CHUNK_BYTES - 1)
    nursery.start_soon(rig.content.run)
    await wait_all_tasks_blocked()
    ino = rig.file()
    for number in range(4):
        await rig.content.write(ino, number * CHUNK_BYTES, bytes([number + 1]) * CHUNK_BYTES)
    with trio.move_on_after(5) as scope:
        await rig.content.write(ino, 4 * CHUNK_BYTES, b"more")
    assert scope.cancelled_caught, "RAM is full: it waits"
    for _ in range(len(rig.store.waiting)):
        rig.store.answer(0, refuse=True)
    with pytest.raises(DiskError):
        await rig.content.write(ino, 4 * CHUNK_BYTES, b"more")
    assert rig.content.late_error(ino, 0) is not None
    serial, _ = rig.content.late_error(ino, 0)
    assert rig.content.late_error(ino, serial) is None, "each handle is told once"
    assert await rig.read(ino) == b"".join(bytes([n + 1]) * CHUNK_BYTES for n in range(4))
    database.close()


async def test_a_full_cache_refuses_before_a_byte_is_accepted(tmp_path, nursery):
    database = database_at(tmp_path / "index.db")
    rig = Rig(database)

    def full(size):
        raise NoSpace("full")

    rig.content._admit = full
    ino = rig.file()
    with pytest.raises(NoSpace):
        await rig.content.write(ino, 0, b"data")
    assert await rig.read(ino) == b""
    database.close()


async def test_a_read_under_way_survives_that_its_chunk_is_overwritten_and_collected(rig, nursery):
    """What it went for is gone when it arrives: it looks again."""
    ino = rig.file()
    await rig.content.write(ino, 0, b"a" * 1000 + b"b" * 1000)
    nursery.start_soon(rig.content.flush)
    await wait_all_tasks_blocked()
    rig.store.answer(0)
    await wait_all_tasks_blocked()
    arrived, go = trio.Event(), trio.Event()
    store = rig.store
    plain_now, store.now = store.now, lambda place: None

    async def slow(place):
        arrived.set()
        await go.wait()
        if rig.extents.place(place.chunk) is None:
            raise Corrupt("punched")
        return plain_now(place)

    store.chunk = slow
    found = []

    async def read():
        found.append(await rig.read(ino))

    nursery.start_soon(read)
    await arrived.wait()
    old = rig.extents.covering(ino, 0, 1)[0][2]
    await rig.content.write(ino, 0, b"c" * 2000)
    nursery.start_soon(rig.content.flush)
    await wait_all_tasks_blocked()
    rig.store.answer(0)
    await wait_all_tasks_blocked()
    rig.extents.delete_chunk(old)
    go.set()
    await wait_all_tasks_blocked()
    assert found == [b"c" * 2000]
