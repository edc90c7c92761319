"""The slot: what this device needs to open the vault, sealed under a passphrase. It never leaves the device.

| slot | bytes | |
|---|---|---|
| 0 | 8 | ``MegaFSs1`` |
| 8 | 4 | Argon2id memory in KiB |
| 12 | 4 | iterations |
| 16 | 1 | lanes |
| 17 | 16 | salt |
| 33 | n | the body, sealed; the context holds bytes 0 to 33, so changed parameters do not open |
| 33 + n | 8 | the first 8 bytes of SHA-256 of everything before: tells a damaged file from a wrong passphrase |

Parameters come from a file that an attacker may have written: they are checked against a floor (a cheap guess) and a
ceiling (a machine brought down) before anything is derived.
"""

import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from os import urandom

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from megafs.crypto.seal import KEY_BYTES, NO_VAULT, Random, context, digest, open_sealed, same, seal
from megafs.errors import DamagedSlot, MegaFSError, Unauthentic, Usage, WrongKey
from megafs.model import Bytes, Kind

MAGIC = b"MegaFSs1"
HEADER = struct.Struct(">8sIIB16s")  # magic, memory in KiB, iterations, lanes, salt
assert HEADER.size == 33
SALT_BYTES = 16
CHECK_BYTES = 8
SLOT_BYTES = 1 << 20  # longer than any slot
PASSPHRASE_BYTES = 4096

MEMORY_FLOOR_KIB = 64 * 1024  # with three iterations, what RFC 9106 gives for machines with little memory
ITERATIONS_FLOOR = 3
MEMORY_CEILING_KIB = 4 * 1024 * 1024
ITERATIONS_CEILING = 64
LANES_CEILING = 16

MEMORY_KIB = 256 * 1024  # of a new slot: a guess costs what a mount costs, about 0.3 s and 256 MiB
ITERATIONS = 3
LANES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLimits:
    """What parameters are accepted. Production never makes one; tests of other things lower the floor."""

    memory_floor_kib: int = MEMORY_FLOOR_KIB
    iterations_floor: int = ITERATIONS_FLOOR

    def accept(self, memory_kib: int, iterations: int, lanes: int) -> bool:
        return (
            self.memory_floor_kib <= memory_kib <= MEMORY_CEILING_KIB
            and self.iterations_floor <= iterations <= ITERATIONS_CEILING
            and 1 <= lanes <= LANES_CEILING
            and memory_kib >= 8 * lanes  # Argon2's own minimum
        )


LIMITS = SlotLimits()

Derive = Callable[[bytes, bytes], bytes]  # passphrase and header to a key


def argon2id(passphrase: bytes, header: bytes) -> bytes:
    """The key of a slot with this header."""
    _, memory_kib, iterations, lanes, salt = HEADER.unpack(header)
    argon2 = Argon2id(salt=salt, length=KEY_BYTES, iterations=iterations, lanes=lanes, memory_cost=memory_kib)
    return argon2.derive(passphrase)


def make_slot(
    passphrase: str,
    body: Bytes,
    *,
    memory_kib: int = MEMORY_KIB,
    iterations: int = ITERATIONS,
    lanes: int = LANES,
    random: Random = urandom,
    limits: SlotLimits = LIMITS,
    derive: Derive = argon2id,
) -> bytes:
    """Seal ``body``. Takes a good part of a second: call it in a thread. Usage if no slot can be made of these."""
    secret = _passphrase_bytes(passphrase)
    if not limits.accept(memory_kib, iterations, lanes):
        raise Usage("these key derivation parameters are out of bounds")
    header = HEADER.pack(MAGIC, memory_kib, iterations, lanes, random(SALT_BYTES))
    sealed = seal(_derived(derive, secret, header), context(Kind.SLOT, 0, NO_VAULT, header), body)
    slot = header + sealed
    if len(slot) + CHECK_BYTES > SLOT_BYTES:
        raise Usage("too much for a key slot")
    return slot + digest(slot)[:CHECK_BYTES]


def open_slot(passphrase: str, slot: Bytes, *, limits: SlotLimits = LIMITS, derive: Derive = argon2id) -> bytes:
    """The body. DamagedSlot before anything is derived, WrongKey after. Call it in a thread."""
    slot = bytes(slot[: SLOT_BYTES + 1])
    header, sealed = slot[: HEADER.size], slot[HEADER.size : -CHECK_BYTES]
    if not HEADER.size + CHECK_BYTES < len(slot) <= SLOT_BYTES:
        raise DamagedSlot("The key slot is damaged: its length is wrong.")
    if not same(digest(slot[:-CHECK_BYTES])[:CHECK_BYTES], slot[-CHECK_BYTES:]):
        raise DamagedSlot("The key slot is damaged: its check sum is wrong.")
    magic, memory_kib, iterations, lanes, _ = HEADER.unpack(header)
    if magic != MAGIC:
        raise DamagedSlot("The key slot is not of a format that this version knows.")
    if not limits.accept(memory_kib, iterations, lanes):
        raise DamagedSlot("The key slot asks for key derivation parameters out of bounds.")
    try:
        secret = _passphrase_bytes(passphrase)
        return open_sealed(_derived(derive, secret, header), context(Kind.SLOT, 0, NO_VAULT, header), sealed)
    except (Usage, Unauthentic):
        raise WrongKey("The passphrase is wrong.") from None


def _passphrase_bytes(passphrase: str) -> bytes:
    """UTF-8 after composition (NFC), so that two keyboards that spell an umlaut differently agree."""
    try:
        secret = unicodedata.normalize("NFC", passphrase).encode()
    except UnicodeEncodeError:
        raise Usage("the passphrase is not valid text") from None
    if not 0 < len(secret) <= PASSPHRASE_BYTES:
        raise Usage(f"a passphrase has 1 to {PASSPHRASE_BYTES} bytes")
    return secret


def _derived(derive: Derive, passphrase: bytes, header: bytes) -> bytes:
    try:
        return derive(passphrase, header)
    except MemoryError:
        memory_kib = HEADER.unpack(header)[1]
        raise MegaFSError(f"Opening the key slot takes {memory_kib >> 10} MiB of free memory.") from None
