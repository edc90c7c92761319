"""Compression per chunk, and that nothing a frame says makes us allocate more than the index says."""

import os
import random
import tracemalloc
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from megafs.config import CHUNK_BYTES
from megafs.errors import Corrupt
from megafs.packs.codec import AS_IS, ZSTD, Codec, is_zero

CODEC = Codec()
TEXT = b"".join(b"line %d of a text\n" % line for line in range(2000))
FRAME = zstandard.ZstdCompressor(level=1).compress(TEXT)


@given(st.binary(min_size=1, max_size=2000) | st.binary(min_size=1, max_size=50).map(lambda unit: unit * 40))
def test_round_trip(data):
    codec, packed = CODEC.compress(data)
    assert codec == (ZSTD if len(packed) < len(data) else AS_IS)
    assert CODEC.decompress(codec, packed, len(data)) == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer(kind):
    codec, packed = CODEC.compress(kind(TEXT))
    assert codec == ZSTD
    assert CODEC.decompress(codec, kind(packed), len(TEXT)) == TEXT
    assert is_zero(kind(bytes(100)))
    assert not is_zero(kind(TEXT))


def test_an_eighth_decides():
    rest = random.Random(1).randbytes(8000)
    saved = [(zeros, CODEC.compress(rest + bytes(zeros))[0]) for zeros in range(900, 1400, 10)]
    assert saved[0][1] == AS_IS
    assert saved[-1][1] == ZSTD
    first = next(zeros for zeros, codec in saved if codec == ZSTD)
    packed = len(CODEC.compress(rest + bytes(first))[1])
    assert packed <= (8000 + first) * 7 / 8 < packed + 20


def test_off_leaves_data_alone():
    assert Codec(enabled=False).compress(TEXT) == (AS_IS, TEXT)


def test_what_cannot_be_compressed_is_the_same_object():
    noise = os.urandom(4096)
    assert CODEC.compress(noise)[1] is noise


def test_frame_truncated_at_every_byte():
    for length in range(len(FRAME)):
        with pytest.raises(Corrupt):
            CODEC.decompress(ZSTD, FRAME[:length], len(TEXT))


@pytest.mark.parametrize(
    ("codec", "data", "plain_bytes"),
    [
        (AS_IS, TEXT, len(TEXT) - 1),
        (AS_IS, TEXT, len(TEXT) + 1),
        (AS_IS, b"", 0),
        (AS_IS, bytes(CHUNK_BYTES + 1), CHUNK_BYTES + 1),
        (2, TEXT, len(TEXT)),
        (ZSTD, FRAME, len(TEXT) - 1),
        (ZSTD, FRAME, len(TEXT) + 1),
        (ZSTD, FRAME, -1),
        (ZSTD, FRAME + b"more", len(TEXT)),
        (ZSTD, FRAME + FRAME, len(TEXT)),
        (ZSTD, b"not a frame at all", 10),
        (ZSTD, bytes.fromhex("502a4d18 04000000 00000000"), 4),  # a skippable frame
    ],
)
def test_refused(codec, data, plain_bytes):
    with pytest.raises(Corrupt):
        CODEC.decompress(codec, data, plain_bytes)


def bombs():
    """Frames of a few KB that say 64 MiB, say nothing, or say 100 bytes and hold 64 MiB."""
    open_ended = zstandard.ZstdCompressor(level=1, write_content_size=False).compressobj()
    silent = open_ended.compress(bytes(64 << 20)) + open_ended.flush()
    honest = zstandard.ZstdCompressor(level=1).compress(bytes(64 << 20))
    small = zstandard.ZstdCompressor(level=1).compress(bytes(100))
    header = zstandard.frame_header_size(honest)
    lying = small[: zstandard.frame_header_size(small)] + honest[header:]
    return {"silent": silent, "honest": honest, "lying": lying}


@pytest.mark.parametrize("name", ["silent", "honest", "lying"])
def test_bombs_stay_within_the_plain_length(name):
    """A43."""
    bomb = bombs()[name]
    assert len(bomb) < 8192
    for plain_bytes in (100, CHUNK_BYTES):
        tracemalloc.start()
        try:
            with pytest.raises(Corrupt):
                CODEC.decompress(ZSTD, bomb, plain_bytes)
            assert tracemalloc.get_traced_memory()[1] < 2 * CHUNK_BYTES
        finally:
            tracemalloc.stop()


def test_without_the_check_a_bomb_goes_off():
    """A43."""
    plain = zstandard.ZstdDecompressor().decompress(bombs()["honest"], max_output_size=100)
    assert len(plain) == 64 << 20


@given(st.binary(max_size=300), st.integers(-1, CHUNK_BYTES + 1), st.integers(0, 3))
def test_any_bytes_are_refused_or_right(data, plain_bytes, codec):
    with suppress(Corrupt):
        assert len(CODEC.decompress(codec, data, plain_bytes)) == plain_bytes


@given(st.integers(0, len(FRAME) - 1), st.integers(1, 255))
def test_flipped_frame_is_refused_or_has_the_length(at, mask):
    flipped = bytearray(FRAME)
    flipped[at] ^= mask
    with suppress(Corrupt):
        assert len(CODEC.decompress(ZSTD, flipped, len(TEXT))) == len(TEXT)


@pytest.mark.parametrize("size", [0, 1, 4096, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5])
def test_is_zero(size):
    assert is_zero(bytes(size))
    for at in {0, size // 2, size - 1} if size else ():
        data = bytearray(size)
        data[at] = 1
        assert not is_zero(data)
