"""The Merkle tree over 64 KiB leaves of a stored object (RFC 6962 hashing), so that any range can be checked alone.

Owner's side: ``leaf_hashes`` of the whole object, then ``root_of`` and ``proof``. Checker's side: root, total size and
a proof from anywhere, a range of bytes from a host; ``verify`` says whether they belong together.

leaf = SHA-256(00 | bytes), node = SHA-256(01 | left | right); a tree of n leaves splits at the greatest power of two
below n; an object without bytes has the root SHA-256("").
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256

from megafs.config import MERKLE_LEAF_BYTES
from megafs.crypto.seal import same
from megafs.errors import Unauthentic
from megafs.model import Bytes


def leaf_hashes(data: Bytes) -> list[bytes]:
    """One hash for each started 64 KiB."""
    view = memoryview(data)
    hashes = []
    for start in range(0, len(view), MERKLE_LEAF_BYTES):
        leaf = sha256(b"\0")
        leaf.update(view[start : start + MERKLE_LEAF_BYTES])
        hashes.append(leaf.digest())
    return hashes


def root(data: Bytes) -> bytes:
    """The root of a whole object. About 10 ms for a pack: call it in a thread."""
    return root_of(leaf_hashes(data))


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root above these leaf hashes."""
    return _subroot(leaves, 0, len(leaves)) if leaves else sha256(b"").digest()


def proof(leaves: Sequence[bytes], start: int, stop: int) -> list[bytes]:
    """What is needed besides leaves ``start`` to ``stop`` to compute the root: at most twice the depth of hashes."""
    assert 0 <= start < stop <= len(leaves)

    def outside(low: int, high: int) -> Iterator[bytes]:
        if high <= start or stop <= low:
            yield _subroot(leaves, low, high)
        elif not (start <= low and high <= stop):
            middle = _split(low, high)
            yield from outside(low, middle)
            yield from outside(middle, high)

    return list(outside(0, len(leaves)))


def verify(root: bytes, total_bytes: int, first_leaf: int, data: Bytes, proof: Sequence[bytes]) -> None:
    """Unauthentic unless ``data`` is what lies at leaf ``first_leaf`` of the object of this root and size.

    ``data`` is whole leaves; only the object's last one may be shorter.
    """
    count = -(-total_bytes // MERKLE_LEAF_BYTES)
    start, stop = first_leaf, first_leaf - (-len(data) // MERKLE_LEAF_BYTES)
    expected_bytes = min(stop * MERKLE_LEAF_BYTES, total_bytes) - start * MERKLE_LEAF_BYTES
    if not 0 <= start < stop <= count or len(data) != expected_bytes:
        raise Unauthentic("a range is not what the index says")
    leaves, hashes = leaf_hashes(data), iter(proof)

    def above(low: int, high: int) -> bytes:
        if high <= start or stop <= low:
            return next(hashes, b"")
        if high - low == 1:
            return leaves[low - start]
        middle = _split(low, high)
        left = above(low, middle)
        return _node(left, above(middle, high))

    if not same(above(0, count), root) or next(hashes, None) is not None:
        raise Unauthentic("a range is not what the index says")


def _subroot(leaves: Sequence[bytes], low: int, high: int) -> bytes:
    if high - low == 1:
        return leaves[low]
    middle = _split(low, high)
    return _node(_subroot(leaves, low, middle), _subroot(leaves, middle, high))


def _split(low: int, high: int) -> int:
    return low + (1 << (high - low - 1).bit_length() - 1)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
