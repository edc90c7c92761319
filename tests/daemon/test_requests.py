"""What one request costs: syncs and bytes on this disk, objects and bytes on hosts, statements where content is read.

tests/fuse/test_costs.py counts the statements of those that need no content.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import apsw
import pyfuse3
import pytest
import trio
from trio.testing import assert_no_checkpoints

from megafs.config import KIB
from megafs.daemon.run import ROOM_S, Session
from megafs.model import ROOT_INO
from tests.daemon.counting import put, synced
from tests.security.rig import MODE, WHO, Drive, Rig

FSYNC_BYTES = 64 * KIB  # of 4 KiB: itself, and ten pages of the WAL
COMMIT_BYTES = 8 * KIB
TOGETHER = 8
CHMOD = SimpleNamespace(
    update_size=False,
    update_mode=True,
    update_uid=False,
    update_gid=False,
    update_atime=False,
    update_mtime=False,
    update_ctime=True,
)


def written_bytes() -> int:
    """What this process has given to write(2) and the like so far; SQLite's writes are in it."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar: ")).split()[1])


class Disk:
    """What asking for durability costs: fdatasyncs, and bytes written."""

    def __init__(self, drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
        self._operations, self._monkeypatch = drive.operations, monkeypatch

    async def create(self, name: bytes) -> int:
        opened, _ = await self._operations.create(ROOT_INO, name, MODE, os.O_RDWR, WHO)
        return int(opened.fh)

    async def fsync(self, *handles: int) -> tuple[int, int]:
        """Of several at the same time."""
        before = written_bytes()
        with synced(self._monkeypatch) as syncs:
            async with trio.open_nursery() as nursery:
                for handle in handles:
                    nursery.start_soon(self._operations.fsync, handle, False)
        assert not syncs["fsync"], "of a directory: only for a new pack"
        return syncs["fdatasync"], written_bytes() - before


async def test_fsync(tmp_path, monkeypatch):
    """The WAL, and before it the pack if there is content. The controls: more content, and one after the other."""
    rig = Rig(tmp_path)
    async with rig.running() as drive:
        await drive.write(b"before", os.urandom(4 * KIB))
        disk, write = Disk(drive, monkeypatch), drive.operations.write
        handle = await disk.create(b"file")
        syncs, written = await disk.fsync(handle)
        assert syncs == 1
        assert written <= FSYNC_BYTES + 16 * KIB, "the first pages of tables"
        for page in (0, 1, 2, 0):
            await write(handle, page * 4 * KIB, os.urandom(4 * KIB))
            syncs, written = await disk.fsync(handle)
            assert syncs == 2
            assert 4 * KIB < written <= FSYNC_BYTES
        await write(handle, 0, os.urandom(2 * FSYNC_BYTES))
        syncs, written = await disk.fsync(handle)
        assert syncs == 2
        assert written > 2 * FSYNC_BYTES


async def test_many_who_want_their_files_durable_share_the_syncs(tmp_path, monkeypatch):
    """One commit may be under way when they ask, the next is for all. The control: one after the other."""
    rig = Rig(tmp_path)
    async with rig.running() as drive:
        await drive.write(b"before", os.urandom(4 * KIB))
        disk = Disk(drive, monkeypatch)
        handles = [await disk.create(b"%d" % number) for number in range(TOGETHER)]
        for handle in handles:
            await drive.operations.write(handle, 0, os.urandom(4 * KIB))
        assert (await disk.fsync(*handles))[0] <= 4
        syncs = 0
        for handle in handles:
            await drive.operations.write(handle, 0, os.urandom(4 * KIB))
            syncs += (await disk.fsync(handle))[0]
        assert syncs == 2 * TOGETHER


Request = Callable[[], Awaitable[object]]


async def test_what_hosts_get_of_a_change(tmp_path):
    """Of one without content each host gets a commit and its head. The control: content makes a pack, too."""
    rig = Rig(tmp_path, hosts=2)
    async with rig.running() as drive:
        operations, attributes = drive.operations, pyfuse3.EntryAttributes()
        ino = await drive.write(b"file", os.urandom(4 * KIB))
        handle = (await operations.open(ino, os.O_RDWR, WHO)).fh
        attributes.st_mode = 0o600

        async def sent(request: Request) -> list[tuple[str, int]]:
            await drive.sync()
            before = len(rig.brain.transcript)
            await request()
            await drive.sync()
            return put(rig, before)

        changes: dict[str, Request] = {
            "create": lambda: operations.create(ROOT_INO, b"new", MODE, os.O_RDWR, WHO),
            "rename": lambda: operations.rename(ROOT_INO, b"new", ROOT_INO, b"other", 0, WHO),
            "chmod": lambda: operations.setattr(ino, attributes, CHMOD, None, WHO),
            "unlink": lambda: operations.unlink(ROOT_INO, b"other", WHO),
            "mkdir": lambda: operations.mkdir(ROOT_INO, b"folder", 0o40755, WHO),
        }
        for name, request in changes.items():
            got = await sent(request)
            assert len(got) == 2 * len(rig.puppets), name
            assert sum(size for _, size in got) <= COMMIT_BYTES * len(rig.puppets), name
        assert not await sent(trio.lowlevel.checkpoint), "nothing changed"
        got = await sent(lambda: operations.write(handle, 0, os.urandom(4 * KIB)))
        assert len(got) == 3 * len(rig.puppets)
        assert sum(size for _, size in got) > COMMIT_BYTES * len(rig.puppets)


async def test_a_read_of_one_extent(tmp_path):
    """Which extent, and where its chunk lies; of a chunk that is in mind the former. The control: a read of two."""
    rig = Rig(tmp_path)
    async with rig.running() as drive:
        operations = drive.operations
        inos = [await drive.write(b"%d" % number, os.urandom(8 * KIB)) for number in range(3)]
        await drive.write(b"2", os.urandom(8 * KIB), start=8 * KIB)
        zero, one, two = [(await operations.open(ino, os.O_RDONLY, WHO)).fh for ino in inos]
        drive.engine.reader.cache.clear()

        async def asked(handle: int, size: int) -> list[str]:
            """Tables that a read asks, which need not wait: what others do meanwhile does not count."""
            asked: list[str] = []
            connection = drive.engine.database.connection
            await trio.lowlevel.checkpoint()
            connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: asked.append(table(event["sql"])))
            with assert_no_checkpoints():
                await operations.read(handle, 0, size)
            connection.trace_v2(0)
            return asked

        # From back to front, or what lies behind would be opened as well (test_neighbours).
        assert await asked(one, 8 * KIB) == ["extent", "chunk", "pack", "local_pack"], "of a pack once"
        assert await asked(zero, 8 * KIB) == ["extent", "chunk"]
        assert await asked(zero, 8 * KIB) == ["extent", "extent"], "whether there is more to read ahead, once"
        assert await asked(zero, 8 * KIB) == ["extent"]
        assert (await asked(two, 16 * KIB)).count("chunk") >= 2


def table(sql: str) -> str:
    words = sql.split()
    return words[1] if words[0] == "UPDATE" else words[words.index("FROM") + 1]


async def test_df_looks_at_packs_and_hosts_once_a_second(autojump_clock):
    """A file manager asks all the time. What refuses writes shows at once."""
    asked: list[int] = []
    engine = SimpleNamespace(
        cache=SimpleNamespace(refusing=""),
        packs=SimpleNamespace(stored_bytes=lambda: 7),
        space=SimpleNamespace(total_and_free=lambda stored: asked.append(stored) or (100 + len(asked), 50)),
    )
    session = SimpleNamespace(engine=engine, _room=(0, 0), _room_until_s=0.0)
    assert {Session._space(session) for _ in range(100)} == {(101, 50)}
    engine.cache.refusing = "full"
    assert Session._space(session) == (7, 0)
    engine.cache.refusing = ""
    await trio.sleep(ROOM_S)
    assert Session._space(session) == (102, 50)
