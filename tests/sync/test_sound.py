"""Parts of packs put together as a full check meets them."""

from os import urandom

from megafs.model import WHOLE, HostId, Pack, PackId, PackNumber, shard_of
from megafs.packs import shards
from megafs.sync.check import Sound
from megafs.sync.possession import Copy


def copy(number, data, shard=WHOLE):
    pack = Pack(
        number=PackNumber(number), id=PackId(bytes(16)), epoch=1, stored_bytes=len(data), root=b"", dead_since_s=0
    )
    return Copy(pack=pack, host=HostId(bytes(16)), shard=shard, root=b"")


def test_each_pack_is_whole_once():
    sound, first, second = Sound(), urandom(5000), urandom(6000)
    assert sound.whole(copy(1, first), first) == first
    assert sound.whole(copy(1, first), first) == b""
    assert sound.whole(copy(2, second), second) == second


def test_any_two_of_four_shards_are_the_pack():
    for chosen in ((0, 1), (3, 1), (2, 3)):
        sound, data = Sound(), urandom(50_001)
        parts = shards.encode(data, 2, 2)
        found = [sound.whole(copy(1, data, shard_of(2, n)), parts[n]) for n in (*chosen, 0)]
        assert found == [b"", data, b""]


def test_shards_of_two_packs_are_not_mixed():
    sound, one, other = Sound(), urandom(5000), urandom(5000)
    assert sound.whole(copy(1, one, shard_of(2, 0)), shards.encode(one, 2, 2)[0]) == b""
    assert sound.whole(copy(2, other, shard_of(2, 1)), shards.encode(other, 2, 2)[1]) == b""
