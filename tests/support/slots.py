"""Key slots that cost tests less than owners."""

from pathlib import Path

from megafs.crypto.slot import MEMORY_FLOOR_KIB, make_slot, open_slot


def lighten(path: Path, passphrase: str) -> None:
    """Seal the slot anew with the least memory that is accepted: each mount costs a fifth of the key derivation. Worth
    it from three mounts on."""
    path.write_bytes(make_slot(passphrase, open_slot(passphrase, path.read_bytes()), memory_kib=MEMORY_FLOOR_KIB))
