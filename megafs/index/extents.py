"""Statements on extent, chunk, candidate and doomed: which bytes of a file stand in which chunk.

Trimming an extent that a write covers happens here row by row, with the same rules as files.ranges (which cannot be
imported from this layer); the state machine in tests/index compares the two. Extents that lost a chunk leave it in
``candidate``; whether it is dead, sync.collect asks later.
"""

from collections.abc import Iterable

from megafs.config import ROWS_PER_REQUEST
from megafs.index.database import Database
from megafs.model import ChunkId, ChunkPlace, Ino

Row = tuple[int, int, ChunkId, int]  # start, stop, chunk, skip
PLACE = "id, pack, offset, sealed, plain, codec, digest"

LARGEST_BYTES = (1 << 63) - 1  # of a file, and of SQLite's integers


class Extents:
    """The content map as rows."""

    def __init__(self, database: Database, *, rows_per_request: int = ROWS_PER_REQUEST) -> None:
        self._most = rows_per_request
        self._new_id = database.new_id
        self._execute = database.connection.cursor().execute
        self._connection = database.connection
        self._doomed: dict[Ino, list[tuple[int, int]]] = {}  # ino -> (start, before); mirrors the table, seldom filled
        self.refresh()

    def refresh(self) -> None:
        """Read the doomed rows again; after the table was changed by other means (recovery)."""
        self._doomed.clear()
        for ino, start, before in self._connection.execute("SELECT ino, start, before FROM doomed"):
            self._doomed.setdefault(Ino(ino), []).append((start, before))

    def covering(self, ino: Ino, start: int, stop: int) -> list[Row]:
        """The extents that share a byte with the range, in order, uncut. Who looks ahead at the end of the largest file
        may ask for more than there can be."""
        rows = self._connection.execute(
            "SELECT start, stop, chunk, skip, id FROM extent WHERE ino = ?1 AND start < ?3 AND start >= "
            "coalesce((SELECT max(start) FROM extent WHERE ino = ?1 AND start <= ?2), 0) AND stop > ?2 ORDER BY start",
            (ino, start, min(stop, LARGEST_BYTES)),
        )
        if ino not in self._doomed:
            return [row[:4] for row in rows]
        return [row[:4] for row in rows if not self._is_doomed(ino, row[0], row[4])]

    def _is_doomed(self, ino: Ino, start: int, number: int) -> bool:
        return any(start >= low and number <= before for low, before in self._doomed.get(ino, ()))

    def after(self, ino: Ino, start: int) -> int | None:
        """Where the next extent at or behind ``start`` begins, or None."""
        row = self._execute(
            "SELECT start FROM extent WHERE ino = ? AND start >= ? ORDER BY start LIMIT 1", (ino, start)
        ).get
        return int(row) if row is not None else None

    def write(self, ino: Ino, rows: Iterable[Row], *, fresh: bool = False) -> int:
        """Put these extents in place of what they cover (``fresh``: there is nothing). Returns bytes added to
        ``stored``."""
        added = 0
        for start, stop, chunk, skip in rows:
            if not fresh:
                added -= self.clear(ino, start, stop)
            self._execute(
                "INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?)", (self._new_id(), ino, start, stop, chunk, skip)
            )
            added += stop - start
        return added

    def clear(self, ino: Ino, start: int, stop: int) -> int:
        """Make a hole of the range. Returns the bytes that are no longer stored. A doomed extent goes as a whole: its
        tail would become a row of its own, with a new id, and live again."""
        found = list(
            self._connection.execute(
                "SELECT id, start, stop, chunk, skip FROM extent WHERE ino = ?1 AND start < ?3 AND start >= "
                "coalesce((SELECT max(start) FROM extent WHERE ino = ?1 AND start <= ?2), 0) AND stop > ?2",
                (ino, start, stop),
            )
        )
        covered = 0
        for number, low, high, chunk, skip in found:
            if ino in self._doomed and self._is_doomed(ino, low, number):
                covered += self._drop([(number, high - low, chunk)])
                continue
            covered += min(high, stop) - max(low, start)
            if low < start:
                self._execute("UPDATE extent SET stop = ? WHERE id = ?", (start, number))
                if high > stop:  # split: the tail becomes a row of its own
                    tail = (self._new_id(), ino, stop, high, chunk, skip + stop - low)
                    self._execute("INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?)", tail)
            elif high > stop:
                self._execute("UPDATE extent SET start = ?, skip = ? WHERE id = ?", (stop, skip + stop - low, number))
            else:
                self._execute("DELETE FROM extent WHERE id = ?", (number,))
                self.suspect(chunk)
        return covered

    def truncate(self, ino: Ino, size: int) -> int:
        """Drop what lies at or beyond ``size``; what is too much for one request is marked doomed. Returns the bytes
        dropped at once (the collector subtracts the rest from ``stored`` as it goes)."""
        dropped = self._cut(ino, size) if size else 0  # nothing begins before 0
        taken = self.take(ino, size, self._most)
        if taken is not None:
            return dropped + taken
        before = self._new_id()
        self._execute("INSERT INTO doomed VALUES (?, ?, ?, ?)", (before, ino, size, before))
        self._doomed.setdefault(ino, []).append((size, before))
        return dropped

    def _cut(self, ino: Ino, size: int) -> int:
        """End the extent that reaches beyond ``size``, if one begins before it, there. Returns the bytes dropped."""
        last = self._execute(
            "SELECT id, stop FROM extent WHERE ino = ? AND start < ? ORDER BY start DESC LIMIT 1", (ino, size)
        ).get
        if last is None or last[1] <= size:
            return 0
        self._execute("UPDATE extent SET stop = ? WHERE id = ?", (size, last[0]))
        return int(last[1]) - size

    def take(self, ino: Ino, start: int, limit: int) -> int | None:
        """Delete all extents from ``start`` on if they are at most ``limit``; returns their bytes, or None if more."""
        rows = list(
            self._connection.execute(
                "SELECT id, stop - start, chunk FROM extent WHERE ino = ? AND start >= ? LIMIT ?",
                (ino, start, limit + 1),
            )
        )
        if len(rows) > limit:
            return None
        return self._drop(rows)

    def _drop(self, rows: list[tuple[int, int, ChunkId]]) -> int:
        for number, _, chunk in rows:
            self._execute("DELETE FROM extent WHERE id = ?", (number,))
            self.suspect(chunk)
        return sum(row[1] for row in rows)

    def reap(self, limit: int) -> tuple[Ino, int] | None:
        """Remove up to ``limit`` doomed extents of one file. Returns (file, bytes), or None when nothing is doomed."""
        row = self._execute("SELECT id, ino, start, before FROM doomed LIMIT 1").get
        if row is None:
            return None
        mark, ino, start, before = row
        rows = list(
            self._connection.execute(
                "SELECT id, stop - start, chunk FROM extent WHERE ino = ? AND start >= ? AND id <= ? LIMIT ?",
                (ino, start, before, limit),
            )
        )
        freed = self._drop(rows)
        if len(rows) < limit:
            self._execute("DELETE FROM doomed WHERE id = ?", (mark,))
            self.refresh()
        return Ino(ino), freed

    def suspect(self, chunk: ChunkId) -> None:
        """This chunk lost an extent: the collector has to look whether any is left."""
        self._execute("INSERT OR IGNORE INTO candidate VALUES (?)", (chunk,))

    def suspect_unnamed(self) -> None:
        """After rows came from hosts: every chunk without an extent. Whoever removed the last one knew, but may not
        have told that the chunk is dead."""
        self._execute(
            "INSERT OR IGNORE INTO candidate SELECT id FROM chunk WHERE NOT EXISTS "
            "(SELECT 1 FROM extent WHERE extent.chunk = chunk.id)"
        )

    def suspects(self, limit: int) -> list[tuple[ChunkId, ChunkPlace | None]]:
        """Chunks to look at, taken off the list by ``clear_suspicion`` or ``delete_chunk``, with where they lie,
        or None for one that an extent names. (Counts nothing: references are derived, never stored.)"""
        rows = self._connection.execute(
            f"SELECT s.chunk, {PLACE} FROM candidate s LEFT JOIN chunk c ON c.id = s.chunk "
            "AND NOT EXISTS (SELECT 1 FROM extent WHERE extent.chunk = s.chunk) LIMIT ?",
            (limit,),
        )
        return [(row[0], None if row[1] is None else ChunkPlace._make(row[1:])) for row in rows]

    def clear_suspicion(self, chunk: ChunkId) -> None:
        self._execute("DELETE FROM candidate WHERE chunk = ?", (chunk,))

    def delete_chunk(self, chunk: ChunkId) -> None:
        """The chunk is dead: nothing names it any more."""
        self._execute("DELETE FROM chunk WHERE id = ?", (chunk,))
        self.clear_suspicion(chunk)

    def add_chunk(self, place: ChunkPlace) -> None:
        self._execute("INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?)", place)

    def move_chunk(self, place: ChunkPlace) -> None:
        """After compaction: the same plaintext in another pack, byte for byte as it was or sealed anew."""
        self._execute(
            "UPDATE chunk SET pack = ?2, offset = ?3, digest = ?4 WHERE id = ?1",
            (place.chunk, place.pack, place.offset, place.digest),
        )

    def place(self, chunk: ChunkId) -> ChunkPlace | None:
        """Where a chunk lies, or None if it is dead."""
        row = self._execute(f"SELECT {PLACE} FROM chunk WHERE id = ?", (chunk,)).get
        return ChunkPlace._make(row) if row is not None else None
