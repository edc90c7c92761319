"""Find the newest of a gapless sequence by asking "does this one exist?", and say which old ones such a search needs.

The search is fixed: double from the known one until a number is missing, then settle each lower bit, the highest first.
Asking only ever meets powers of two and numbers that share their leading bits with the newest one, so all other old
heads can be removed and a device that knows nothing still finds the newest one (``needed``).
"""

from collections.abc import Awaitable, Callable

SEQ_STOP = 1 << 48  # a host that says yes to everything is believed no further


async def newest(exists: Callable[[int], Awaitable[bool]], known: int = 0) -> int:
    """The greatest existing number, at least ``known``; 0 for none. ``known`` itself is not asked for."""
    if not known and not await exists(1):
        return 0
    low = max(known, 1)
    # Upwards from a known one: 1, 2, 4, … steps. From nothing: exactly the powers of two.
    step = 1
    while low + step < SEQ_STOP and await exists(low + step):
        low += step
        step = low if not known else step * 2
    step //= 2
    while step:
        if await exists(low + step):
            low += step
        step //= 2
    return low


def landmarks(covered: int) -> list[int]:
    """Old numbers that were needed while ``covered`` was the newest old one, but for powers of two."""
    return sorted({covered >> bits << bits for bits in range(covered.bit_length())} - {covered})


def needed(seq: int, covered: int) -> bool:
    """Whether the search from nothing may ask for ``seq`` once everything up to ``covered`` is old."""
    if seq >= covered or seq & (seq - 1) == 0:
        return True
    trailing = (seq & -seq).bit_length() - 1
    return covered >> trailing == seq >> trailing
