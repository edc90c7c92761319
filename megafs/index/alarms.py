"""Statements on witness and alarm: what hosts showed last, and what the owner has to be told. Rows only; local."""

from dataclasses import dataclass

import apsw

from megafs.model import Alarm, AlarmKind, HostId

COLUMNS = "n, kind, host, device, known_seq, known_hash, shown_seq, shown_hash, since_s, acknowledged_s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """The newest commit of a device that a host showed or confirmed."""

    host: HostId
    device: int
    seq: int
    hash: bytes
    silent_since_s: int = 0  # first asked in vain; 0: it showed it the last time


class Alarms:
    """Witnesses and alarms as rows; durable with the next commit."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute

    def witnesses(self) -> list[Witness]:
        rows = self._connection.execute(
            "SELECT host, device, seq, hash, silent_since_s FROM witness ORDER BY host, device"
        )
        return [
            Witness(host=HostId(host), device=device, seq=seq, hash=digest, silent_since_s=since)
            for host, device, seq, digest, since in rows
        ]

    def note(self, witness: Witness) -> None:
        """The host has this commit, or stays silent about it. Older than what is known already: nothing changes."""
        self._execute(
            "INSERT INTO witness VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (host, device) DO UPDATE SET "
            "seq = ?3, hash = ?4, silent_since_s = ?5 WHERE seq <= ?3",
            (witness.host, witness.device, witness.seq, witness.hash, witness.silent_since_s),
        )

    def newest_witness(self, device: int) -> Witness | None:
        """Of all hosts, the one with the newest commit of this device."""
        mine = [witness for witness in self.witnesses() if witness.device == device]
        return max(mine, key=lambda witness: witness.seq, default=None)

    def tell(self, alarm: Alarm) -> bool:
        """Keep an alarm; whether it is news. The same evidence again is not, also once it was acknowledged."""
        row = self._execute(
            "SELECT shown_seq, shown_hash FROM alarm WHERE kind = ? AND host = ? AND device = ?",
            (alarm.kind.value, alarm.host, alarm.device),
        ).get
        if row is not None and row == (alarm.shown_seq, alarm.shown_hash):
            return False
        self._execute(
            f"INSERT OR REPLACE INTO alarm ({COLUMNS}) VALUES ((SELECT coalesce(max(n), 0) + 1 FROM alarm),"
            " ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                alarm.kind.value,
                alarm.host,
                alarm.device,
                alarm.known_seq,
                alarm.known_hash,
                alarm.shown_seq,
                alarm.shown_hash,
                alarm.since_s,
            ),
        )
        return True

    def all(self) -> list[Alarm]:
        """Oldest first, the acknowledged ones too."""
        rows = self._connection.execute(f"SELECT {COLUMNS} FROM alarm ORDER BY n")
        return [
            Alarm(
                n=row[0],
                kind=AlarmKind(row[1]),
                host=row[2],
                device=row[3],
                known_seq=row[4],
                known_hash=row[5],
                shown_seq=row[6],
                shown_hash=row[7],
                since_s=row[8],
                acknowledged_s=row[9],
            )
            for row in rows
        ]

    def acknowledge(self, n: int, now_s: int) -> bool:
        """The owner knows; whether there was such an alarm that was not acknowledged."""
        self._execute("UPDATE alarm SET acknowledged_s = ? WHERE n = ? AND acknowledged_s = 0", (now_s, n))
        return bool(self._connection.changes())
