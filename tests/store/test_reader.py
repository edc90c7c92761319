"""From places to plaintext: sparse files, damage that heals, one opening for many readers."""

from os import urandom

import pytest
import trio

from megafs.config import CHUNK_BYTES
from megafs.errors import Unavailable
from megafs.index.packs import SHIPPED
from megafs.model import ChunkId, ChunkPlace, PackNumber
from megafs.store.reader import GAP_BYTES, ChunkCache, runs
from tests.store.rig import Rig


@pytest.fixture
async def rig(tmp_path):
    """Three chunks in a pack that a host has, too."""
    made = Rig(tmp_path)
    made.pieces = [urandom(50_000), urandom(100), urandom(60_000)]
    made.places = await made.stored(*made.pieces)
    made.number = made.places[0].pack
    made.host.packs[made.number] = made.disk.path(made.number).read_bytes()
    made.packs.set_local(made.number, len(made.host.packs[made.number]), SHIPPED)
    yield made
    made.close()


async def test_local_bytes_need_no_host(rig):
    for place, piece in zip(rig.places, rig.pieces, strict=True):
        assert await rig.reader.chunk(place) == piece
    assert rig.host.asked == 0
    assert rig.reader.now(rig.places[1]) == rig.pieces[1]


async def small_files(rig, count=40):
    """Their places and contents, in the order in which they were written."""
    pieces = [urandom(2000) for _ in range(count)]
    return await rig.stored(*pieces), pieces


async def test_small_files_read_one_after_the_other_are_opened_together(rig):
    places, pieces = await small_files(rig)
    opened = 0
    for place, piece in zip(places, pieces, strict=True):
        if rig.reader.cache.get(place.chunk) is None:
            opened += 1
            assert rig.reader.now(place) == piece
        assert rig.reader.cache.get(place.chunk) == piece
    assert opened <= 8, "what is opened doubles"
    rig.reader.cache.clear()
    for place in places[::-1]:
        rig.reader.now(place)
        held = [each for each in places if rig.reader.cache.get(each.chunk) is not None]
        assert held == [place], "from back to front nothing is opened in vain"
        rig.reader.cache.clear()


async def test_a_neighbour_that_is_damaged_or_absent_spoils_nothing(rig):
    places, pieces = await small_files(rig)
    rig.disk.write(rig.number, places[3].offset + 40, [b"rot"])
    rig.disk.punch(rig.number, places[5].offset // 4096 * 4096, 4096)
    for number, (place, piece) in enumerate(zip(places, pieces, strict=True)):
        found = rig.reader.cache.get(place.chunk) or rig.reader.now(place)
        assert found in (piece, None)
        assert found is not None or 3 <= number <= 7
    assert rig.reader.now(places[3]) is None
    assert rig.host.asked == 0


async def test_neighbours_beyond_the_end_of_what_is_here(rig):
    """The file was cut (an open pack after a crash of the disk): the one that is here is opened, alone."""
    places, pieces = await small_files(rig)
    assert rig.reader.now(places[0]) == pieces[0]
    rig.disk.truncate(rig.number, places[2].offset)
    assert rig.reader.now(places[1]) == pieces[1]
    assert rig.reader.now(places[2]) is None


async def test_a_pack_that_was_evicted_comes_back_chunk_by_chunk(rig):
    rig.disk.unlink(rig.number)
    rig.packs.delete_local(rig.number)
    assert await rig.reader.chunk(rig.places[2]) == rig.pieces[2]
    assert rig.host.asked == 1
    assert rig.packs.local(rig.number)[:2] == (rig.places[2].sealed_bytes, SHIPPED)
    rig.reader.cache.clear()
    assert await rig.reader.chunk(rig.places[2]) == rig.pieces[2], "kept in a sparse file"
    assert rig.host.asked == 1
    assert await rig.reader.chunk(rig.places[0]) == rig.pieces[0]
    assert rig.host.asked == 2
    assert rig.reader.healed == 0, "absent is not damaged"


@pytest.mark.parametrize("small", [False, True])
async def test_damage_heals_from_a_host_and_is_counted(rig, small):
    place, piece = (rig.places[1], rig.pieces[1]) if small else (rig.places[0], rig.pieces[0])
    rig.disk.write(rig.number, place.offset + 40, [b"rot"])
    assert rig.reader.now(place) is None
    assert await rig.reader.chunk(place) == piece
    assert (rig.reader.healed, rig.host.asked) == (1, 1)
    rig.reader.cache.clear()
    assert await rig.reader.chunk(place) == piece
    assert rig.host.asked == 1, "the file was mended"


async def test_a_disk_that_cannot_read_is_damage_too(rig):
    rig.disk.refused["read"] = 1
    assert await rig.reader.chunk(rig.places[0]) == rig.pieces[0]
    assert rig.reader.healed == 1


async def test_a_disk_that_cannot_keep_costs_only_the_keeping(rig):
    rig.disk.unlink(rig.number)
    rig.disk.refused["write"] = 1
    assert await rig.reader.chunk(rig.places[0]) == rig.pieces[0]
    rig.reader.cache.clear()
    assert await rig.reader.chunk(rig.places[0]) == rig.pieces[0]
    assert rig.host.asked == 2


async def test_damage_everywhere_is_told(rig):
    rig.disk.write(rig.number, 40, [b"rot"])
    rig.host.packs[rig.number] = bytes(len(rig.host.packs[rig.number]))
    with pytest.raises(Unavailable):
        await rig.reader.chunk(rig.places[0])
    assert rig.reader.cache.get(rig.places[0].chunk) is None


async def test_many_readers_open_a_chunk_once(rig):
    rig.disk.unlink(rig.number)
    found = []

    async def read():
        found.append(await rig.reader.chunk(rig.places[0]))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(read)
    assert found == [rig.pieces[0]] * 20
    assert rig.host.asked == 1


async def test_when_the_one_who_opens_gives_up_another_takes_over(rig):
    rig.disk.unlink(rig.number)
    fetch, arrived = rig.host.fetch, trio.Event()

    async def hang(*arguments):
        arrived.set()
        await trio.sleep_forever()

    rig.host.fetch = hang
    found = []

    async def first(scope):
        with scope:
            await rig.reader.chunk(rig.places[0])

    async def second():
        found.append(await rig.reader.chunk(rig.places[0]))

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first, scope)
        await arrived.wait()
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        rig.host.fetch = fetch
        scope.cancel()
    assert found == [rig.pieces[0]]


async def test_several_chunks_in_one_trip(rig):
    rig.disk.write(rig.number, rig.places[2].offset + 40, [b"rot"])
    found = await rig.reader.chunks([*rig.places, rig.places[0]])
    assert found == {place.chunk: piece for place, piece in zip(rig.places, rig.pieces, strict=True)}
    assert rig.reader.healed == 1


async def test_neighbours_that_are_not_here_come_by_one_request(rig):
    rig.disk.unlink(rig.number)
    assert rig.reader.reach_bytes(rig.number) == 0
    told = []
    rig.reader.on_fetched = lambda: told.append(True)
    found = await rig.reader.chunks(rig.places)
    assert found == {place.chunk: piece for place, piece in zip(rig.places, rig.pieces, strict=True)}
    assert (rig.host.asked, rig.reader.fetched, rig.reader.healed) == (1, 3, 0)
    assert told == [True]
    assert rig.reader.reach_bytes(rig.number) == 7, "from now on more is read ahead"
    rig.reader.cache.clear()
    await rig.reader.chunks(rig.places)
    assert rig.host.asked == 1, "kept"


async def test_a_run_with_one_wrong_chunk_gives_the_others(rig):
    rig.disk.unlink(rig.number)
    data = bytearray(rig.host.packs[rig.number])
    data[rig.places[1].offset + 30] ^= 1
    rig.host.packs[rig.number] = bytes(data)
    with pytest.raises(Unavailable):
        await rig.reader.chunks(rig.places)
    assert rig.reader.cache.get(rig.places[1].chunk) is None
    assert await rig.reader.chunk(rig.places[0]) == rig.pieces[0]
    assert await rig.reader.chunk(rig.places[2]) == rig.pieces[2]


async def test_a_run_that_nobody_answers_is_not_asked_for_piece_by_piece(rig):
    rig.disk.unlink(rig.number)

    async def silent(*arguments):
        rig.host.asked += 1
        raise Unavailable("no host answers")

    rig.host.fetch = silent
    with pytest.raises(Unavailable):
        await rig.reader.chunks(rig.places)
    assert rig.host.asked == 1


def test_runs_are_neighbours_of_bounded_length():
    def place(number, pack, offset, size=1000):
        return ChunkPlace(ChunkId(bytes([number]) * 16), PackNumber(pack), offset, size, size, 0, b"")

    near = [place(1, 1, 0), place(2, 1, 1000), place(3, 1, 2000 + GAP_BYTES)]
    far = place(4, 1, 3001 + 2 * GAP_BYTES)
    other = place(5, 2, 3000)
    assert runs([other, near[2], far, near[0], near[1]]) == [near, [far], [other]]
    chunks = [place(n, 1, n * CHUNK_BYTES, CHUNK_BYTES) for n in range(10)]
    assert [len(run) for run in runs(chunks)] == [4, 4, 2]
    assert runs([]) == []


def test_the_chunk_cache_drops_the_least_recently_used():
    cache = ChunkCache(300)
    for name in (b"a", b"b", b"c"):
        cache.put(name, name * 100)
    assert cache.get(b"a") is not None
    cache.put(b"d", b"d" * 100)
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None
    assert cache.bytes == 300
    cache.put(b"e", b"e" * 301)
    assert cache.bytes == 0, "larger than the cache: not kept, and the count is right"
