"""How far to read ahead of a file that is read from front to back. Pure: positions in, the range to bring out.

Never more lies ahead than was read in one go: what is brought doubles while the reading goes on, and a few kilobytes
from the head of a large file bring nothing but their own chunk. The next range is due when half of the last is used.
"""

from collections import OrderedDict
from dataclasses import dataclass

from megafs.config import MIB
from megafs.model import Ino

NEAR_BYTES = 2 * MIB  # from the local disk: the kernel's next request and the one after it
DISORDER_BYTES = MIB  # the kernel sends several requests at once, and they arrive in any order
REMEMBERED = 10_000  # files


@dataclass(slots=True)
class Streak:
    """One reading from front to back, so far; owner: ReadAhead."""

    first: int
    stop: int
    ahead: int  # brought up to here
    reach: int = NEAR_BYTES


class ReadAhead:
    """Owner of the streaks, the least recently read out first."""

    def __init__(self) -> None:
        self._streaks: OrderedDict[Ino, Streak] = OrderedDict()

    def note(self, ino: Ino, start: int, stop: int) -> tuple[int, int] | None:
        """This range is being read: the range to bring meanwhile, if any."""
        streak = self._streaks.get(ino)
        if streak is None or abs(start - streak.stop) > DISORDER_BYTES or start < streak.first:
            self._streaks[ino] = Streak(start, stop, stop)
            self._streaks.move_to_end(ino)
            if len(self._streaks) > REMEMBERED:
                self._streaks.popitem(last=False)
            return None
        streak.stop = max(streak.stop, stop)
        window = min(streak.reach, streak.stop - streak.first)
        if streak.stop + window // 2 < streak.ahead:
            return None
        low, high = max(streak.ahead, streak.stop), streak.stop + window
        streak.ahead = max(streak.ahead, high)
        return (low, high) if low < high else None

    def set_reach(self, ino: Ino, reach: int) -> None:
        """From where this file's bytes come now it is worth to have so many ahead."""
        streak = self._streaks.get(ino)
        if streak is not None:
            streak.reach = max(NEAR_BYTES, reach)

    def forget(self, ino: Ino) -> None:
        """The file is gone."""
        self._streaks.pop(ino, None)
