"""The Merkle tree against a naive one, and proofs against everything that is not the range."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.crypto.merkle import leaf_hashes, proof, root, root_of, verify
from megafs.errors import Unauthentic

LEAF = 65_536
DATA = b"".join(bytes([n, n + 1]) * (LEAF // 2) for n in range(7)) + b"tail"  # 7 leaves and a short one


def naive(items):
    """RFC 6962, section 2.1, word for word."""
    if not items:
        return sha256(b"").digest()
    if len(items) == 1:
        return sha256(b"\0" + items[0]).digest()
    k = 1
    while 2 * k < len(items):
        k *= 2
    return sha256(b"\1" + naive(items[:k]) + naive(items[k:])).digest()


@pytest.mark.parametrize("size", [0, 1, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF, 3 * LEAF, 5 * LEAF + 1, len(DATA)])
def test_root_is_that_of_the_rfc(size):
    data = DATA[:size]
    assert root(data) == naive([data[n : n + LEAF] for n in range(0, size, LEAF)])
    assert root(memoryview(data)) == root(bytearray(data)) == root_of(leaf_hashes(data)) == root(data)


def test_known_roots_of_certificate_transparency():
    """The reference trees of RFC 6962 implementations: leaves "", 00, 10, 2021, ... (roots for 1, 2, 3 and 8)."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [sha256(b"\0" + bytes.fromhex(item)).digest() for item in inputs]
    expected = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    assert {count: root_of(leaves[:count]).hex() for count in expected} == expected


@given(st.integers(1, 40), st.data())
def test_every_range_is_proven_by_few_hashes(count, data):
    leaves = [sha256(bytes([n])).digest() for n in range(count)]
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    assert len(proof(leaves, start, stop)) <= 2 * count.bit_length()


@pytest.mark.parametrize("start", range(8))
def test_ranges_verify_alone(start):
    leaves, top = leaf_hashes(DATA), root(DATA)
    for stop in range(start + 1, 9):
        part = DATA[start * LEAF : stop * LEAF]
        verify(top, len(DATA), start, part, proof(leaves, start, stop))


def rejected(*arguments):
    with pytest.raises(Unauthentic):
        verify(*arguments)


def test_what_is_not_the_range():
    leaves, top, size = leaf_hashes(DATA), root(DATA), len(DATA)
    part, path = DATA[2 * LEAF : 4 * LEAF], proof(leaves, 2, 4)
    verify(top, size, 2, part, path)
    flipped = bytearray(part)
    flipped[LEAF + 7] ^= 1
    rejected(top, size, 2, flipped, path)
    rejected(top, size, 1, part, path)
    rejected(top, size, 3, part, path)
    rejected(top, size, -1, part, path)
    rejected(top, size, 2, part[:-1], path)
    rejected(top, size, 2, part[:LEAF], path)
    rejected(top, size, 2, part + b"x", path)
    rejected(top, size, 2, b"", path)
    rejected(top, size, 2, part[LEAF:] + part[:LEAF], path)
    rejected(top, size, 2, part, path[:-1])
    rejected(top, size, 2, part, [*path, bytes(32)])
    rejected(top, size, 2, part, path[::-1])
    rejected(top, size, 2, part, [])
    rejected(top, size, 2, part, [path[0] + path[1][:1], path[1][1:], *path[2:]])
    rejected(bytes(32), size, 2, part, path)
    rejected(top, size + LEAF, 2, part, path)
    rejected(top, 3 * LEAF, 2, part, path)
    rejected(top, 0, 0, b"", [])
    rejected(top, size, 8, b"x", path)
    rejected(top, size, 7, b"tail ", proof(leaves, 7, 8))
    verify(top, size, 7, b"tail", proof(leaves, 7, 8))


def test_a_node_is_no_leaf():
    """Without the 00 and 01 in front, the hash of two leaves would pass as one leaf of 64 bytes."""
    leaves = [sha256(b"\0" + bytes([n])).digest() for n in range(2)]
    top = root_of(leaves)
    rejected(top, 64, 0, leaves[0] + leaves[1], [])
    assert sha256(b"\1" + leaves[0] + leaves[1]).digest() == top, "the control: only the first byte differs"


def test_tampering_with_any_leaf_changes_the_root():
    leaves, top = leaf_hashes(DATA), root(DATA)
    for place in range(len(leaves)):
        assert root_of([*leaves[:place], bytes(32), *leaves[place + 1 :]]) != top
    assert root_of(leaves[:-1]) != top
    assert root_of([*leaves, leaves[-1]]) != top
