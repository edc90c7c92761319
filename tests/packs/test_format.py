"""The layout of packs: frozen vectors, exact filling, and parsers that refuse whatever is not exactly right."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.config import CHUNK_BYTES, MIB, PACK_BYTES
from megafs.crypto import seal
from megafs.errors import Corrupt
from megafs.model import ChunkId, ChunkPlace, PackNumber
from megafs.packs import format as packs
from megafs.packs import sizes
from megafs.packs.codec import Codec

NUMBER = PackNumber(1 << 40 | 7)
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "packs.json").read_text())


def place(number, offset, sealed, plain, codec=0):
    return ChunkPlace(
        chunk=ChunkId(b"MEGA" + number.to_bytes(12, "big")),
        pack=NUMBER,
        offset=offset,
        sealed_bytes=sealed,
        plain_bytes=plain,
        codec=codec,
        digest=bytes([number % 256]) * 32,
    )


def places_of(lengths, gap=0):
    """Chunks of these plain lengths behind each other; returns them and the bytes used."""
    found, at = [], 0
    for number, length in enumerate(lengths):
        found.append(place(number, at, packs.sealed_bytes(length), length))
        at += packs.sealed_bytes(length) + gap
    return found, at


@given(st.integers(0, 40 * MIB))
def test_sealed_bytes_is_what_sealing_makes(size):
    assert packs.sealed_bytes(size) == seal.sealed_bytes(size)


@given(st.lists(st.integers(1, CHUNK_BYTES), max_size=20), st.integers(0, 5))
def test_round_trip(lengths, gap):
    places, used = places_of(lengths, gap)
    where = packs.layout(used, len(places), full=False)
    assert packs.parse_footer(packs.encode_footer(where), where.stored_bytes) == where
    plain = packs.encode_directory(places)
    assert where.directory_bytes == packs.sealed_bytes(len(plain))
    assert packs.parse_directory(plain, where, NUMBER) == places
    assert 0 <= where.padding_bytes <= max(4096, where.stored_bytes * 0.12)
    end = where.directory_offset + where.directory_bytes + where.padding_bytes + packs.FOOTER_SEALED_BYTES
    assert end == where.stored_bytes <= PACK_BYTES
    assert packs.footer_range(where.stored_bytes) == (where.footer_offset, where.stored_bytes)


@given(st.lists(st.integers(1, CHUNK_BYTES), min_size=1, max_size=8))
def test_filling_until_full_gives_exactly_the_pack_size(lengths):
    used = count = 0
    while packs.fits(used, count, packs.sealed_bytes(lengths[count % len(lengths)])):
        used += packs.sealed_bytes(lengths[count % len(lengths)])
        count += 1
    where = packs.layout(used, count, full=True)
    assert where.stored_bytes == PACK_BYTES
    assert 0 <= where.padding_bytes < packs.sealed_bytes(CHUNK_BYTES) + packs.ENTRY.size + 16


def test_the_last_byte_fits_and_one_more_does_not():
    used = PACK_BYTES - packs.sealed_bytes(packs.ENTRY.size) - packs.FOOTER_SEALED_BYTES
    assert packs.fits(0, 0, used)
    assert not packs.fits(0, 0, used + 1)
    assert packs.layout(used, 1, full=True).padding_bytes == 0


def test_a_pack_of_the_smallest_chunks():
    used = count = 0
    while packs.fits(used, count, packs.sealed_bytes(1)):
        used, count = used + packs.sealed_bytes(1), count + 1
    assert packs.ENTRIES_MAX - 100 < count <= packs.ENTRIES_MAX
    where = packs.layout(used, count, full=True)
    assert packs.parse_footer(packs.encode_footer(where), PACK_BYTES) == where


@given(st.integers(2, 1 << 40))
def test_padme(size):
    padded = sizes.padme(size)
    assert size <= padded <= size * 1.12
    assert sizes.padme(padded) == padded


def test_padme_by_hand():
    assert [sizes.padme(size) for size in (2, 9, 100, 1000, 1_000_001, 16 * MIB - 1, 16 * MIB)] == [
        2,
        10,
        104,
        1024,
        1_015_808,
        16 * MIB,
        16 * MIB,
    ]
    shown = {sizes.padme(size) for size in range(MIB, 2 * MIB)}
    assert len(shown) <= 33


@given(st.integers(1, PACK_BYTES), st.booleans())
def test_every_pack_has_one_of_few_sizes(needed, coarse):
    shown = sizes.pack_bytes(needed, coarse=coarse)
    assert needed <= shown <= PACK_BYTES
    assert shown == sizes.pack_bytes(shown, coarse=coarse)
    if coarse:
        assert shown in {MIB << power for power in range(5)}


def frozen():
    places = [place(1, 0, 73, 1), place(2, 73, 5000, 65536, 1), place(3, 6000, 262472, 262144)]
    return places, packs.layout(300_000, 3, full=False)


def test_frozen_vectors():
    places, where = frozen()
    assert packs.encode_directory(places).hex() == VECTORS["directory"]
    assert packs.encode_footer(where).hex() == VECTORS["footer"]
    assert packs.parse_directory(bytes.fromhex(VECTORS["directory"]), where, NUMBER) == places
    assert packs.parse_footer(bytes.fromhex(VECTORS["footer"]), where.stored_bytes) == where
    codec, plain = Codec(), bytes.fromhex(VECTORS["plain"]) * 100
    assert codec.decompress(1, bytes.fromhex(VECTORS["zstd"]), len(plain)) == plain


def test_directory_truncated_at_every_byte_or_too_long():
    _, where = frozen()
    plain = bytes.fromhex(VECTORS["directory"])
    for wrong in (*(plain[:length] for length in range(len(plain))), plain + b"\0"):
        with pytest.raises(Corrupt):
            packs.parse_directory(wrong, where, NUMBER)


def test_footer_truncated_at_every_byte_or_too_long():
    _, where = frozen()
    plain = bytes.fromhex(VECTORS["footer"])
    for wrong in (*(plain[:length] for length in range(len(plain))), plain + b"\0"):
        with pytest.raises(Corrupt):
            packs.parse_footer(wrong, where.stored_bytes)


WRONG_PLACES = {
    "overlaps": lambda second: second._replace(offset=72),
    "before": lambda second: second._replace(offset=0),
    "outside": lambda second: second._replace(offset=299_000),
    "far outside": lambda second: second._replace(offset=(1 << 32) - 1),
    "no length": lambda second: second._replace(plain_bytes=0),
    "too long": lambda second: second._replace(plain_bytes=CHUNK_BYTES + 1),
    "codec": lambda second: second._replace(codec=2),
    "as is, of another length": lambda second: second._replace(codec=0),
    "compressed to more": lambda second: second._replace(plain_bytes=4000),
    "compressed to nothing": lambda second: second._replace(sealed_bytes=72),
    "an id twice": lambda second: second._replace(chunk=frozen()[0][0].chunk),
}


@pytest.mark.parametrize("name", WRONG_PLACES)
def test_directory_with_a_wrong_entry(name):
    places, where = frozen()
    with pytest.raises(Corrupt):
        packs.parse_directory(
            packs.encode_directory([places[0], WRONG_PLACES[name](places[1]), places[2]]), where, NUMBER
        )


def test_a_million_entries_are_refused_before_they_are_read():
    where = packs.Layout(count=1_000_000, directory_offset=0, directory_bytes=0, stored_bytes=PACK_BYTES)
    with pytest.raises(Corrupt):
        packs.parse_directory(memoryview(bytes(61_000_000)), where, NUMBER)
    with pytest.raises(Corrupt):
        packs.parse_footer(packs.encode_footer(where), PACK_BYTES)


@pytest.mark.parametrize("field", range(6))
def test_footer_with_a_wrong_field(field):
    _, where = frozen()
    values = list(packs.FOOTER.unpack(packs.encode_footer(where)))
    values[field] = {0: b"MFSQ", 3: where.stored_bytes}.get(field, values[field] + 1 if field else 0)
    with pytest.raises(Corrupt):
        packs.parse_footer(packs.FOOTER.pack(*values), where.stored_bytes)


@pytest.mark.parametrize("size", [0, 93, 4095, PACK_BYTES + 1, 1 << 40])
def test_no_pack_has_this_size(size):
    with pytest.raises(Corrupt):
        packs.footer_range(size)


@given(st.binary(min_size=22, max_size=22), st.integers(4096, PACK_BYTES))
def test_any_footer_is_refused_or_consistent(plain, stored_bytes):
    for candidate in (plain, packs.MAGIC + b"\0\1" + plain[6:18] + stored_bytes.to_bytes(4, "big")):
        try:
            where = packs.parse_footer(candidate, stored_bytes)
        except Corrupt:
            continue
        assert where.padding_bytes >= 0
        assert packs.encode_footer(where) == candidate


@given(st.data())
def test_any_directory_is_refused_or_canonical(data):
    _, where = frozen()
    plain = bytearray.fromhex(VECTORS["directory"])
    for at in data.draw(st.lists(st.integers(0, len(plain) - 1), max_size=4)):
        plain[at] = data.draw(st.integers(0, 255))
    with suppress(Corrupt):
        assert packs.encode_directory(packs.parse_directory(plain, where, NUMBER)) == plain
