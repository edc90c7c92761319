"""From a passphrase to a key: Argon2id, at a cost that is bounded before anything is derived.

The cost comes from a file that an attacker may have written: below a floor a guess would be cheap, above a ceiling the
machine would be brought down. A new cost is what the machine's free memory allows between the two.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from megafs.errors import MegaFSError, Usage
from megafs.wiping import KEY_BYTES

SALT_BYTES = 16
PASSPHRASE_BYTES = 4096

MEMORY_FLOOR_KIB = 64 * 1024  # with three iterations, what RFC 9106 gives for machines with little memory
ITERATIONS_FLOOR = 3
MEMORY_CEILING_KIB = 4 * 1024 * 1024
ITERATIONS_CEILING = 64
LANES_CEILING = 16
USUAL_KIB = 256 * 1024  # of a new slot: a guess costs what a mount costs, about 0.3 s and 256 MiB
SHARE = 4  # of the free memory, at most: a mount must not push everything else out


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one guess takes."""

    memory_kib: int = USUAL_KIB
    iterations: int = ITERATIONS_FLOOR
    lanes: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What costs are accepted. Production never makes one; tests of other things lower the floor."""

    memory_floor_kib: int = MEMORY_FLOOR_KIB
    iterations_floor: int = ITERATIONS_FLOOR

    def accept(self, cost: Cost) -> bool:
        return (
            self.memory_floor_kib <= cost.memory_kib <= MEMORY_CEILING_KIB
            and self.iterations_floor <= cost.iterations <= ITERATIONS_CEILING
            and 1 <= cost.lanes <= LANES_CEILING
            and cost.memory_kib >= 8 * cost.lanes  # Argon2's own minimum
        )


LIMITS = Limits()
Derive = Callable[[bytes, Cost, bytes], bytes]  # passphrase, cost, salt to a key


def usual_cost(free_kib: int) -> Cost:
    """For a machine with so much free memory: the usual cost, or the greatest half, quarter, … of it that fits."""
    memory_kib = USUAL_KIB
    while memory_kib > MEMORY_FLOOR_KIB and memory_kib * SHARE > free_kib:
        memory_kib //= 2
    return Cost(memory_kib=memory_kib)


def argon2id(passphrase: bytes, cost: Cost, salt: bytes) -> bytes:
    """The key of a passphrase. Takes a good part of a second: call it in a thread."""
    argon2 = Argon2id(
        salt=salt, length=KEY_BYTES, iterations=cost.iterations, lanes=cost.lanes, memory_cost=cost.memory_kib
    )
    try:
        return argon2.derive(passphrase)
    except MemoryError:
        raise MegaFSError(f"Opening the key slot takes {cost.memory_kib >> 10} MiB of free memory.") from None


def passphrase_bytes(passphrase: str) -> bytes:
    """UTF-8 after composition (NFC), so that two keyboards that spell an umlaut differently agree. Raises Usage."""
    try:
        secret = unicodedata.normalize("NFC", passphrase).encode()
    except UnicodeEncodeError:
        raise Usage("the passphrase is not valid text") from None
    if not 0 < len(secret) <= PASSPHRASE_BYTES:
        raise Usage(f"a passphrase has 1 to {PASSPHRASE_BYTES} bytes")
    return secret
