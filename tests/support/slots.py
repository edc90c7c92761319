"""Key slots that cost tests less than owners."""

from pathlib import Path

from megafs.crypto.passphrase import MEMORY_FLOOR_KIB, Cost
from megafs.crypto.slot import new_file, new_slot, open_slots, slots_of, with_slots

LEAST = Cost(memory_kib=MEMORY_FLOOR_KIB)


def lighten(path: Path, passphrase: str) -> None:
    """Make its passphrase slot anew with the least memory that is accepted: each mount costs a fifth of the key
    derivation. Worth it where many mounts follow."""
    data = path.read_bytes()
    opened = open_slots(passphrase, data)
    light = new_slot(passphrase, opened.key, opened.label, cost=LEAST)
    path.write_bytes(with_slots(data, opened, [light if s.label == light.label else s for s in slots_of(data)]))


def light_file(passphrase: str, body: bytes) -> bytes:
    """A slot file with this passphrase alone."""
    return new_file(body, {"passphrase": passphrase}, cost=LEAST)


def opened_body(passphrase: str, path: Path) -> bytes:
    """What the slot file at ``path`` protects."""
    return open_slots(passphrase, path.read_bytes()).body
