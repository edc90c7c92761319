"""``megafs check`` beside a running engine: what is damaged is found, told apart, and repaired if nothing is lost."""

from os import urandom

import pytest
import trio

from megafs.control.messages import Checked, Progress
from megafs.crypto.keys import ident_pack
from megafs.crypto.merkle import root
from megafs.daemon.check import beside
from megafs.index.packs import SHIPPED
from megafs.model import ROOT_INO, Kind
from tests.crash import drive


@pytest.fixture
async def engine(tmp_path):
    """A vault with one file, all of it shipped; ``objects`` is what its hosts hold."""
    drive.new_vault(tmp_path / "vault")
    objects = {spec.label: {} for spec in drive.HOSTS}
    async with drive.engine_on(tmp_path / "vault", objects, None) as running:
        running.objects = objects
        ino = running.names.create(ROOT_INO, b"file", drive.MODE, 0, 0).ino
        await running.content.write(ino, 0, urandom(300_000))
        async for _ in running.shipper.until_shipped(10):
            pass
        running.ino = ino
        running.pack = next(pack for pack in running.packs.all() if running.packs.places(pack.number))
        assert running.packs.local(running.pack.number)[1] == SHIPPED
        await running.commits.durable_now()
        yield running


async def checked(engine, *, full=False, repair=False) -> Checked:
    told = [message async for message in beside(engine, full=full, repair=repair)]
    assert isinstance(told[-1], Checked)
    return told[-1]


async def checked_with_paths(engine, *, full=False):
    """The result, and the files that it harms."""
    told = [message async for message in beside(engine, full=full, repair=False)]
    return told[-1], [path for step in told if isinstance(step, Progress) for path in step.paths]


def object_name(engine, spec):
    return engine.device.keyring.object_name(spec.id, Kind.PACK, ident_pack(engine.pack.id))


async def test_a_healthy_vault_has_no_findings(engine):
    for full in (False, True):
        told = await checked(engine, full=full)
        assert told.findings == told.silent == ()
        assert told.copies == 2
        assert told.chunks == len(engine.packs.places(engine.pack.number))


async def test_a_damaged_local_chunk_is_found_and_fetched_anew(engine):
    place = engine.packs.places(engine.pack.number)[0]
    engine.disk.write(place.pack, place.offset + 100, [b"rot"])
    told = await checked(engine)
    assert [(each.where, each.rule, each.repaired) for each in told.findings] == [("local", "damaged", False)]
    told = await checked(engine, repair=True)
    assert [(each.rule, each.repaired) for each in told.findings] == [("damaged", True)]
    assert (await checked(engine)).findings == ()


async def test_a_chunk_that_nobody_has_right_is_told_as_it_is(engine):
    place = engine.packs.places(engine.pack.number)[0]
    engine.disk.write(place.pack, place.offset + 100, [b"rot"])
    for spec in drive.HOSTS:
        engine.objects[spec.label].clear()
    told = await checked(engine, repair=True)
    assert ("damaged", False) in [(each.rule, each.repaired) for each in told.findings]


async def test_copies_that_are_missing_or_damaged_are_found_per_host(engine):
    first, second = drive.HOSTS
    del engine.objects[first.label][object_name(engine, first)]
    held = bytearray(engine.objects[second.label][object_name(engine, second)])
    held[5000] ^= 1
    engine.objects[second.label][object_name(engine, second)] = bytes(held)
    told = await checked(engine)
    assert (first.label, "a copy is missing") in [(each.where, each.sentence) for each in told.findings]
    told = await checked(engine, full=True)
    assert {(each.where, each.sentence) for each in told.findings} == {
        (first.label, "a copy is missing"),
        (second.label, "a copy is damaged"),
    }


async def test_what_had_rotted_before_it_left_is_not_called_healthy(engine):
    """Both hosts have exactly what they were given, and that does not open."""
    place = engine.packs.places(engine.pack.number)[0]
    for spec in drive.HOSTS:
        held = bytearray(engine.objects[spec.label][object_name(engine, spec)])
        held[place.offset + 100] ^= 1
        engine.objects[spec.label][object_name(engine, spec)] = bytes(held)
        execute = engine.database.connection.execute
        execute("UPDATE copy SET root = ? WHERE pack = ?", (root(bytes(held)), engine.pack.number))
    await engine.commits.durable_now()
    told, paths = await checked_with_paths(engine, full=True)
    assert [(each.where, each.rule) for each in told.findings] == [("hosts", "rotten")]
    assert paths == [b"file"]


async def test_a_pack_that_no_host_has_any_more_and_the_cache_has_not_is_lost(engine):
    for spec in drive.HOSTS:
        engine.objects[spec.label].clear()
    told, paths = await checked_with_paths(engine, full=True)
    assert {each.rule for each in told.findings} == {"copy"}, "it is all here"
    assert paths == []
    place = engine.packs.places(engine.pack.number)[0]
    engine.disk.punch(place.pack, place.offset, 4096)
    told, paths = await checked_with_paths(engine, full=True)
    assert {each.rule for each in told.findings} == {"copy", "lost"}
    assert paths == [b"file"]


async def test_a_lost_copy_is_made_anew(engine):
    spec = drive.HOSTS[0]
    del engine.objects[spec.label][object_name(engine, spec)]
    told = await checked(engine, repair=True)
    assert [(each.sentence, each.repaired) for each in told.findings] == [
        ("a copy is missing; the mounted vault makes it anew", False)
    ], "it is not there yet"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.keeping.repairer.run)
        with trio.fail_after(10):
            while object_name(engine, spec) not in engine.objects[spec.label]:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert (await checked(engine, full=True)).findings == ()


async def test_a_stray_pack_file_is_moved_aside_and_kept(engine):
    engine.disk.create(0xFFF)
    engine.disk.write(0xFFF, 0, [b"whose is this"])
    told = await checked(engine)
    assert [(each.rule, each.repaired) for each in told.findings] == [("stray", False)]
    assert 0xFFF in engine.disk.numbers()
    await checked(engine, repair=True)
    assert 0xFFF not in engine.disk.numbers()
    kept = engine.paths.root / "lost+found" / engine.disk.path(0xFFF).name
    assert kept.read_bytes() == b"whose is this"
    engine.disk.create(0xFFF)
    engine.disk.write(0xFFF, 0, [b"and this, of the same number"])
    await checked(engine, repair=True)
    assert kept.read_bytes() == b"whose is this", "the first one stays"
    assert kept.with_name(f"{kept.name}~").read_bytes() == b"and this, of the same number"


async def test_an_inode_without_a_name_is_put_into_lost_and_found(engine):
    engine.inodes.unlink(ROOT_INO, b"file")
    await engine.commits.durable_now()
    before = engine.database.commits
    told = await checked(engine)
    assert {each.rule for each in told.findings} == {"orphan", "links"}
    assert engine.database.commits == before, "a check changes nothing"
    told = await checked(engine, repair=True)
    assert all(each.repaired for each in told.findings)
    lost = engine.names.lookup(ROOT_INO, b"lost+found").ino
    assert engine.names.lookup(lost, b"%d" % engine.ino).ino == engine.ino
    assert len(await drive.contents(engine, engine.ino)) == 300_000
    assert (await checked(engine)).findings == ()
