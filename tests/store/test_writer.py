"""Packs as they are written: places, full packs, restarts, and disks that refuse."""

from itertools import pairwise
from os import urandom

import pytest
import trio

from megafs.config import CHUNK_BYTES, PACK_BYTES
from megafs.crypto.keys import Keyring
from megafs.crypto.merkle import root as merkle_root
from megafs.errors import DiskError
from megafs.index.packs import CLOSED
from megafs.model import Kind
from megafs.packs.format import footer_range, parse_directory, parse_footer
from tests.store.rig import KEYRING, Rig


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path)
    yield made
    made.close()


async def test_what_is_stored_is_at_its_place(rig):
    pieces = [b"a" * 1000, bytes(4096), urandom(CHUNK_BYTES), b"x"]
    places = await rig.writer.store(pieces)
    assert places[1] is None, "zeros are a hole"
    stored = [place for place in places if place is not None]
    assert [place.offset for place in stored] == [0, stored[0].sealed_bytes, sum(p.sealed_bytes for p in stored[:2])]
    for place, piece in zip(places, pieces, strict=True):
        if place is not None:
            assert place.plain_bytes == len(piece)
            assert await rig.reader.chunk(place) == piece
    assert not any(piece in rig.disk.path(stored[0].pack).read_bytes() for piece in (b"a" * 100, pieces[2][:100]))


async def test_where_a_pack_is_full_the_next_begins(rig):
    pieces = [urandom(CHUNK_BYTES) for _ in range(70)]
    places = []
    for first in range(0, 70, 16):
        places += await rig.stored(*pieces[first : first + 16])
    numbers = sorted({place.pack for place in places})
    assert len(numbers) == 2
    assert [pack.number for pack in rig.writer.full] == numbers[:1]
    assert rig.writer.newest_pack == numbers[1]
    rig.reader.cache.clear()
    for place, piece in zip(places, pieces, strict=True):
        assert await rig.reader.chunk(place) == piece


async def test_a_full_pack_is_closed_at_exactly_its_size(rig):
    for _ in range(5):
        await rig.stored(*[urandom(CHUNK_BYTES) for _ in range(16)])
    pack = rig.writer.full[0]
    total, root = await rig.writer.close(pack)
    data = rig.disk.path(pack.number).read_bytes()
    assert total == len(data) == PACK_BYTES
    assert root == merkle_root(data)
    assert rig.packs.local(pack.number)[:2] == (PACK_BYTES, CLOSED)
    start, stop = footer_range(total)
    where = parse_footer(KEYRING.open(Kind.FOOTER, (pack.id,), data[start:stop]), total)
    sealed = data[where.directory_offset : where.directory_offset + where.directory_bytes]
    directory = parse_directory(KEYRING.open(Kind.DIRECTORY, (pack.id,), sealed), where, pack.number)
    assert directory == rig.packs.places(pack.number)
    assert rig.writer.full == []


async def test_a_pack_is_due_some_time_after_its_last_or_its_first_byte(rig):
    assert not rig.writer.due(10, 20)
    await rig.stored(b"first")
    rig.now_s += 9
    assert not rig.writer.due(10, 20)
    await rig.stored(b"second")
    rig.now_s += 9
    assert not rig.writer.due(10, 20), "18 s after its first"
    rig.now_s += 1
    assert rig.writer.due(10, 20), "10 s after its last"
    assert rig.writer.due(100, 19), "19 s after its first"


async def test_after_a_crash_the_open_pack_goes_on_behind_its_last_chunk(rig):
    (kept,) = await rig.stored(b"kept" * 100)
    await rig.writer.sync()
    rig.database.commit(rig.writer.newest_pack)
    await rig.stored(urandom(5000))
    assert rig.disk.path(kept.pack).stat().st_size > kept.sealed_bytes
    rig = rig.again()
    assert rig.writer.resume() == []
    assert rig.disk.path(kept.pack).stat().st_size == kept.sealed_bytes
    (more,) = await rig.stored(b"more")
    assert (more.pack, more.offset) == (kept.pack, kept.sealed_bytes)
    assert await rig.reader.chunk(kept) == b"kept" * 100
    rig.close()


async def test_after_a_crash_packs_that_hold_nothing_go_and_so_do_files_that_nobody_knows(rig):
    await rig.stored(b"x")
    rig.database.rollback()
    rig.extents.refresh()
    empty = rig.packs.open(urandom(16), 1)
    rig.disk.create(empty)
    rig.database.commit(0)
    rig.disk.create(empty + 77)
    (rig.root / "packs" / "notes.txt").write_text("not ours")
    assert len(rig.disk.numbers()) >= 2
    rig = rig.again()
    assert rig.writer.resume() == [empty]
    assert rig.disk.numbers() == []
    assert (rig.root / "packs" / "notes.txt").exists()
    rig.close()


async def test_a_pack_of_an_older_epoch_is_not_gone_on_with(rig):
    (place,) = await rig.stored(b"x")
    rig.database.commit(place.pack)
    rig = rig.again()
    rig.writer.keyring = Keyring(vault=KEYRING.vault, secrets={**KEYRING.secrets, 2: urandom(32)})
    rig.writer.resume()
    assert rig.writer.current is None
    assert [pack.number for pack in rig.writer.full] == [place.pack]
    rig.close()


async def test_a_new_pack_is_synced_with_its_directory_and_then_not_again(rig):
    await rig.stored(b"x")
    await rig.writer.sync()
    kinds = [kind for kind, _ in rig.disk.calls if kind.startswith("sync")]
    assert kinds == ["sync", "sync_directory"]
    await rig.writer.sync()
    await rig.stored(b"y")
    await rig.writer.sync()
    kinds = [kind for kind, _ in rig.disk.calls if kind.startswith("sync")]
    assert kinds == ["sync", "sync_directory", "sync"], "nothing new, nothing to sync"


async def test_a_sync_while_a_write_is_under_way_does_not_count_it(rig):
    """Its bytes arrive after the fdatasync began; the next sync has to come back for them."""
    await rig.stored(b"first")
    pack = rig.writer.current
    pack.unwritten.append(pack.position)
    pack.position += 100
    await rig.writer.sync()
    assert pack.synced == pack.position - 100
    pack.unwritten.clear()
    rig.disk.calls.clear()
    await rig.writer.sync()
    assert ("sync", pack.number) in rig.disk.calls
    assert pack.synced == pack.position


async def test_a_failed_write_leaves_a_gap_that_nobody_names(rig):
    await rig.stored(b"before")
    rig.disk.refused["write"] = 1
    with pytest.raises(DiskError):
        await rig.writer.store([b"lost"])
    (after,) = await rig.stored(b"after")
    assert rig.writer.failed_writes == 1
    rig.reader.cache.clear()
    assert await rig.reader.chunk(after) == b"after"
    rig.writer.retire()
    await rig.writer.close(rig.writer.full[0])


async def test_after_a_failed_sync_the_bytes_are_written_again(rig):
    """Linux calls pages clean that it could not write; only new writes make the next sync honest."""
    (place,) = await rig.stored(b"doubtful")
    rig.disk.refused["sync"] = 1
    with pytest.raises(DiskError):
        await rig.writer.sync()
    rig.disk.calls.clear()
    await rig.writer.sync()
    kinds = [kind for kind, number in rig.disk.calls if number in (place.pack, 0)]
    assert kinds == ["read", "write", "sync", "sync_directory"]
    rig.reader.cache.clear()
    assert await rig.reader.chunk(place) == b"doubtful"


async def test_many_batches_at_once_get_places_of_their_own(rig):
    places = []

    async def store(number):
        places.extend(await rig.stored(*[urandom(3000) for _ in range(number)]))

    async with trio.open_nursery() as nursery:
        for number in range(1, 12):
            nursery.start_soon(store, number)
    ends = sorted((place.offset, place.offset + place.sealed_bytes) for place in places)
    assert all(stop == start for (_, stop), (start, _) in pairwise(ends)), "no gap, no overlap"
    rig.reader.cache.clear()
    for place in places:
        await rig.reader.chunk(place)
