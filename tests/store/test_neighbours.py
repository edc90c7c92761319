"""What is fetched with a chunk of a small file: as much again as was read in order, and nothing else."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from megafs.config import KIB, MIB
from megafs.model import ChunkId, ChunkPlace, PackNumber
from megafs.store.neighbours import SMALL_BYTES, Neighbours

PACK_BYTES = 16 * MIB


def packed(pack, sizes):
    """Chunks of these sizes, one behind the other."""
    found, offset = [], 0
    for size in sizes:
        number = len(found)
        found.append(ChunkPlace(ChunkId(bytes([pack]) + number.to_bytes(15, "big")), pack, offset, size, size, 0, b""))
        offset += size
    return found


def rig(*packs):
    asked = []

    def places(number):
        asked.append(number)
        return packs[number]

    return Neighbours(places), asked


def brought(neighbours, wanted, reach=4 * MIB):
    """Read these in order: the runs that are fetched, each for the first one that is not here yet."""
    runs, here = [], set()
    for place in wanted:
        if place.chunk not in here:
            runs.append(neighbours.of(place, reach))
            assert runs[-1][0] == place
            here.update(each.chunk for each in runs[-1])
    return runs


def size_of(places):
    return sum(place.sealed_bytes for place in places)


def test_in_order_it_doubles_up_to_the_reach_and_goes_on_in_the_next_pack():
    first, second = packed(0, [4 * KIB] * 4096), packed(1, [4 * KIB] * 4096)
    neighbours, asked = rig(first, second)
    runs = brought(neighbours, first + second)
    assert len(runs) <= 20
    assert [size_of(run) for run in runs[:5]] == [4 * KIB, 4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB]
    assert max(map(size_of, runs)) == 4 * MIB
    assert asked == [PackNumber(0), PackNumber(1)], "the index is asked once a pack"


def test_one_alone_comes_alone():
    places = packed(0, [4 * KIB] * 4096)
    neighbours, asked = rig(places)
    far_apart = [places[number] for number in (2000, 100, 3000, 1000, 4000)]
    assert [len(run) for run in brought(neighbours, far_apart)] == [1] * 5
    assert asked == []


def test_chunks_of_large_files_bring_nothing_and_are_not_brought():
    large = SMALL_BYTES + 1
    places = packed(0, [large] * 20 + [KIB] * 64 + [large] * 10)
    neighbours, _ = rig(places)
    assert all(len(run) == 1 for run in brought(neighbours, places[:20]))
    neighbours, _ = rig(places)
    runs = brought(neighbours, places[20:84])
    assert all(place.sealed_bytes == KIB for run in runs for place in run)
    assert len(runs) <= 8


@given(st.lists(st.integers(100, SMALL_BYTES), min_size=1, max_size=300), st.data())
def test_never_more_than_as_much_again_and_the_reach_is_brought_in_vain(sizes, data):
    places = packed(0, sizes)
    neighbours, _ = rig(places)
    wanted = data.draw(st.lists(st.sampled_from(places), unique=True, max_size=100))
    runs = brought(neighbours, wanted, reach=MIB)
    so_far = 0
    for run in runs:
        assert all(a.offset + a.sealed_bytes == b.offset for a, b in pairwise(run)), "neighbours"
        assert size_of(run[1:]) <= min(so_far, MIB)
        so_far += size_of(run)
