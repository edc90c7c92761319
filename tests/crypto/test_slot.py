"""The slot opens with its passphrase only; parameters out of bounds are refused before anything is derived."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.crypto.seal import digest
from megafs.crypto.slot import CHECK_BYTES, HEADER, LIMITS, MAGIC, SlotLimits, make_slot, open_slot
from megafs.errors import DamagedSlot, MegaFSError, Usage, WrongKey

LOW = SlotLimits(memory_floor_kib=8, iterations_floor=1)
CHEAP = {"memory_kib": 8, "iterations": 1, "lanes": 1, "limits": LOW}
SLOT = make_slot("right", b"the body", **CHEAP)


def checked(slot):
    """The slot as an attacker would write it: with a valid check sum."""
    return slot + digest(slot)[:CHECK_BYTES]


def with_parameters(memory_kib, iterations, lanes, magic=MAGIC):
    return checked(HEADER.pack(magic, memory_kib, iterations, lanes, bytes(16)) + SLOT[HEADER.size : -CHECK_BYTES])


class Recorded:
    """Derives nothing, and knows what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, passphrase, header):
        self.asked.append(HEADER.unpack(header)[:4])
        return bytes(32)


def starved(passphrase, header):
    raise MemoryError


def test_production_parameters():
    slot = make_slot("right", b"body", memory_kib=64 * 1024)
    assert open_slot("right", slot) == b"body"
    assert open_slot("right", memoryview(slot)) == b"body"
    assert LIMITS == SlotLimits() == SlotLimits(memory_floor_kib=65_536, iterations_floor=3)


def test_the_default_is_above_the_floor():
    make_slot("right", b"body", derive=(derived := Recorded()))
    assert derived.asked == [(MAGIC, 256 * 1024, 3, 4)]


@given(st.text(min_size=1, max_size=50), st.binary(max_size=50))
def test_round_trip(passphrase, body):
    slot = make_slot(passphrase, body, **CHEAP)
    assert open_slot(passphrase, slot, limits=LOW) == body
    with pytest.raises(WrongKey):
        open_slot(passphrase + "x", slot, limits=LOW)


@pytest.mark.parametrize("wrong", ["", "Right", "right ", " right", "righ", "right\0", "x" * 5000, "\udc80"])
def test_wrong_passphrase(wrong):
    with pytest.raises(WrongKey, match=r"^The passphrase is wrong\.$"):
        open_slot(wrong, SLOT, limits=LOW)


def test_composed_and_decomposed_letters_agree():
    assert open_slot("Stra\u00dfe u\u0308ber", make_slot("Stra\u00dfe \u00fcber", b"x", **CHEAP), limits=LOW) == b"x"


@pytest.mark.parametrize("passphrase", ["", "x" * 4097, "\ud800"])
def test_passphrases_that_cannot_be(passphrase):
    with pytest.raises(Usage):
        make_slot(passphrase, b"", **CHEAP)


def test_every_flipped_bit_and_truncation_is_damage_found_before_deriving():
    derived = Recorded()
    for bit in range(8 * len(SLOT)):
        forged = bytearray(SLOT)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedSlot):
            open_slot("right", forged, limits=LOW, derive=derived)
    for size in range(len(SLOT)):
        with pytest.raises(DamagedSlot):
            open_slot("right", SLOT[:size], limits=LOW, derive=derived)
    for longer in (SLOT + b"\0", SLOT * 2, bytes(2 << 20)):
        with pytest.raises(DamagedSlot):
            open_slot("right", longer, limits=LOW, derive=derived)
    assert derived.asked == []


def test_a_flipped_bit_with_a_new_check_sum_does_not_open():
    """Who edits the slot can repair the check sum: then the sealing decides."""
    for place in [*range(17, 33), *range(33, len(SLOT) - CHECK_BYTES)]:
        forged = bytearray(SLOT[:-CHECK_BYTES])
        forged[place] ^= 1
        with pytest.raises(WrongKey):
            open_slot("right", checked(bytes(forged)), limits=LOW)


OUT_OF_BOUNDS = {
    "no memory": (0, 3, 1),
    "8 KiB, one iteration": (8, 1, 1),
    "a KiB below the floor": (64 * 1024 - 1, 3, 1),
    "one iteration": (64 * 1024, 1, 1),
    "two iterations": (64 * 1024, 2, 1),
    "no iterations": (64 * 1024, 0, 1),
    "no lanes": (64 * 1024, 3, 0),
    "17 lanes": (64 * 1024, 3, 17),
    "255 lanes": (64 * 1024, 3, 255),
    "a KiB above the ceiling": (4 * 1024 * 1024 + 1, 3, 1),
    "4 TiB": (2**32 - 1, 3, 1),
    "65 iterations": (64 * 1024, 65, 1),
    "years": (64 * 1024, 2**32 - 1, 1),
}


@pytest.mark.parametrize("parameters", OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS.keys())
def test_parameters_out_of_bounds(parameters):
    """A09: a slot that asks for a cheap guess or for all memory is refused before anything is derived."""
    derived = Recorded()
    with pytest.raises(DamagedSlot, match="out of bounds"):
        open_slot("right", with_parameters(*parameters), derive=derived)
    memory_kib, iterations, lanes = parameters
    with pytest.raises(Usage):
        make_slot("right", b"", memory_kib=memory_kib, iterations=iterations, lanes=lanes, derive=derived)
    assert derived.asked == []


def test_the_control_for_the_bounds():
    """Within bounds it does derive; with the floor taken away it would for cheap ones too."""
    derived = Recorded()
    with pytest.raises(WrongKey):
        open_slot("right", with_parameters(64 * 1024, 3, 1), derive=derived)
    with pytest.raises(WrongKey):
        open_slot("right", with_parameters(8, 1, 1), limits=LOW, derive=derived)
    assert len(derived.asked) == 2
    with pytest.raises(DamagedSlot):
        open_slot("right", SLOT, derive=derived)
    assert len(derived.asked) == 2


def test_changed_parameters_within_bounds_do_not_open():
    for memory_kib, iterations, lanes in [(16, 1, 1), (8, 2, 1), (16, 1, 2)]:
        with pytest.raises(WrongKey):
            open_slot("right", with_parameters(memory_kib, iterations, lanes), limits=LOW)


@pytest.mark.parametrize("magic", [b"MegaFSs0", b"MegaFSs2", b"LUKS\xba\xbe\0\1", bytes(8)])
def test_other_versions_are_refused_before_deriving(magic):
    derived = Recorded()
    with pytest.raises(DamagedSlot, match="format"):
        open_slot("right", with_parameters(64 * 1024, 3, 1, magic=magic), derive=derived)
    assert derived.asked == []


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_the_two(data):
    for slot in (data, checked(data), checked(MAGIC + data), checked(struct.pack(">8sIIB", MAGIC, 8, 1, 1) + data)):
        with pytest.raises((DamagedSlot, WrongKey)):
            open_slot("right", slot, limits=LOW)


def test_too_little_memory_is_said():
    with pytest.raises(MegaFSError, match=r"^Opening the key slot takes 64 MiB of free memory\.$"):
        open_slot("right", with_parameters(64 * 1024, 3, 1), derive=starved)


def test_salts_are_fresh():
    first, second = (make_slot("same", b"same", **CHEAP) for _ in range(2))
    assert first[17:33] != second[17:33]
    with pytest.raises(Usage, match="too much"):
        make_slot("right", bytes(1 << 20), **CHEAP)
