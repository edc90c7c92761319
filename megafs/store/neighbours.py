"""Small files that are read one after the other: what lies behind a chunk in its pack comes with it. No requests here.

Packs hold small files in the order in which they were written, which is mostly the order in which they are read. A
chunk that has to be fetched right behind the last one fetched of its pack brings as much again as was brought so far,
up to what the line carries in a moment; one that lies elsewhere, or is large, comes alone. So never more than as much
again as was asked for is brought in vain.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megafs.config import KIB
from megafs.model import ChunkPlace, PackNumber

SMALL_BYTES = 128 * KIB  # of a sealed chunk; larger ones are of large files, whose own read-ahead knows better
NEAR_BYTES = 64 * KIB  # what may lie between two files that are read one after the other, at least
STREAKS = 4  # packs


@dataclass(slots=True, kw_only=True)
class Streak:
    """What was brought of one pack, from front to back; owner: Neighbours."""

    stop: int
    brought: int
    places: Sequence[ChunkPlace] | None = None  # of the whole pack, in order; None: not needed yet


class Neighbours:
    """Owner of the streaks, the least recently used out first."""

    def __init__(self, places: Callable[[PackNumber], Sequence[ChunkPlace]]) -> None:
        """``places``: the chunks of a pack in the order in which they lie there."""
        self._places = places
        self._streaks: OrderedDict[PackNumber, Streak] = OrderedDict()
        self._carried = 0  # brought up to the end of a pack: the next one goes on from there

    def of(self, place: ChunkPlace, reach: int) -> list[ChunkPlace]:
        """This chunk, and what is worth to be fetched with it, at most ``reach`` bytes of it."""
        if place.sealed_bytes > SMALL_BYTES:
            return [place]
        streak = self._streaks.get(place.pack)
        if streak is None and self._carried and place.offset < NEAR_BYTES:
            streak = self._streaks[place.pack] = Streak(stop=0, brought=self._carried)
        self._carried = 0
        if streak is None or not 0 <= place.offset - streak.stop <= max(NEAR_BYTES, streak.brought):
            streak = self._streaks[place.pack] = Streak(stop=place.offset, brought=0)
        self._streaks.move_to_end(place.pack)
        if len(self._streaks) > STREAKS:
            self._streaks.popitem(last=False)
        found = self._behind(streak, place, min(streak.brought, reach)) if streak.brought else [place]
        streak.stop = found[-1].offset + found[-1].sealed_bytes
        streak.brought += streak.stop - place.offset
        if streak.places and streak.stop >= streak.places[-1].offset:
            self._carried = streak.brought
            del self._streaks[place.pack]
        return found

    def _behind(self, streak: Streak, place: ChunkPlace, most: int) -> list[ChunkPlace]:
        if streak.places is None:
            streak.places = self._places(place.pack)
        found = [place]
        for each in streak.places:
            if each.offset <= place.offset:
                continue
            if each.sealed_bytes > SMALL_BYTES or each.offset + each.sealed_bytes - place.offset > most:
                break
            found.append(each)
        return found
