"""A device that was let in and turned evil: what it commits is sealed, signed, chained and not believed (A43)."""

import tracemalloc
from os import urandom

import pytest

from megafs.crypto.seal import KEY_BYTES
from megafs.errors import Corrupt
from megafs.index import replication
from megafs.index.database import Database
from megafs.index.inodes import Inodes
from megafs.model import ROOT_INO
from megafs.sync import recover
from megafs.sync.survey import survey
from tests.support.keys import raw
from tests.sync.rig import Device, World, checkpointer

NAMES = {
    "slash": b"a/b",
    "absolute": b"/etc/passwd",
    "up": b"..",
    "here": b".",
    "empty": b"",
    "nul": b"seems.txt\0.exe",
    "too long": b"x" * 256,
}
HARMLESS = [b"x" * 255, b"...", b" ", b"\xff\xfe", b"-rf", b"new\nline", b"\x1b[2J"]
ENTRIES = 1_000_000
SLICE = 50_000
LISTED_BYTES = 4 << 20  # of Python's memory at most while it is listed


async def taken_over(world: World, folder) -> Database:
    """The index of a device that attaches."""
    database = Database(folder / f"{urandom(8).hex()}.db", raw(bytes(KEY_BYTES)), create=True)
    objects = world.objects()
    await recover.rebuild(database, objects, world.identity.trust, await survey(objects, world.identity.trust))
    return database


@pytest.mark.parametrize(
    ("name", "way"), [*((name, "commit") for name in NAMES), ("slash", "renamed"), ("up", "checkpoint")]
)
async def test_names_that_no_file_can_have_are_refused(tmp_path, autojump_clock, monkeypatch, name, way):
    """In a commit, by a rename, in a checkpoint: nothing of it is mounted or copied out."""
    world = World(count=2)
    evil = Device(world, tmp_path / "evil", world.identity.signer(1))
    async with evil.shipping():
        for harmless in HARMLESS:
            await evil.write(harmless, b"x")
            await evil.sync()
        (await taken_over(world, tmp_path)).close()
        if way == "renamed":
            evil.database.connection.execute("UPDATE dirent SET name = ? WHERE name = x'20'", (NAMES[name],))
            await evil.write(b"later", b"x")
        else:
            await evil.write(NAMES[name], b"x")
        if way == "checkpoint":
            assert await checkpointer(evil).make()
        await evil.sync()
    evil.crash()
    with pytest.raises(Corrupt, match="a name that no file can have"):
        await taken_over(world, tmp_path)
    # The control: without the check it would be there.
    monkeypatch.setattr(replication, "check_names", lambda changeset: None)
    database = await taken_over(world, tmp_path)
    assert NAMES[name] in {name for (name,) in database.connection.execute("SELECT name FROM dirent")}
    database.close()


@pytest.mark.soak
async def test_a_directory_of_a_million_entries(tmp_path, autojump_clock):
    """Comes through the hosts, and is listed page by page within bounded memory."""
    world = World(count=2)
    evil = Device(world, tmp_path / "evil", world.identity.signer(1))
    async with evil.shipping():
        ino = await evil.write(b"first", b"x")
        for start in range(0, ENTRIES, SLICE):
            new = ((evil.database.new_id(), b"n%d" % number, ino) for number in range(start, start + SLICE))
            evil.database.connection.executemany("INSERT INTO dirent VALUES (?, 1, ?, ?)", new)
            await evil.commits.durable_now()
        await evil.sync()
    evil.crash()
    database = await taken_over(world, tmp_path)
    inodes, listed, after = Inodes(database), 0, 0
    tracemalloc.start()
    try:
        while page := inodes.page(ROOT_INO, after):
            listed, after = listed + len(page), page[-1][0]
        _, peak_bytes = tracemalloc.get_traced_memory()
        assert listed == ENTRIES + 1
        assert peak_bytes < LISTED_BYTES
        # The control: all at once it would not be within these bounds.
        tracemalloc.reset_peak()
        everything = list(database.connection.execute("SELECT id, name FROM dirent"))
        _, peak_bytes = tracemalloc.get_traced_memory()
        assert len(everything) == ENTRIES + 1
        assert peak_bytes > 10 * LISTED_BYTES
    finally:
        tracemalloc.stop()
        database.close()
