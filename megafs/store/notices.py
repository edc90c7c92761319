"""What happens again and again: one line for each host and cause in a while, with how often it was meanwhile."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

TELL_EVERY_S = 60.0
CAUSES_MOST = 256  # kept in mind; more are told as if they were new


@dataclass(slots=True)
class Cause:
    """Owner: Notices."""

    told_s: float
    silent: int = 0  # times since


class Notices:
    """Owner of when each cause was told last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._causes: dict[Hashable, Cause] = {}

    def tell(self, cause: Hashable, log: Callable[[str], None], sentence: str) -> None:
        """Log the sentence, unless this cause was told within the last minute; then the next one says how often."""
        known, now_s = self._causes.get(cause), self._clock()
        if known is not None and now_s < known.told_s + TELL_EVERY_S:
            known.silent += 1
            return
        if len(self._causes) >= CAUSES_MOST:
            self._causes.clear()
        self._causes[cause] = Cause(now_s)
        log(sentence + (f" (and {known.silent} more like this since the last line)" if known and known.silent else ""))
