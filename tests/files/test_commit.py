"""The order of a commit: bytes, then the index; and who waits for whom."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from megafs.config import CHANGED_ROWS_PER_COMMIT
from megafs.errors import DiskError
from megafs.files.commit import LOOK_EVERY, Committer
from tests.files.rig import Rig, database_at


class Watched:
    """The database's two steps, noted in the store's list beside its syncs."""

    def __init__(self, database, steps) -> None:
        self._database, self._steps = database, steps
        self.commit_now, self.sync_now = database.commit, database.sync_wal
        self.broken = 0

    def commit(self, newest_pack):
        self._steps.append("commit")
        return self.commit_now(newest_pack)

    def sync_wal(self):
        self._steps.append("wal")
        if self.broken:
            self.broken -= 1
            raise DiskError("the WAL cannot be synced")
        self.sync_now()

    def __getattr__(self, name):
        return getattr(self._database, name)


@pytest.fixture
async def rig(tmp_path, nursery):
    database = database_at(tmp_path / "index.db")
    rig = Rig(database)
    rig.watched = Watched(database, rig.store.steps)
    rig.commits = Committer(rig.watched, rig.content, rig.store, interval_s=1.0, newest_pack=rig.store.number)
    nursery.start_soon(rig.content.run)
    nursery.start_soon(rig.commits.run)
    await wait_all_tasks_blocked()
    yield rig
    await trio.to_thread.run_sync(lambda: None)
    database.close()


async def test_bytes_are_synced_before_the_index_names_them(rig):
    rig.store.is_prompt = True
    ino = rig.file()
    await rig.content.write(ino, 0, b"data")
    await rig.commits.durable_now()
    assert rig.store.steps == ["sync", "sync", "commit", "wal"]
    assert rig.store.synced == 4
    assert rig.inodes.get(ino).size == 4
    assert rig.commits.durable == 2


async def test_landings_wait_between_the_last_sync_and_the_commit(rig, nursery):
    """They are not synced yet; the commit must not name them."""
    ino = rig.file()
    rig.commits.note_change()
    gate = trio.Event()
    seen = []

    async def commit_slowly():
        await rig.commits.durable_now()
        seen.append(rig.database.connection.execute("SELECT count(*) FROM extent").get)

    real_sync = rig.store.sync

    async def sync():
        if rig.store.steps == ["sync"]:  # the second of this commit: landings are held
            rig.store.sync_waits = gate
        await real_sync()

    rig.store.sync = sync
    in_commit = []
    commit_now = rig.watched.commit_now

    def commit(newest_pack):
        in_commit.append(rig.database.connection.execute("SELECT count(*) FROM extent").get)
        return commit_now(newest_pack)

    rig.watched.commit_now = commit
    nursery.start_soon(commit_slowly)
    await wait_all_tasks_blocked(0.01)
    assert rig.store.steps == ["sync", "sync"]
    await rig.content.write(ino, 0, b"late" * 65_536)
    await wait_all_tasks_blocked(0.01)
    rig.store.answer(0)
    await wait_all_tasks_blocked(0.01)
    assert rig.extents.covering(ino, 0, 10) == [], "held"
    assert await rig.read(ino) == b"late" * 65_536, "and readable all the same"
    gate.set()
    while not seen:
        await trio.sleep(0.001)
    assert in_commit == [0]
    assert rig.extents.covering(ino, 0, 10) != [], "landed behind the commit"


async def test_destructive_requests_wait_for_the_commit_under_way(rig, nursery):
    rig.file()
    assert rig.commits.destructive() is None
    gate = rig.store.sync_waits = trio.Event()
    nursery.start_soon(rig.commits.durable_now)
    await wait_all_tasks_blocked(0.01)
    assert rig.commits.destructive() is None, "the first sync disturbs nobody"
    gate.set()
    gate2 = rig.store.sync_waits = trio.Event()
    await wait_all_tasks_blocked(0.01)
    passing = rig.commits.destructive()
    assert passing is not None
    gate2.set()
    with trio.fail_after(5):
        await passing.wait()
    assert rig.commits.destructive() is None


async def test_fsyncs_share_commits(rig):
    """Forty who ask at once wait for two commits at most: the one under way, and the next."""
    rig.store.is_prompt = True
    files = [rig.file(b"%d" % number) for number in range(40)]
    before = rig.database.commits

    async def write_and_sync(ino):
        await rig.content.write(ino, 0, b"data")
        await rig.commits.durable_now()
        assert rig.inodes.get(ino).size == 4

    async with trio.open_nursery() as inner:
        for ino in files:
            inner.start_soon(write_and_sync, ino)
    assert rig.database.commits - before <= 2


async def test_an_fsync_during_a_commit_waits_for_the_next(rig, nursery):
    rig.store.is_prompt = True
    ino = rig.file()
    gate = rig.store.sync_waits = trio.Event()
    nursery.start_soon(rig.commits.durable_now)
    await wait_all_tasks_blocked(0.01)
    await rig.content.write(ino, 0, b"after the first sync began")
    done = trio.Event()

    async def second():
        await rig.commits.durable_now()
        done.set()

    nursery.start_soon(second)
    await wait_all_tasks_blocked(0.01)
    gate.set()
    with trio.fail_after(5):
        await done.wait()
    assert rig.store.steps.count("commit") == 2


async def test_a_change_is_committed_after_the_interval_and_nothing_after_that(rig, autojump_clock):
    before = rig.database.commits
    rig.file()
    rig.commits.note_change()
    await trio.sleep(0.9)
    assert rig.database.commits == before
    await trio.sleep(0.3)
    await trio.to_thread.run_sync(lambda: None)
    for _ in range(100):
        await trio.sleep(1)
    assert rig.database.commits == before + 1, "idle, it does not wake up"


async def test_many_changed_rows_are_committed_at_once(rig, autojump_clock):
    before = rig.database.commits
    rig.commits.note_change()
    for number in range(CHANGED_ROWS_PER_COMMIT + LOOK_EVERY):
        rig.inodes.insert(0o100644, 0, 0, 0, number, 0, None)
        rig.commits.note_change()
    await trio.sleep(0.1)
    assert rig.database.commits == before + 1


async def test_a_commit_that_fails_is_told_to_who_waits_and_tried_again(rig, autojump_clock):
    rig.store.is_prompt = True
    ino = rig.file()
    rig.watched.broken = 1
    await rig.content.write(ino, 0, b"data")
    with pytest.raises(DiskError):
        await rig.commits.durable_now()
    assert rig.commits.durable == 0
    await rig.commits.durable_now()
    assert rig.commits.durable > 0
    assert rig.commits.failing is None
