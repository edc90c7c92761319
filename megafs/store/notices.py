"""What happens again and again: one line for each host and cause in a while, with how often it was meanwhile."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import trio

TELL_EVERY_S = 60.0
CAUSES_MOST = 256  # kept in mind; more are told as if they were new


@dataclass(slots=True)
class Cause:
    """Owner: Notices. ``sentence`` is the last one, and how to log it."""

    told_s: float
    log: Callable[[str], None]
    sentence: str
    silent: int = 0  # times since


class Notices:
    """Owner of when each cause was told last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._causes: dict[Hashable, Cause] = {}
        self._owing = trio.Event()  # something is still to be told

    def tell(self, cause: Hashable, log: Callable[[str], None], sentence: str) -> None:
        """Log the sentence, unless this cause was told within the last minute; then the next line says how often."""
        known, now_s = self._causes.get(cause), self._clock()
        if known is not None and now_s < known.told_s + TELL_EVERY_S:
            known.silent, known.log, known.sentence = known.silent + 1, log, sentence
            self._owing.set()
            return
        if len(self._causes) >= CAUSES_MOST:
            self._tell_all()
            self._causes.clear()
        self._causes[cause] = Cause(now_s, log, sentence)
        log(sentence + _more(known.silent if known else 0))

    async def run(self) -> None:
        """Until cancelled: the last ones of a burst are told as well, though none follows them. Wakes for nothing
        else."""
        while True:
            await self._owing.wait()
            await trio.sleep(TELL_EVERY_S)
            self._tell_all()
            if not any(cause.silent for cause in self._causes.values()):
                self._owing = trio.Event()

    def _tell_all(self) -> None:
        """The last sentence of each cause that was silent, if it is time."""
        now_s = self._clock()
        for cause in self._causes.values():
            if cause.silent and now_s >= cause.told_s + TELL_EVERY_S:
                cause.log(cause.sentence + _more(cause.silent - 1))
                cause.told_s, cause.silent = now_s, 0


def _more(count: int) -> str:
    return f" (and {count} more like this since the last line)" if count else ""
