"""Open a part of a sealed object from only the sealed bytes that the part needs. Same format as ``crypto.seal``.

``cover`` says which sealed bytes to fetch besides the header (the first 56), ``open_range`` opens them. A range is
authentic in itself (key, context, place and total length), but who holds the object's key could have sealed other
bytes: where that matters check the fetched bytes by ``crypto.merkle`` first, as only whole objects have a digest.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from megafs.crypto.seal import (
    ALGORITHM,
    DERIVED_BYTES,
    HEADER_BYTES,
    NONCE_BYTES,
    SALT_BYTES,
    SEGMENT_BYTES,
    STEP_BYTES,
    TAG_BYTES,
    expand,
    same,
)
from megafs.errors import Unauthentic
from megafs.model import Bytes
from megafs.wiping import KEY_BYTES


def cover(total_bytes: int, start: int, stop: int) -> tuple[int, int]:
    """From where to where the sealed bytes lie that hold plain bytes ``start`` to ``stop`` of ``total_bytes``."""
    first, after = _segments(total_bytes, start, stop)
    end = min(after * SEGMENT_BYTES, total_bytes) + after * TAG_BYTES
    return HEADER_BYTES + first * STEP_BYTES, HEADER_BYTES + end


def open_range(
    key: bytes, context: bytes, *, total_bytes: int, start: int, stop: int, header: Bytes, part: Bytes
) -> bytes:
    """Plain bytes ``start`` to ``stop``; ``total_bytes`` comes from the index. Unauthentic if anything does not fit."""
    derived = expand(key, ALGORITHM + bytes(header[:SALT_BYTES]) + context, DERIVED_BYTES)
    return open_derived(derived, total_bytes=total_bytes, start=start, stop=stop, header=header, part=part)


def open_derived(derived: bytes, *, total_bytes: int, start: int, stop: int, header: Bytes, part: Bytes) -> bytes:
    """The same with what was derived from key, salt and context: AES key, base nonce and commitment."""
    low, high = cover(total_bytes, start, stop)
    if len(header) != HEADER_BYTES or len(part) != high - low:
        raise Unauthentic("sealed bytes do not open here")
    if not same(derived[KEY_BYTES + NONCE_BYTES :], header[SALT_BYTES:]):
        raise Unauthentic("sealed bytes do not open here")
    cipher = AESGCM(derived[:KEY_BYTES])
    base = int.from_bytes(derived[KEY_BYTES : KEY_BYTES + NONCE_BYTES], "big")
    view = memoryview(part)
    first, after = _segments(total_bytes, start, stop)
    plain = []
    try:
        for segment in range(first, after):
            sealed = view[(segment - first) * STEP_BYTES : (segment - first + 1) * STEP_BYTES]
            plain.append(cipher.decrypt((base ^ segment).to_bytes(NONCE_BYTES, "big"), sealed, None))
    except InvalidTag:
        raise Unauthentic("sealed bytes do not open here") from None
    skipped = start - first * SEGMENT_BYTES
    return b"".join(plain)[skipped : skipped + stop - start]


def _segments(total_bytes: int, start: int, stop: int) -> tuple[int, int]:
    """The first segment of the range and the one after its last.

    A range that reaches the end takes the final segment even if that is empty: it proves that the object ends there.
    """
    assert 0 <= start <= stop <= total_bytes
    first = start // SEGMENT_BYTES
    if stop == total_bytes:
        return first, total_bytes // SEGMENT_BYTES + 1
    return first, max(first + 1, -(-stop // SEGMENT_BYTES))
