"""The layout of a pack, and the arithmetic that fills one exactly. Pure; sealing is the caller's.

    0                     sealed chunks, back to back in the order of writing
    directory offset      the sealed directory: one ENTRY for each chunk
                          padding: random bytes, so that a host cannot tell where the chunks end
    stored - 94           the sealed FOOTER, which says where the directory is

A full pack is exactly PACK_BYTES long, one closed early is padded (packs.sizes). Chunks that died before
the pack was closed have no entry, so entries may leave gaps. The index holds everything that the directory says; the
directory is there to rebuild it and for the recipient of a pack who has no index.

ENTRY, 61 bytes, big-endian, ascending by offset         FOOTER, 22 bytes, big-endian
  16s  chunk id                                            4s  magic "MFSP"
  I    offset in the pack                                  H   version, 1
  I    sealed bytes                                        I   entries
  I    plain bytes, 1 to CHUNK_BYTES                       I   offset of the directory
  B    codec: 0 as is, 1 zstd                              I   sealed bytes of the directory
  32s  SHA-256 of the sealed chunk                         I   stored bytes: of the whole pack
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

from megafs.config import CHUNK_BYTES, KIB, PACK_BYTES
from megafs.errors import Corrupt
from megafs.model import Bytes, ChunkId, ChunkPlace, PackNumber
from megafs.packs import sizes

ENTRY = Struct(">16sIIIB32s")  # chunk id, offset, sealed, plain, codec, digest
assert ENTRY.size == 61
FOOTER = Struct(">4sHIIII")  # magic, version, entries, directory offset, directory bytes, stored bytes
assert FOOTER.size == 22
MAGIC, VERSION = b"MFSP", 1
CODECS = (0, 1)

# Sealing adds 56 bytes in front and a tag of 16 for each 16 KiB and for the rest (crypto.seal; a test compares).
SEAL_HEADER_BYTES, SEAL_TAG_BYTES, SEAL_SEGMENT_BYTES = 56, 16, 16 * KIB
SMALLEST_PACK_BYTES = sizes.PACK_LEAST[False]


def sealed_bytes(plain_bytes: int) -> int:
    """How long sealing makes it."""
    return SEAL_HEADER_BYTES + plain_bytes + SEAL_TAG_BYTES * (plain_bytes // SEAL_SEGMENT_BYTES + 1)


FOOTER_SEALED_BYTES = sealed_bytes(FOOTER.size)
assert FOOTER_SEALED_BYTES == 94
ENTRIES_MAX = (PACK_BYTES - FOOTER_SEALED_BYTES) // (ENTRY.size + sealed_bytes(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things stand in one closed pack, in bytes; what the footer says."""

    count: int
    directory_offset: int
    directory_bytes: int  # sealed
    stored_bytes: int

    @property
    def padding_bytes(self) -> int:
        return self.footer_offset - self.directory_offset - self.directory_bytes

    @property
    def footer_offset(self) -> int:
        return self.stored_bytes - FOOTER_SEALED_BYTES


def _needed(used: int, count: int) -> int:
    return used + sealed_bytes(count * ENTRY.size) + FOOTER_SEALED_BYTES


def fits(used: int, count: int, next_sealed: int) -> bool:
    """Whether one more chunk of ``next_sealed`` bytes fits into a pack of ``used`` bytes in ``count`` chunks."""
    return _needed(used + next_sealed, count + 1) <= PACK_BYTES


def layout(used: int, count: int, *, full: bool, coarse: bool = False) -> Layout:
    """How to close a pack of ``used`` bytes of chunks, ``count`` of which get an entry. ``full``: because nothing more
    fits, so that it gets the one size of all full packs; else it is padded, finely or coarsely (packs.sizes)."""
    needed = _needed(used, count)
    assert 0 < needed <= PACK_BYTES
    stored = PACK_BYTES if full else sizes.pack_bytes(needed, coarse=coarse)
    return Layout(
        count=count,
        directory_offset=used,
        directory_bytes=sealed_bytes(count * ENTRY.size),
        stored_bytes=stored,
    )


def encode_directory(places: Sequence[ChunkPlace]) -> bytes:
    """The directory's plaintext, from places ascending by offset."""
    return b"".join(
        [
            ENTRY.pack(place.chunk, place.offset, place.sealed_bytes, place.plain_bytes, place.codec, place.digest)
            for place in places
        ]
    )


def parse_directory(plain: Bytes, where: Layout, pack: PackNumber) -> list[ChunkPlace]:
    """The places that a directory lists, every one of them inside the pack and none overlapping; else Corrupt."""
    if where.count > ENTRIES_MAX or len(plain) != where.count * ENTRY.size:
        raise Corrupt(f"directory: {len(plain)} bytes for {where.count} entries")
    places: list[ChunkPlace] = []
    end = 0
    for chunk, offset, sealed, length, codec, digest in ENTRY.iter_unpack(plain):
        if offset < end or offset + sealed > where.directory_offset:
            raise Corrupt(f"directory: entry {len(places)} at {offset} overlaps or lies outside")
        if not 0 < length <= CHUNK_BYTES or codec not in CODECS:
            raise Corrupt(f"directory: entry {len(places)} has length {length}, codec {codec}")
        if not (sealed == sealed_bytes(length) if codec == 0 else sealed_bytes(1) <= sealed < sealed_bytes(length)):
            raise Corrupt(f"directory: entry {len(places)} has {sealed} sealed bytes for {length}")
        places.append(
            ChunkPlace(
                chunk=ChunkId(chunk),
                pack=pack,
                offset=offset,
                sealed_bytes=sealed,
                plain_bytes=length,
                codec=codec,
                digest=digest,
            )
        )
        end = offset + sealed
    if len({place.chunk for place in places}) != len(places):
        raise Corrupt("directory: a chunk id stands twice")
    return places


def encode_footer(where: Layout) -> bytes:
    """The footer's plaintext."""
    return FOOTER.pack(MAGIC, VERSION, where.count, where.directory_offset, where.directory_bytes, where.stored_bytes)


def footer_range(stored_bytes: int) -> tuple[int, int]:
    """Where a pack of this size has its sealed footer; Corrupt if no pack has this size."""
    if not SMALLEST_PACK_BYTES <= stored_bytes <= PACK_BYTES:
        raise Corrupt(f"pack: {stored_bytes} bytes")
    return stored_bytes - FOOTER_SEALED_BYTES, stored_bytes


def parse_footer(plain: Bytes, stored_bytes: int) -> Layout:
    """What the footer of a pack of ``stored_bytes`` says, consistent with itself and with that size; else Corrupt."""
    footer_range(stored_bytes)
    if len(plain) != FOOTER.size:
        raise Corrupt(f"footer: {len(plain)} bytes, need {FOOTER.size}")
    magic, version, count, offset, directory, stored = FOOTER.unpack(plain)
    if magic != MAGIC or version != VERSION:
        raise Corrupt(f"footer: magic {magic.hex()}, version {version}, need {MAGIC.hex()}, {VERSION}")
    if stored != stored_bytes:
        raise Corrupt(f"footer: for a pack of {stored} bytes, this one has {stored_bytes}")
    if count > ENTRIES_MAX or directory != sealed_bytes(count * ENTRY.size):
        raise Corrupt(f"footer: directory of {directory} bytes for {count} entries")
    where = Layout(count=count, directory_offset=offset, directory_bytes=directory, stored_bytes=stored)
    if where.padding_bytes < 0:
        raise Corrupt(f"footer: directory at {offset} reaches into the footer")
    return where
