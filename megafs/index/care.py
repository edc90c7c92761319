"""Statements on damaged, scrub and absent: how hosts keep what they were given, and which of them stay away.

Rows only; local to the device; durable with the next commit.
"""

from dataclasses import dataclass

import apsw

from megafs.model import HostId, PackNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbed:
    """What the scrub of one host has come to; counts since it joined."""

    due_s: float = 0.0  # 0: never looked at
    last_s: int = 0
    checked: int = 0
    bytes: int = 0
    bad: int = 0
    repaired: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A host that does not answer while others do."""

    since_s: int
    observed_s: float = 0.0
    written_off: bool = False


class Care:
    """Scrubs and absences as rows."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute

    def scrubbed(self, host: HostId) -> Scrubbed:
        row = self._execute(
            "SELECT due_s, last_s, checked, bytes, bad, repaired FROM scrub WHERE host = ?", (host,)
        ).get
        if row is None:
            return Scrubbed()
        due_s, last_s, checked, size, bad, repaired = row
        return Scrubbed(due_s=due_s, last_s=last_s, checked=checked, bytes=size, bad=bad, repaired=repaired)

    def set_due(self, host: HostId, due_s: float) -> None:
        """When the next range of the host is to be read."""
        self._execute(
            "INSERT INTO scrub VALUES (?1, ?2, 0, 0, 0, 0, 0) ON CONFLICT (host) DO UPDATE SET due_s = ?2",
            (host, due_s),
        )

    def count(self, host: HostId, *, now_s: int, checked: int = 0, size: int = 0) -> None:
        """Add what was looked at."""
        self._execute(
            "INSERT INTO scrub VALUES (?1, 0, ?2, ?3, ?4, 0, 0) ON CONFLICT (host) DO UPDATE SET last_s = ?2, "
            "checked = checked + ?3, bytes = bytes + ?4",
            (host, now_s, checked, size),
        )

    def count_bad(self, host: HostId) -> None:
        """One more object is missing or wrong."""
        self._execute(
            "INSERT INTO scrub VALUES (?1, 0, 0, 0, 0, 1, 0) ON CONFLICT (host) DO UPDATE SET bad = bad + 1", (host,)
        )

    def count_repaired(self, host: HostId) -> None:
        """One more of what was bad is whole again."""
        self._execute(
            "INSERT INTO scrub VALUES (?1, 0, 0, 0, 0, 0, 1) ON CONFLICT (host) DO UPDATE SET repaired = repaired + 1",
            (host,),
        )

    def note_damaged(self, pack: PackNumber, host: HostId, since_s: int) -> None:
        """The host's copy is missing or wrong: counted as bad once, whoever found it."""
        if not self.is_damaged(pack, host):
            self._execute("INSERT INTO damaged VALUES (?, ?, ?)", (pack, host, since_s))
            self.count_bad(host)

    def damaged(self) -> set[tuple[PackNumber, HostId]]:
        """(pack, host) of copies that are to be made anew."""
        return {(PackNumber(pack), HostId(host)) for pack, host in self._execute("SELECT pack, host FROM damaged")}

    def is_damaged(self, pack: PackNumber, host: HostId) -> bool:
        return self._execute("SELECT 1 FROM damaged WHERE pack = ? AND host = ?", (pack, host)).get is not None

    def forget_damaged(self, pack: PackNumber, host: HostId) -> None:
        self._execute("DELETE FROM damaged WHERE pack = ? AND host = ?", (pack, host))

    def absences(self) -> dict[HostId, Absence]:
        """Every host that stays away."""
        rows = self._connection.execute("SELECT host, since_s, observed_s, written_off FROM absent")
        return {
            HostId(host): Absence(since_s=since_s, observed_s=observed_s, written_off=bool(written_off))
            for host, since_s, observed_s, written_off in rows
        }

    def set_absence(self, host: HostId, absence: Absence) -> None:
        self._execute(
            "INSERT OR REPLACE INTO absent VALUES (?, ?, ?, ?)",
            (host, absence.since_s, absence.observed_s, int(absence.written_off)),
        )

    def end_absence(self, host: HostId) -> None:
        """It answers again."""
        self._execute("DELETE FROM absent WHERE host = ?", (host,))

    def written_off(self) -> set[HostId]:
        """Hosts whose copies do not count."""
        return {HostId(row[0]) for row in self._connection.execute("SELECT host FROM absent WHERE written_off = 1")}
