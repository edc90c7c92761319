"""Erasure coding of a whole pack: pack in, k + m shards out; any k shards in, pack out. Pure.

ISA-L's Reed-Solomon with a Cauchy matrix, through pyeclib. (Its Vandermonde sibling cannot decode some losses: 46 of
8,008 patterns at 10 + 6.) A shard is an 80-byte header of liberasurecode and then, for the first k, a plain slice of
the pack: a chunk is read by range from one or two shards without decoding anything.

**Every shard is authenticated before it comes here** (Merkle root in the copy row): a flipped bit decodes to wrong
bytes in silence, and the C library trusts headers. What is checked here only turns our own mistakes into Corrupt. Only
``decode_columns`` takes bytes as a host sent them: it gives the library headers of its own making, and the digest of
the chunk, without which nothing is given out, tells whether they were right.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import islice
from struct import Struct
from typing import NamedTuple

from pyeclib.ec_iface import ECDriver, ECDriverError

from megafs.config import PACK_BYTES
from megafs.errors import Corrupt
from megafs.model import Bytes

HEADER = Struct("<IIIQ60s")  # of liberasurecode: shard number, slice bytes, 0, pack bytes; the rest is its own
HEADER_BYTES = 80
assert HEADER.size == HEADER_BYTES
SHARDS_MAX = 32  # of liberasurecode


class Slice(NamedTuple):
    """The bytes ``start <= i < stop`` of a stored shard, header counted."""

    shard: int
    start: int
    stop: int


@lru_cache(maxsize=8)  # making one loads the matrix; a vault has one policy, or two while it changes
def _driver(k: int, m: int) -> ECDriver:
    assert k >= 1
    assert m >= 1
    assert k + m <= SHARDS_MAX
    return ECDriver(k=k, m=m, ec_type="isa_l_rs_cauchy")


def slice_bytes(k: int, pack_bytes: int) -> int:
    """How much of the pack lies in each of the first k shards; the last one is filled up with zeros."""
    return -(-pack_bytes // k)


def shard_bytes(k: int, pack_bytes: int) -> int:
    """The size of every shard of a pack."""
    return HEADER_BYTES + slice_bytes(k, pack_bytes)


def encode(pack: Bytes, k: int, m: int) -> list[bytes]:
    """The k + m shards, by number. 10 to 34 ms for 16 MiB, nearly all of it holding the GIL."""
    assert 0 < len(pack) <= PACK_BYTES
    shards: list[bytes] = _driver(k, m).encode(pack if isinstance(pack, bytes) else bytes(pack))
    assert all(len(shard) == shard_bytes(k, len(pack)) for shard in shards)
    return shards


def decode(shards: Mapping[int, bytes], k: int, m: int, pack_bytes: int) -> bytes:
    """The pack from any k authentic shards by number; more are ignored. The first k numbers need no arithmetic."""
    chosen = _checked(shards, k, m, pack_bytes)
    if all(number < k for number in chosen):
        joined = b"".join([memoryview(chosen[number])[HEADER_BYTES:] for number in range(k)])
        return joined[:pack_bytes]
    try:
        pack: bytes = _driver(k, m).decode(list(chosen.values()))
    except ECDriverError as error:
        raise Corrupt(f"shards {sorted(chosen)} do not decode") from error
    if len(pack) != pack_bytes:
        raise Corrupt(f"shards decode to {len(pack)} bytes, need {pack_bytes}")
    return pack


def decode_columns(columns: Mapping[int, bytes], k: int, wanted: int) -> bytes:
    """A range of shard ``wanted`` from the same range of k other shards, headers not counted: the code works byte by
    byte. Nothing here is authenticated: the caller checks what comes out. Raises Corrupt."""
    assert len(columns) == k
    (width,) = {len(each) for each in columns.values()}
    driver = _driver(k, max(1, max(*columns, wanted) - k + 1))
    headers = [each[:HEADER_BYTES] for each in driver.encode(bytes(k * width))]
    try:
        (made,) = driver.reconstruct([headers[number] + each for number, each in columns.items()], [wanted])
    except ECDriverError as error:
        raise Corrupt(f"shards {sorted(columns)} do not rebuild a part of {wanted}") from error
    return bytes(made[HEADER_BYTES:])


def repair(shards: Mapping[int, bytes], missing: Collection[int], k: int, m: int, pack_bytes: int) -> dict[int, bytes]:
    """The missing shards, byte for byte as encode() made them, from any k authentic others."""
    chosen = _checked(shards, k, m, pack_bytes)
    assert not set(missing) & set(chosen)
    try:
        made: list[bytes] = _driver(k, m).reconstruct(list(chosen.values()), list(missing))
    except ECDriverError as error:
        raise Corrupt(f"shards {sorted(chosen)} do not rebuild {sorted(missing)}") from error
    return dict(zip(missing, made, strict=True))


def data_range(k: int, pack_bytes: int, start: int, stop: int) -> list[Slice]:
    """Which bytes of which shards, put together, are the bytes ``start <= i < stop`` of the pack. Mostly one slice."""
    assert 0 <= start < stop <= pack_bytes
    size = slice_bytes(k, pack_bytes)
    found = []
    for number in range(start // size, (stop - 1) // size + 1):
        low, high = max(start - number * size, 0), min(stop - number * size, size)
        found.append(Slice(number, HEADER_BYTES + low, HEADER_BYTES + high))
    return found


def _checked(shards: Mapping[int, bytes], k: int, m: int, pack_bytes: int) -> dict[int, bytes]:
    """k of the shards, lowest numbers first, each with the number and the sizes that it must have."""
    if not 0 < pack_bytes <= PACK_BYTES:
        raise Corrupt(f"pack of {pack_bytes} bytes")
    if len(shards) < k:
        raise Corrupt(f"{len(shards)} shards, need {k}")
    chosen = {number: shards[number] for number in islice(sorted(shards), k)}
    for number, shard in chosen.items():
        if not 0 <= number < k + m or len(shard) != shard_bytes(k, pack_bytes):
            raise Corrupt(f"shard {number}: {len(shard)} bytes, need {shard_bytes(k, pack_bytes)}")
        if HEADER.unpack_from(shard)[:4] != (number, slice_bytes(k, pack_bytes), 0, pack_bytes):
            raise Corrupt(f"shard {number}: its header is of another shard")
    return chosen
