"""Compression of one chunk: plaintext in, (codec, data) out, and back. Pure.

Decided per chunk: zstd level 1 where it saves an eighth or more, else the data as it is. What is decompressed was
authenticated before, but its author may be hostile (a share), so memory is bounded by the length that the index says.
"""

import zstandard

from megafs.config import CHUNK_BYTES
from megafs.errors import Corrupt
from megafs.model import Bytes

AS_IS, ZSTD = 0, 1
LEVEL = 1  # 0.1 to 0.5 ms for 256 KiB of text, 30 us to find that it cannot be compressed; level 3 saved 6 % more
ZEROS = bytes(CHUNK_BYTES)


class Codec:
    """A compressor and a decompressor, which are not thread-safe: one object for each batch of work in a thread.

    Making one costs 30 us, as much as compressing 20 KiB: too much for each chunk, nothing for a batch.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        # The content size in the frame is what lets decompress() refuse a bomb before allocating.
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True, write_checksum=False)
        self._decompressor = zstandard.ZstdDecompressor()

    def compress(self, data: Bytes) -> tuple[int, Bytes]:
        """The codec and the data to seal; the same object if it stays as it is."""
        assert 0 < len(data) <= CHUNK_BYTES
        if self._enabled:
            packed = self._compressor.compress(data)
            if len(packed) * 8 <= len(data) * 7:
                return ZSTD, packed
        return AS_IS, data

    def decompress(self, codec: int, data: Bytes, plain_bytes: int) -> Bytes:
        """Exactly ``plain_bytes`` of plaintext, or Corrupt; never allocates more than that."""
        if not 0 < plain_bytes <= CHUNK_BYTES:
            raise Corrupt(f"chunk: plain length {plain_bytes}, at most {CHUNK_BYTES}")
        if codec == AS_IS:
            if len(data) != plain_bytes:
                raise Corrupt(f"chunk: {len(data)} bytes, need {plain_bytes}")
            return data
        if codec != ZSTD:
            raise Corrupt(f"chunk: unknown codec {codec}")
        try:
            # zstandard allocates what the frame declares, whatever max_output_size says: so look first.
            declared = zstandard.get_frame_parameters(data).content_size
            if declared != plain_bytes:
                raise Corrupt(f"chunk: frame declares {declared} bytes, need {plain_bytes}")
            plain = self._decompressor.decompress(data, max_output_size=plain_bytes, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Corrupt(f"chunk: {error}") from error
        if len(plain) != plain_bytes:
            raise Corrupt(f"chunk: {len(plain)} bytes, need {plain_bytes}")
        return plain


def is_zero(data: Bytes) -> bool:
    """Whether all bytes are zero: such data becomes a hole. 5 us for 256 KiB of zeros, nothing for other data."""
    if len(data) <= CHUNK_BYTES:
        return ZEROS.startswith(data)
    view = memoryview(data)
    return all(ZEROS.startswith(view[at : at + CHUNK_BYTES]) for at in range(0, len(view), CHUNK_BYTES))
