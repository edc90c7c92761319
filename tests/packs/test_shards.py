"""Erasure coding: every tolerated loss, ranges without decoding, and why shards are authenticated first."""

import json
import random
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.config import PACK_BYTES
from megafs.errors import Corrupt
from megafs.packs import shards

POLICIES = [(2, 1), (2, 2), (4, 2), (3, 2), (1, 1), (10, 6)]
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "shards.json").read_text())


def pack_of(size):
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(("k", "m"), [*POLICIES[:4], (10, 6)])
def test_columns_of_any_shard_from_any_k_others(k, m):
    size = 40_001
    made, chance = shards.encode(pack_of(size), k, m), random.Random(k)
    for wanted in range(k + m):
        for start, stop in ((0, 1), (7, 2000), (shards.slice_bytes(k, size) - 3, shards.slice_bytes(k, size))):
            low, high = shards.HEADER_BYTES + start, shards.HEADER_BYTES + stop
            others = chance.sample([number for number in range(k + m) if number != wanted], k)
            found = shards.decode_columns({number: made[number][low:high] for number in others}, k, wanted)
            assert found == made[wanted][low:high]
    wrong = {number: made[number][low:high] for number in others}
    wrong[others[0]] = bytes(each ^ 1 for each in wrong[others[0]])
    assert shards.decode_columns(wrong, k, wanted) != made[wanted][low:high], "in silence: who asks has to check"


@pytest.mark.parametrize(("k", "m"), POLICIES[:5])
@pytest.mark.parametrize("size", [1, 2, 1000, 65_537, 300_000])
def test_every_tolerated_loss(k, m, size):
    pack = pack_of(size)
    made = dict(enumerate(shards.encode(pack, k, m)))
    assert len(made) == k + m
    for left in combinations(range(k + m), k):
        some = {number: made[number] for number in left}
        assert shards.decode(some, k, m, size) == pack
        missing = set(made) - set(left)
        assert shards.repair(some, missing, k, m, size) == {number: made[number] for number in missing}
    for left in combinations(range(k + m), k - 1):
        with pytest.raises(Corrupt):
            shards.decode({number: made[number] for number in left}, k, m, size)


def test_every_loss_of_ten_and_six():
    """8,008 patterns: where the Vandermonde matrix fails 46 times."""
    pack = pack_of(100)
    made = dict(enumerate(shards.encode(pack, 10, 6)))
    for left in combinations(range(16), 10):
        assert shards.decode({number: made[number] for number in left}, 10, 6, 100) == pack


def test_a_full_pack_and_other_buffers():
    pack = pack_of(PACK_BYTES)
    made = shards.encode(memoryview(pack), 3, 2)
    assert shards.encode(bytearray(pack), 3, 2) == made
    assert shards.decode({1: made[1], 3: made[3], 4: made[4]}, 3, 2, PACK_BYTES) == pack


@given(st.sampled_from(POLICIES), st.integers(1, 3000), st.data())
def test_a_range_is_read_without_decoding(policy, size, data):
    k, m = policy
    pack = pack_of(size)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    made = shards.encode(pack, k, m)
    slices = shards.data_range(k, size, start, stop)
    assert b"".join(made[number][low:high] for number, low, high in slices) == pack[start:stop]
    assert all(number < k and low < high <= len(made[number]) for number, low, high in slices)


def test_a_chunk_lies_in_one_or_two_shards():
    counts = {len(shards.data_range(4, PACK_BYTES, at, at + 262_472)) for at in range(0, PACK_BYTES - 262_472, 99_991)}
    assert counts == {1, 2}


def test_frozen_shards_still_decode():
    k, m, pack = VECTORS["k"], VECTORS["m"], bytes.fromhex(VECTORS["pack"])
    made = {number: bytes.fromhex(shard) for number, shard in enumerate(VECTORS["shards"])}
    for left in combinations(range(k + m), k):
        assert shards.decode({number: made[number] for number in left}, k, m, len(pack)) == pack


@pytest.mark.parametrize("kept", [(0, 1, 2), (1, 2, 3), (2, 3, 4)])
def test_a_flipped_bit_decodes_to_wrong_bytes_in_silence(kept):
    """The negative control of authenticating shards by Merkle root: nothing here notices."""
    pack = pack_of(3000)
    made = dict(enumerate(shards.encode(pack, 3, 2)))
    some = {number: made[number] for number in kept}
    flipped = bytearray(some[kept[-1]])
    flipped[500] ^= 1
    some[kept[-1]] = bytes(flipped)
    wrong = shards.decode(some, 3, 2, 3000)
    assert len(wrong) == 3000
    assert wrong != pack


def test_a_foreign_shard_decodes_to_wrong_bytes_in_silence():
    mine, foreign = shards.encode(pack_of(3000), 2, 1), shards.encode(pack_of(3000)[::-1], 2, 1)
    assert shards.decode({0: mine[0], 2: foreign[2]}, 2, 1, 3000) != pack_of(3000)


def test_mixed_up_shards_are_refused():
    pack = pack_of(3000)
    first, second, parity = shards.encode(pack, 2, 1)
    other = shards.encode(pack_of(3002), 2, 1)
    for wrong in (
        {0: second, 1: first},
        {0: first, 3: parity},
        {0: first, -1: parity},
        {0: first, 2: second},
        {0: first, 2: parity[:-1]},
        {0: first, 2: parity[:40]},
        {0: first, 2: b""},
        {0: first, 2: parity + b"\0"},
        {0: first, 2: other[2]},
        {0: first},
        {},
    ):
        with pytest.raises(Corrupt):
            shards.decode(wrong, 2, 1, 3000)
    for size in (0, -1, 2998, PACK_BYTES + 1, 1 << 60):
        with pytest.raises(Corrupt):
            shards.decode({0: first, 2: parity}, 2, 1, size)


def test_shard_truncated_at_every_byte():
    first, _, parity = shards.encode(pack_of(50), 2, 1)
    for length in range(len(parity)):
        with pytest.raises(Corrupt):
            shards.decode({0: first, 2: parity[:length]}, 2, 1, 50)


@given(st.integers(0, 79), st.integers(1, 255))
def test_a_flipped_header_is_refused_or_gives_bytes_of_the_right_length(at, mask):
    first, _, parity = shards.encode(pack_of(50), 2, 1)
    flipped = bytearray(parity)
    flipped[at] ^= mask
    with suppress(Corrupt):
        assert len(shards.decode({0: first, 2: bytes(flipped)}, 2, 1, 50)) == 50
