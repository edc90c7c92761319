"""The slot file opens with what its slots are for; parameters out of bounds are refused before anything is derived."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.crypto import slot as slots
from megafs.crypto.passphrase import LIMITS, MEMORY_FLOOR_KIB, Cost, Limits, argon2id, usual_cost
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.seal import context, digest, expand, seal
from megafs.crypto.slot import (
    CHECK_BYTES,
    FORMER,
    HEADER,
    SLOT,
    SlotKey,
    new_file,
    new_slot,
    open_slots,
    secret_from,
    slot_file,
    slots_of,
    with_body,
    with_slots,
)
from megafs.errors import DamagedSlot, MegaFSError, Usage, WrongKey
from megafs.model import Kind, VaultId

LOW = Limits(memory_floor_kib=8, iterations_floor=1)
LEAST = Cost(memory_kib=8, iterations=1, lanes=1)
KEY, RECOVERY = SlotKey(bytes(range(32))), RecoveryKey(bytes(range(32, 64)))
FILE = new_file(b"the body", {"passphrase": "right", "keyring": KEY, "recovery": RECOVERY}, cost=LEAST, limits=LOW)
FRONT = HEADER.size + 3 * SLOT.size  # bytes before the sealed body
FROZEN = json.loads((Path(__file__).parent.parent / "vectors" / "slots.json").read_text())
NO_VAULT = VaultId(bytes(32))


def checked(data):
    """The file as an attacker would write it: with a valid check sum."""
    return data + digest(data)[:CHECK_BYTES]


def former_slot(memory_kib=8, iterations=1, lanes=1, magic=b"MegaFSs1", *, derived=False):
    """A file of format 1. Not ``derived``: cheaply made, so that it opens only if it asks for the least."""
    header = FORMER.pack(magic, memory_kib, iterations, lanes, bytes(16))
    cost = Cost(memory_kib=memory_kib, iterations=iterations, lanes=lanes) if derived else LEAST
    key = argon2id(b"right", cost, bytes(16))
    return checked(header + seal(key, context(Kind.SLOT, 0, NO_VAULT, header), b"former body"))


def asking(memory_kib, iterations, lanes):
    """FILE with other parameters in its first slot."""
    front = bytearray(FILE[:-CHECK_BYTES])
    kind, label, *_, salt, wrapped = SLOT.unpack_from(front, HEADER.size)
    SLOT.pack_into(front, HEADER.size, kind, label, memory_kib, iterations, lanes, salt, wrapped)
    return checked(bytes(front))


class Recorded:
    """Derives nothing, and knows what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, passphrase, cost, salt):
        self.asked.append(cost)
        return bytes(32)


def starved(passphrase, cost, salt):
    raise MegaFSError("no memory")


def test_frozen_file():
    """tests/vectors/slots.json is never regenerated."""
    data = bytes.fromhex(FROZEN["file"])
    secrets = FROZEN["passphrase"], secret_from(FROZEN["slot_key"]), RecoveryKey.from_text(FROZEN["words"])
    for secret, told in zip(secrets, FROZEN["slots"], strict=True):
        opened = open_slots(secret, data)
        assert (opened.body.hex(), opened.key.hex(), opened.label) == (FROZEN["body"], FROZEN["key"], told["label"])
    assert [{"label": slot.label, "kind": slot.kind} for slot in slots_of(data)] == FROZEN["slots"]


def test_production_parameters():
    data = new_file(b"body", {"a": "right"}, cost=Cost(memory_kib=MEMORY_FLOOR_KIB))
    assert open_slots("right", data).body == b"body"
    assert open_slots("right", memoryview(data)).body == b"body"
    assert LIMITS == Limits() == Limits(memory_floor_kib=65_536, iterations_floor=3)


def test_the_default_is_above_the_floor():
    new_file(b"body", {"a": "right"}, derive=(derived := Recorded()))
    assert derived.asked == [Cost(memory_kib=256 * 1024, iterations=3, lanes=4)]


@pytest.mark.parametrize(
    ("free_mib", "memory_mib"), [(0, 64), (100, 64), (511, 64), (512, 128), (1023, 128), (1024, 256), (1 << 20, 256)]
)
def test_the_cost_follows_the_free_memory(free_mib, memory_mib):
    cost = usual_cost(free_mib << 10)
    assert cost == Cost(memory_kib=memory_mib << 10)
    assert LIMITS.accept(cost)


@given(st.text(min_size=1, max_size=50), st.binary(max_size=50))
def test_round_trip(passphrase, body):
    data = new_file(body, {"a": passphrase, "b": KEY}, cost=LEAST, limits=LOW)
    assert open_slots(passphrase, data, limits=LOW).body == open_slots(KEY, data, limits=LOW).body == body
    with pytest.raises(WrongKey):
        open_slots(passphrase + "x", data, limits=LOW)


@pytest.mark.parametrize("wrong", ["", "Right", "right ", " right", "righ", "right\0", "x" * 5000, "\udc80"])
def test_wrong_passphrase(wrong):
    for data in (FILE, former_slot()):
        with pytest.raises(WrongKey, match=r"^The passphrase is wrong\.$"):
            open_slots(wrong, data, limits=LOW)


def test_wrong_keys():
    for data in (FILE, former_slot()):
        for secret in (SlotKey(RECOVERY.secret), RecoveryKey(KEY.secret), SlotKey(bytes(32))):
            with pytest.raises(WrongKey, match="none of the slots"):
                open_slots(secret, data, limits=LOW)


def test_format_1_still_opens():
    opened = open_slots("right", former_slot(), limits=LOW)
    assert (opened.body, opened.key, opened.label) == (b"former body", b"", "")
    assert slots_of(former_slot(), limits=LOW) == ()
    for change in (lambda data: with_body(data, bytes(32), b"x"), lambda data: with_slots(data, opened, ())):
        with pytest.raises(DamagedSlot):
            change(former_slot())


def test_composed_and_decomposed_letters_agree():
    data = new_file(b"x", {"a": "Stra\u00dfe \u00fcber"}, cost=LEAST, limits=LOW)
    assert open_slots("Stra\u00dfe u\u0308ber", data, limits=LOW).body == b"x"


@pytest.mark.parametrize("passphrase", ["", "x" * 4097, "\ud800", KEY.text()])
def test_passphrases_that_cannot_be(passphrase):
    with pytest.raises(Usage):
        new_file(b"", {"a": passphrase}, cost=LEAST, limits=LOW)


def test_the_text_of_a_key():
    assert secret_from(KEY.text()) == KEY
    for text in (KEY.text()[:-1], KEY.text().upper(), " " + KEY.text(), "megafs-key-1:", "right"):
        assert secret_from(text) == text
    assert KEY.secret.hex() not in repr(KEY)


# changing it


def test_one_secret_changes_and_the_others_stay():
    opened = open_slots("right", FILE, limits=LOW)
    former = slots_of(FILE, limits=LOW)
    other = new_slot("new", opened.key, "passphrase", cost=Cost(memory_kib=16, iterations=1, lanes=1), limits=LOW)
    data = slot_file([other, *former[1:]], opened.key, opened.body)
    assert open_slots("new", data, limits=LOW).body == open_slots(RECOVERY, data, limits=LOW).body == b"the body"
    with pytest.raises(WrongKey):
        open_slots("right", data, limits=LOW)


def test_the_body_changes_without_any_secret(monkeypatch):
    """What a rotation does: it has the body key, and no passphrase."""
    monkeypatch.setattr(slots, "LIMITS", LOW)
    opened = open_slots(KEY, FILE, limits=LOW)
    data = with_body(FILE, opened.key, b"another body")
    for secret in ("right", KEY, RECOVERY):
        assert open_slots(secret, data, limits=LOW).body == b"another body"
    with pytest.raises(DamagedSlot):
        with_body(FILE, bytes(32), b"another body")
    kept = slots_of(data, limits=LOW)[1:]
    fewer = with_slots(data, opened, kept)  # the body of the file counts, not the one that was opened before
    assert open_slots(RECOVERY, fewer, limits=LOW).body == b"another body"
    with pytest.raises(WrongKey):
        open_slots("right", fewer, limits=LOW)


def test_slots_that_cannot_be():
    opened = open_slots(KEY, FILE, limits=LOW)
    one = slots_of(FILE, limits=LOW)[1]
    for wrong in ([], [one, one], [replace(one, label=f"l{n}") for n in range(17)]):
        with pytest.raises(Usage):
            slot_file(wrong, opened.key, b"")
    for label in ("", "a b", "a" * 33, "-a", "ä", "a\n"):
        with pytest.raises(Usage):
            new_slot(KEY, opened.key, label)
    with pytest.raises(Usage, match="too much"):
        new_file(bytes(1 << 20), {"a": KEY})


# what an attacker may write


def test_every_flipped_bit_and_truncation_is_damage_found_before_deriving():
    derived = Recorded()
    for whole in (FILE, former_slot()):
        for bit in range(8 * len(whole)):
            forged = bytearray(whole)
            forged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DamagedSlot):
                open_slots("right", forged, limits=LOW, derive=derived)
        for size in range(len(whole)):
            with pytest.raises(DamagedSlot):
                open_slots("right", whole[:size], limits=LOW, derive=derived)
        for longer in (whole + b"\0", whole * 2, bytes(2 << 20)):
            with pytest.raises(DamagedSlot):
                open_slots("right", longer, limits=LOW, derive=derived)
    assert derived.asked == []


def test_no_changed_field_opens_though_its_check_sum_is_right():
    """A23: every byte of the slots and of the sealed body, for every secret; who edits the file repairs the check
    sum, and then the sealing decides."""
    outcomes = set()
    for place in range(9, len(FILE) - CHECK_BYTES):
        forged = bytearray(FILE[:-CHECK_BYTES])
        forged[place] ^= 1
        for secret in ("right", KEY, RECOVERY):
            with pytest.raises((WrongKey, DamagedSlot)) as caught:
                open_slots(secret, checked(bytes(forged)), limits=LOW)
            outcomes.add(type(caught.value))
    assert outcomes == {WrongKey, DamagedSlot}


def test_the_control_for_changed_fields(monkeypatch):
    """Were the slots not in the context of the body, a slot of one file could be put into another (A23)."""
    opened = open_slots(KEY, FILE, limits=LOW)
    stranger = new_slot(SlotKey(bytes(32)), opened.key, "keyring")
    front = bytearray(FILE[:FRONT])
    front[HEADER.size + SLOT.size : HEADER.size + 2 * SLOT.size] = stranger.packed()
    spliced = checked(bytes(front) + FILE[FRONT:-CHECK_BYTES])
    with pytest.raises(DamagedSlot, match="was changed"):
        open_slots(SlotKey(bytes(32)), spliced, limits=LOW)
    monkeypatch.setattr(slots, "_body_context", lambda front: context(Kind.SLOT, 0, NO_VAULT, b"body"))
    whole = slot_file(slots_of(FILE, limits=LOW), opened.key, b"the body")
    assert open_slots(SlotKey(bytes(32)), checked(bytes(front) + whole[FRONT:-CHECK_BYTES]), limits=LOW).body


def test_parts_of_other_files_do_not_open():
    """A01: slots and bodies of two files in every combination."""
    other = new_file(b"other", {"passphrase": "right", "keyring": KEY, "recovery": RECOVERY}, cost=LEAST, limits=LOW)
    files = (FILE, other)
    for front in files:
        for body in files:
            data = checked(front[:FRONT] + body[FRONT:-CHECK_BYTES])
            for secret in ("right", KEY, RECOVERY):
                if front is body:
                    assert open_slots(secret, data, limits=LOW).body in (b"the body", b"other")
                else:
                    with pytest.raises(DamagedSlot, match="was changed"):
                        open_slots(secret, data, limits=LOW)


def test_a_slot_of_one_kind_is_none_of_another():
    """A02: with the kind changed and the body sealed anew, the wrapped key still does not open."""
    opened = open_slots(KEY, FILE, limits=LOW)
    key_slot = slots_of(FILE, limits=LOW)[1]
    for kind, secret in ((slots.SlotKind.RECOVERY, RecoveryKey(KEY.secret)), (slots.SlotKind.KEY, KEY)):
        data = slot_file([replace(key_slot, kind=kind)], opened.key, b"x")
        if kind is slots.SlotKind.KEY:
            assert open_slots(secret, data).body == b"x"
        else:
            with pytest.raises(WrongKey):
                open_slots(secret, data)
    assert expand(KEY.secret, b"MegaFS/1 slot") == key_slot.wrapping_key(KEY, argon2id)


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
    memory_kib, iterations, lanes = parameters
    for data in (asking(*parameters), former_slot(*parameters)):
        for secret in ("right", KEY, RECOVERY):
            with pytest.raises(DamagedSlot, match="out of bounds"):
                open_slots(secret, data, derive=derived)
        with pytest.raises(DamagedSlot, match="out of bounds"):
            slots_of(data) or open_slots("right", data, derive=derived)
    cost = Cost(memory_kib=memory_kib, iterations=iterations, lanes=lanes)
    with pytest.raises(Usage):
        new_file(b"", {"a": "right"}, cost=cost, derive=derived)
    assert derived.asked == []


def test_the_control_for_the_bounds():
    """Within bounds it does derive; with the floor taken away it would for cheap ones too (A09)."""
    derived = Recorded()
    with pytest.raises(WrongKey):
        open_slots("right", asking(64 * 1024, 3, 1), derive=derived)
    with pytest.raises(WrongKey):
        open_slots("right", asking(16, 1, 1), limits=LOW, derive=derived)
    assert len(derived.asked) == 2
    with pytest.raises(DamagedSlot):
        open_slots("right", FILE, derive=derived)
    assert len(derived.asked) == 2


def test_changed_parameters_within_bounds_do_not_open():
    for parameters in [(16, 1, 1), (8, 2, 1), (16, 1, 2)]:
        for data in (asking(*parameters), former_slot(*parameters)):
            with pytest.raises(WrongKey):
                open_slots("right", data, limits=LOW)


@pytest.mark.parametrize("magic", [b"MegaFSs0", b"MegaFSs3", b"LUKS\xba\xbe\0\1", bytes(8)])
def test_other_versions_are_refused_before_deriving(magic):
    derived = Recorded()
    for data in (checked(magic + FILE[8:-CHECK_BYTES]), former_slot(magic=magic)):
        with pytest.raises(DamagedSlot, match="format"):
            open_slots("right", data, limits=LOW, derive=derived)
    assert derived.asked == []


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_the_two(data):
    fronts = (b"", FILE[:8], FILE[:9], FILE[:FRONT], b"MegaFSs1")
    for file in (data, *(checked(front + data) for front in fronts)):
        for secret in ("right", KEY):
            with pytest.raises((DamagedSlot, WrongKey)):
                open_slots(secret, file, limits=LOW)


def test_too_little_memory_is_said():
    with pytest.raises(MegaFSError, match="no memory"):
        open_slots("right", FILE, limits=LOW, derive=starved)


def test_salts_are_fresh():
    first, second = (new_file(b"same", {"a": "same"}, cost=LEAST, limits=LOW) for _ in range(2))
    assert slots_of(first, limits=LOW)[0].salt != slots_of(second, limits=LOW)[0].salt
    assert open_slots("same", first, limits=LOW).key != open_slots("same", second, limits=LOW).key
