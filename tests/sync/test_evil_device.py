"""A device that was let in and turned evil: what it commits is sealed, signed, chained and not believed (A43)."""

import tracemalloc
from os import urandom

import apsw
import pytest

from megafs.errors import Corrupt
from megafs.index import replication
from megafs.index.database import Database
from megafs.index.inodes import Inodes
from megafs.model import ROOT_INO
from megafs.sync import recover
from megafs.sync.rowrules import check_rows
from megafs.sync.survey import survey
from megafs.wiping import KEY_BYTES
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
    """In a commit, by a rename, in a checkpoint: nothing of it is mounted or copied out (A43)."""
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
    monkeypatch.setattr(recover, "check_rows", lambda database, changeset: None)
    database = await taken_over(world, tmp_path)
    assert NAMES[name] in {name for (name,) in database.connection.execute("SELECT name FROM dirent")}
    database.close()


NEW = "INSERT INTO xattr VALUES (:id, :ino, {}, {})"
ACL = "x'0200000001000600ffffffff04000400ffffffff20000400ffffffff'"  # user, group, other
ROWS = {
    "attribute without namespace": NEW.format("CAST('name' AS BLOB)", "x'00'"),
    "attribute of MegaFS itself": NEW.format("CAST('user.megafs.state' AS BLOB)", "x'00'"),
    "attribute without a name": NEW.format("CAST('user.' AS BLOB)", "x'00'"),
    "attribute with a NUL": NEW.format("x'757365722e6100'", "x'00'"),
    "attribute with a long name": NEW.format("CAST('user.' || hex(zeroblob(200)) AS BLOB)", "x'00'"),
    "attribute with a long value": NEW.format("CAST('user.a' AS BLOB)", "zeroblob(65537)"),
    "access list cut off": NEW.format("CAST('system.posix_acl_default' AS BLOB)", "x'02000000010006'"),
    "access list of another version": NEW.format("CAST('system.posix_acl_default' AS BLOB)", "x'03000000'"),
    "access list without others": NEW.format("CAST('system.posix_acl_default' AS BLOB)", "x'0200000001000600ffffffff'"),
    "access list changed into another": "UPDATE xattr SET value = x'02' WHERE id = :list",
    "target too long": "UPDATE inode SET target = zeroblob(5000) WHERE id = :link",
    "target with a NUL": "UPDATE inode SET target = x'2f00' WHERE id = :link",
    "target that is empty": "UPDATE inode SET target = x'' WHERE id = :link",
    "link without a target": "INSERT INTO inode VALUES (:id, 41471, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL)",
    "file with a target": "INSERT INTO inode VALUES (:id, 33188, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, x'61')",
    "mode of no kind": "UPDATE inode SET mode = 61440 WHERE id = :ino",
    "size below 0": "UPDATE inode SET size = -1 WHERE id = :ino",
    "extent that ends before it begins": "INSERT INTO extent VALUES (:id, :ino, 9, 8, zeroblob(16), 0)",
    "extent of a short chunk": "INSERT INTO extent VALUES (:id, :ino, 70000, 70001, x'00', 0)",
    "chunk that is huge": "INSERT INTO chunk VALUES (randomblob(16), 1, 0, 99, 1 << 40, 0, zeroblob(32))",
    "chunk that is stored huge": "INSERT INTO chunk VALUES (randomblob(16), 1, 0, 1 << 40, 99, 0, zeroblob(32))",
    "chunk with a short digest": "INSERT INTO chunk VALUES (randomblob(16), 1, 0, 99, 99, 0, x'00')",
}
ALLOWED = [
    NEW.format("CAST('user.' || hex(zeroblob(125)) AS BLOB)", "zeroblob(65536)"),
    NEW.format("CAST('system.posix_acl_access' AS BLOB)", ACL),
    "INSERT INTO inode VALUES (:link, 41471, 1, 0, 0, 0, 4095, 0, -1, -1, -1, 0, CAST(hex(zeroblob(2047)) AS BLOB))",
]


TWICE = ("access list cut off", "mode of no kind")
CASES = [*((what, "commit") for what in ROWS), *((what, "checkpoint") for what in TWICE)]


@pytest.mark.parametrize(("what", "way"), CASES)
async def test_rows_that_no_device_writes_are_refused(tmp_path, autojump_clock, monkeypatch, what, way):
    """Attributes, access lists, link targets, modes, sizes: of every kind the longest that may be comes through
    (A43)."""
    world = World(count=2)
    evil = Device(world, tmp_path / "evil", world.identity.signer(1))
    async with evil.shipping():
        ino, link, run = await evil.write(b"file", b"x"), evil.database.new_id(), evil.database.connection.execute
        for sql in ALLOWED:
            made = evil.database.new_id()
            run(sql, {name: value for name, value in (("id", made), ("ino", ino), ("link", link)) if f":{name}" in sql})
        await evil.write(b"later", b"x")
        await evil.sync()
        if what == next(iter(ROWS)):
            (await taken_over(world, tmp_path)).close()
        known = {"id": evil.database.new_id(), "ino": ino, "link": link, "list": made - 1}
        sql = ROWS[what]
        run(sql, {name: value for name, value in known.items() if f":{name}" in sql})
        await evil.write(b"latest", b"x")
        if way == "checkpoint":
            assert await checkpointer(evil).make()
        await evil.sync()
    evil.crash()
    with pytest.raises(Corrupt, match=r"^(changeset|ACL): "):
        await taken_over(world, tmp_path)
    # The control: without the check it would be there.
    monkeypatch.setattr(recover, "check_rows", lambda database, changeset: None)
    (await taken_over(world, tmp_path)).close()


@pytest.mark.parametrize("way", ["name", "value", "number"])
def test_values_of_another_type_are_refused(tmp_path, way):
    """Before a rule looks at them; and the index would not take them either, which is the control."""
    values = {"name": (7, 7, "user.a", b""), "value": (7, 7, b"user.a", "x"), "number": (7, b"7", b"user.a", b"")}
    database = Database(tmp_path / "index.db", raw(bytes(KEY_BYTES)), create=True)
    builder = apsw.ChangesetBuilder()
    builder.schema(database.connection, "main")
    builder.add_insert("xattr", False, values[way])
    changeset = builder.output()
    builder.close()
    with pytest.raises(Corrupt, match="another type"):
        check_rows(database, changeset)
    with database.unlogged() as connection, pytest.raises(Corrupt, match="does not fit"):
        replication.apply(connection, changeset, 1)
    database.close()


@pytest.mark.soak
async def test_a_directory_of_a_million_entries(tmp_path, autojump_clock):
    """Comes through the hosts, and is listed page by page within bounded memory (A43)."""
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
