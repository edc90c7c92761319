"""How large objects are made, so that their sizes tell hosts little. Pure.

| | fine (the default) | coarse |
|---|---|---|
| a pack | Padmé, 4 KiB at least: at most 12 % more | a power of two, 1 MiB at least: up to twice as much |
| a commit, a part of a checkpoint | Padmé, 4 KiB at least | a power of two, 64 KiB at least |

Coarse goes with no compression at all: where nothing shrinks, no size depends on what stands beside what.
"""

from megafs.config import KIB, MIB, PACK_BYTES

PACK_LEAST = {False: 4 * KIB, True: MIB}  # by "coarse"; one small file more or less must not show
OBJECT_LEAST = {False: 4 * KIB, True: 64 * KIB}


def padme(size: int) -> int:
    """Round up so that only O(log log size) bits of the size show (Nikitin et al., PETS 2019)."""
    assert size > 1
    exponent = size.bit_length() - 1
    free = (1 << max(0, exponent - exponent.bit_length())) - 1
    return (size + free) & ~free


def pack_bytes(needed: int, *, coarse: bool) -> int:
    """How long a pack is made that needs so much and is not full."""
    return min(PACK_BYTES, _shown(max(needed, PACK_LEAST[coarse]), coarse=coarse))


def object_bytes(needed: int, *, coarse: bool) -> int:
    """How long the body of a commit or of a part is made."""
    return _shown(max(needed, OBJECT_LEAST[coarse]), coarse=coarse)


def _shown(size: int, *, coarse: bool) -> int:
    return 1 << (size - 1).bit_length() if coarse else padme(size)
