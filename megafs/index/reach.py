"""Statements on outbox and upload: how far the hosts have what this device committed."""

import apsw

from megafs.model import Kind, PackNumber


class Reaches:
    """What is on fewer hosts than somebody wants."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute

    def first_waiting(self) -> int | None:
        """The first outbox row that is in no commit object; None: all are."""
        found = self._execute("SELECT min(n) FROM outbox WHERE seq = 0").get
        return None if found is None else int(found)

    def first_of(self, seq: int) -> int | None:
        """The first outbox row in this commit object or a later one, as far as rows are kept."""
        found = self._execute("SELECT min(n) FROM outbox WHERE seq >= ?", (seq,)).get
        return None if found is None else int(found)

    def steps_on_fewer(self, hosts: int) -> list[bytes]:
        """Idents of the commits and heads that fewer hosts have acknowledged."""
        rows = self._connection.execute(
            "SELECT ident FROM upload WHERE kind IN (?, ?) AND "
            "(SELECT count(*) FROM acknowledged WHERE acknowledged.n = upload.n) < ?",
            (Kind.COMMIT, Kind.HEAD, hosts),
        )
        return [row[0] for row in rows]

    def packs_on_fewer(self, hosts: int, after: PackNumber, last: PackNumber) -> int:
        """How many packs with a file here, above ``after`` and up to ``last``, lie on fewer hosts."""
        query = (
            "SELECT count(*) FROM local_pack l WHERE number > ? AND number <= ? "
            "AND (SELECT count(DISTINCT host) FROM copy WHERE copy.pack = l.number) < ?"
        )
        return int(self._execute(query, (after, last, hosts)).get)
