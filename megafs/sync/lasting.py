"""The clock that retention goes by: nobody can set it, so no wrong date makes hosts delete early.

While a vault is mounted it goes as CLOCK_BOOTTIME does, which counts nights of the machine too. How long a vault was
not mounted only the wall clock says; of that a day at most is believed each time, so a date that is wrong by years
costs a day of the retention, and one that goes backwards costs nothing. It may lag behind the wall clock for ever: that
keeps what was deleted for longer. It never begins before a stamp that it, or the former device's, has given.
"""

from collections.abc import Callable

from megafs.index.database import Database
from megafs.index.ledger import Ledger
from megafs.index.packs import Packs

STATE = "lasting"  # key of the state table: "lasting wall", seconds
AWAY_S = 86_400.0  # what is believed of the time between two mounts
KEEP_EVERY_S = 3600.0


class Lasting:
    """Owner of the anchor; ``()`` answers in seconds, about those of the wall clock."""

    def __init__(self, database: Database, wall: Callable[[], float], since_boot: Callable[[], float]) -> None:
        self._database, self._wall, self._since_boot = database, wall, since_boot
        self._boot_s = since_boot()
        self._began_s = max(self._stamped(), self._after(database.state(STATE)))
        self._kept_s = self._began_s
        self._store()

    def _stamped(self) -> float:
        """The newest stamp of this clock, or of the former device's."""
        made = [kept.made_s for kept in Ledger(self._database.connection).kept_checkpoints()]
        return float(max([Packs(self._database).newest_death(), *made]))

    def _after(self, stored: bytes | None) -> float:
        wall_s = self._wall()
        if stored is not None:
            lasting_s, at_s = map(float, stored.split())
            return lasting_s + min(max(wall_s - at_s, 0.0), AWAY_S)
        newest_s = max([self._stamped(), *(head.seen_s for head in Ledger(self._database.connection).heads())])
        return min(wall_s, newest_s + AWAY_S) if newest_s else wall_s

    def __call__(self) -> float:
        return self._began_s + self._since_boot() - self._boot_s

    def keep(self) -> None:
        """Now and then, so that the time of this mount counts after the next start."""
        if self() - self._kept_s >= KEEP_EVERY_S:
            self._store()

    def _store(self) -> None:
        self._kept_s = self()
        self._database.set_state(STATE, f"{self._kept_s:.0f} {self._wall():.0f}".encode())
