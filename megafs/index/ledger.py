"""Statements on the tables of shipping: outbox, upload, acknowledged, owed, head, host_head, part, dropped.

What is committed but not on the hosts, what is frozen and who has it, what is owed, what was seen. Rows only: what
to do with them is decided in sync/. Everything here is local to the device and becomes durable with the next commit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apsw

from megafs.index.packs import SHIPPED
from megafs.index.replication import Range
from megafs.model import HostId, Kind, PackNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """A committed changeset that is in no commit object yet."""

    n: int
    pack: PackNumber
    made_s: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A frozen object on its way to every host. An empty ``body`` is fetched from a host that has it."""

    n: int
    kind: Kind
    ident: bytes
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPart:
    """A checkpoint part as last sealed."""

    id: bytes
    range: Range
    digest: bytes
    bytes: int
    rows: int
    changeset_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCheckpoint:
    """A checkpoint of this device that is still on hosts."""

    upload: int
    device: int
    seq: int
    hash: bytes
    made_s: int
    complete: bool
    retired: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A copy that the policy wants and that its host has not acknowledged."""

    pack: PackNumber
    host: HostId
    shard: int
    since_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHead:
    """The newest commit known of a device."""

    device: int
    seq: int
    hash: bytes
    seen_s: int


class Ledger:
    """Shipping as rows."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute

    # outbox

    def waiting(self, synced_n: int, unshipped: PackNumber | None = None) -> list[OutboxRow]:
        """Rows not in a commit object and durable, oldest first, up to the first that names a pack at or above
        ``unshipped``."""
        rows = self._connection.execute(
            "SELECT n, pack, made_s, length(changeset) FROM outbox WHERE seq = 0 AND n <= ? ORDER BY n", (synced_n,)
        )
        found = []
        for n, pack, made_s, size in rows:
            if unshipped is not None and pack >= unshipped:
                break  # days of rows may follow while too few hosts answer
            found.append(OutboxRow(n=n, pack=PackNumber(pack), made_s=made_s, bytes=size))
        return found

    def count_waiting(self, last: int) -> int:
        """How many rows up to ``last`` are in no commit object."""
        return int(self._execute("SELECT count(*) FROM outbox WHERE seq = 0 AND n <= ?", (last,)).get)

    def newest_outbox(self) -> int:
        return int(self._execute("SELECT max(n) FROM outbox").get or 0)

    def changesets(self, first: int, last: int) -> Iterator[bytes]:
        """Changesets of outbox rows ``first`` to ``last``, both included; one at a time, all may be more than fits."""
        query = "SELECT changeset FROM outbox WHERE n BETWEEN ? AND ? ORDER BY n"
        return (row[0] for row in self._connection.execute(query, (first, last)))

    def mark_frozen(self, first: int, last: int, seq: int) -> None:
        self._execute("UPDATE outbox SET seq = ? WHERE n BETWEEN ? AND ?", (seq, first, last))

    def forget_outbox(self, last: int) -> None:
        """Rows up to ``last`` are in a checkpoint. The last one stays, so that numbers are never given out again."""
        self._execute("DELETE FROM outbox WHERE n < ? AND seq > 0", (last,))

    def newest_pack_logged(self) -> PackNumber:
        """The greatest pack number that a committed row may name; 0 for none."""
        return PackNumber(int(self._execute("SELECT pack FROM outbox ORDER BY n DESC LIMIT 1").get or 0))

    def packs_between(self, low: int, high: int) -> list[PackNumber]:
        """Numbers of packs above ``low``, up to ``high``."""
        rows = self._connection.execute(
            "SELECT number FROM pack WHERE number > ? AND number <= ? ORDER BY number", (low, high)
        )
        return [PackNumber(row[0]) for row in rows]

    def since(self, n: int) -> tuple[int, int]:
        """(commit objects, bytes of changesets) of outbox rows after ``n``; all that is in no object counts as one."""
        objects = self._execute("SELECT count(DISTINCT seq) FROM outbox WHERE n > ?", (n,)).get
        size = self._execute("SELECT coalesce(sum(length(changeset)), 0) FROM outbox WHERE n > ?", (n,)).get
        return int(objects), int(size)

    def packs_without_copy(self) -> list[int]:
        """Packs of which no copy row tells where they are."""
        query = "SELECT number FROM pack WHERE NOT EXISTS (SELECT 1 FROM copy WHERE copy.pack = pack.number)"
        return [row[0] for row in self._connection.execute(query)]

    def log_applied(self, changeset: bytes, seq: int) -> None:
        """A commit that came from hosts was applied: the next checkpoint must know what it touched."""
        self._execute("INSERT INTO outbox (changeset, pack, made_s, seq) VALUES (?, 0, 0, ?)", (changeset, seq))

    def first_unshipped_pack(self) -> PackNumber | None:
        """The smallest pack that is not on enough hosts."""
        number = self._execute("SELECT min(number) FROM local_pack WHERE state < ?", (SHIPPED,)).get
        return None if number is None else PackNumber(int(number))

    def closed_packs(self) -> list[PackNumber]:
        """Packs complete here and not yet on enough hosts, oldest first."""
        query = "SELECT number FROM local_pack WHERE state = 1 ORDER BY number"
        return [PackNumber(row[0]) for row in self._connection.execute(query)]

    def unshipped_packs(self) -> list[PackNumber]:
        """Packs open, closed or on too few hosts."""
        rows = self._connection.execute("SELECT number FROM local_pack WHERE state < ? ORDER BY number", (SHIPPED,))
        return [PackNumber(row[0]) for row in rows]

    def newest_local_pack(self) -> PackNumber:
        """The greatest pack number with a file here; 0 for none."""
        return PackNumber(int(self._execute("SELECT max(number) FROM local_pack").get or 0))

    def unshipped_bytes(self) -> int:
        """Bytes of packs that no host must have yet, plus changesets not in a commit object."""
        packs = self._execute("SELECT sum(bytes) FROM local_pack WHERE state < ?", (SHIPPED,)).get or 0
        return int(packs) + int(self._execute("SELECT sum(length(changeset)) FROM outbox WHERE seq = 0").get or 0)

    # packs that died before they were shipped

    def drop(self, pack: PackNumber, n: int) -> None:
        """The pack was never shipped and is dead as of outbox row ``n``."""
        self._execute("INSERT OR REPLACE INTO dropped VALUES (?, ?)", (pack, n))

    def dropped(self) -> list[tuple[PackNumber, int]]:
        """(pack, outbox row as of which it is dead)."""
        query = "SELECT pack, n FROM dropped ORDER BY pack"
        return [(PackNumber(pack), n) for pack, n in self._connection.execute(query)]

    def forget_dropped(self, last: int) -> None:
        """A commit object that ends at or after the death has been frozen."""
        self._execute("DELETE FROM dropped WHERE n <= ?", (last,))

    # upload, acknowledged

    def add_upload(self, kind: Kind, ident: bytes, body: bytes) -> int:
        """Freeze an object. Numbers grow for ever, so that "up to n is durable" stays true when rows are gone."""
        n = int(self._execute("SELECT value FROM state WHERE key = 'upload_n'").get or 0) + 1
        self._execute("INSERT OR REPLACE INTO state VALUES ('upload_n', ?)", (b"%d" % n,))
        self._execute("INSERT INTO upload VALUES (?, ?, ?, ?)", (n, kind.value, ident, body))
        return n

    def next_upload(self, host: HostId, durable_n: int) -> Upload | None:
        """The oldest upload that ``host`` has not acknowledged and that a crash cannot change; parts of checkpoints
        come last, they are large and nobody waits for them."""
        for is_part in (0, 1):  # in the order of the table: a sort would read every body
            row = self._execute(
                "SELECT n, kind, ident, body FROM upload WHERE n <= ? AND (kind = 'part') = ? AND NOT EXISTS "
                "(SELECT 1 FROM acknowledged WHERE acknowledged.n = upload.n AND host = ?) ORDER BY n LIMIT 1",
                (durable_n, is_part, host),
            ).get
            if row is not None:
                return _upload(row)
        return None

    def uploads(self) -> list[tuple[int, Kind, bytes]]:
        """(n, kind, ident) of everything not yet on every host."""
        query = "SELECT n, kind, ident FROM upload ORDER BY n"
        return [(n, Kind(kind), ident) for n, kind, ident in self._connection.execute(query)]

    def unacknowledged(self, last: int, enough: int) -> int:
        """How many uploads up to ``last`` are on fewer than ``enough`` hosts."""
        return int(
            self._execute(
                "SELECT count(*) FROM upload WHERE n <= ?1 AND "
                "(SELECT count(*) FROM acknowledged WHERE acknowledged.n = upload.n) < ?2",
                (last, enough),
            ).get
        )

    def newest_upload(self) -> int:
        """The number given out last, whether its row is still there or not."""
        return int(self._execute("SELECT value FROM state WHERE key = 'upload_n'").get or 0)

    def upload_body(self, n: int) -> bytes:
        return bytes(self._execute("SELECT body FROM upload WHERE n = ?", (n,)).get or b"")

    def acknowledge(self, n: int, host: HostId) -> None:
        self._execute("INSERT OR IGNORE INTO acknowledged VALUES (?, ?)", (n, host))

    def acknowledged_by(self, n: int) -> set[HostId]:
        return {HostId(row[0]) for row in self._connection.execute("SELECT host FROM acknowledged WHERE n = ?", (n,))}

    def lacking(self, host: HostId, last: int) -> int:
        """How many uploads up to ``last`` the host has not acknowledged."""
        return int(
            self._execute(
                "SELECT count(*) FROM upload WHERE n <= ? AND NOT EXISTS "
                "(SELECT 1 FROM acknowledged WHERE acknowledged.n = upload.n AND host = ?)",
                (last, host),
            ).get
        )

    def empty_upload(self, n: int) -> None:
        """Free the body: from now on it is fetched from a host that acknowledged it."""
        self._execute("UPDATE upload SET body = x'' WHERE n = ?", (n,))

    def complete_uploads(self, hosts: int) -> list[int]:
        """Uploads that so many hosts have acknowledged."""
        query = (
            "SELECT n FROM upload WHERE (SELECT count(*) FROM acknowledged WHERE acknowledged.n = upload.n) >= ? "
            "ORDER BY n"
        )
        return [row[0] for row in self._connection.execute(query, (hosts,))]

    def forget_upload(self, n: int) -> None:
        self._execute("DELETE FROM upload WHERE n = ?", (n,))
        self._execute("DELETE FROM acknowledged WHERE n = ?", (n,))

    # owed

    def owe(self, pack: PackNumber, host: HostId, since_s: int, shard: int = -1) -> None:
        self._execute("INSERT OR IGNORE INTO owed VALUES (?, ?, ?, ?)", (pack, host, shard, since_s))

    def pay(self, pack: PackNumber, host: HostId, shard: int = -1) -> None:
        self._execute("DELETE FROM owed WHERE pack = ? AND host = ? AND shard = ?", (pack, host, shard))

    def forget_owed(self, pack: PackNumber) -> None:
        self._execute("DELETE FROM owed WHERE pack = ?", (pack,))

    def owed(self) -> list[Owed]:
        """Everything owed, the oldest packs first."""
        rows = self._connection.execute("SELECT pack, host, shard, since_s FROM owed ORDER BY pack, host, shard")
        return [
            Owed(pack=PackNumber(pack), host=HostId(host), shard=shard, since_s=since_s)
            for pack, host, shard, since_s in rows
        ]

    # heads

    def head(self, device: int) -> KnownHead | None:
        row = self._execute("SELECT device, seq, hash, seen_s FROM head WHERE device = ?", (device,)).get
        return None if row is None else KnownHead(device=row[0], seq=row[1], hash=row[2], seen_s=row[3])

    def heads(self) -> list[KnownHead]:
        rows = self._connection.execute("SELECT device, seq, hash, seen_s FROM head ORDER BY device")
        return [KnownHead(device=row[0], seq=row[1], hash=row[2], seen_s=row[3]) for row in rows]

    def set_head(self, head: KnownHead) -> None:
        self._execute(
            "INSERT OR REPLACE INTO head VALUES (?, ?, ?, ?)", (head.device, head.seq, head.hash, head.seen_s)
        )

    def host_head(self, host: HostId, device: int) -> int:
        """The newest seq of the device that the host is known to have; 0 for none."""
        return int(self._execute("SELECT seq FROM host_head WHERE host = ? AND device = ?", (host, device)).get or 0)

    def newest_confirmed(self, device: int) -> int:
        """The newest seq of the device that any host acknowledged; 0 for none."""
        return int(self._execute("SELECT max(seq) FROM host_head WHERE device = ?", (device,)).get or 0)

    def set_host_head(self, host: HostId, device: int, seq: int) -> None:
        self._execute(
            "INSERT INTO host_head VALUES (?1, ?2, ?3) ON CONFLICT (host, device) DO UPDATE SET seq = max(seq, ?3)",
            (host, device, seq),
        )

    # parts

    def known_parts(self) -> list[KnownPart]:
        rows = self._connection.execute(
            "SELECT id, tbl, low, high, digest, bytes, rows, changeset_bytes FROM part ORDER BY tbl, low"
        )
        return [
            KnownPart(
                id=row[0],
                range=Range(table=row[1], low=row[2], high=row[3]),
                digest=row[4],
                bytes=row[5],
                rows=row[6],
                changeset_bytes=row[7],
            )
            for row in rows
        ]

    def replace_parts(self, kept: Iterable[KnownPart]) -> None:
        """From now on the newest checkpoint consists of these."""
        self._execute("DELETE FROM part")
        for part in kept:
            where = part.range
            self._execute(
                "INSERT INTO part VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (part.id, where.table, where.low, where.high, part.digest, part.bytes, part.rows, part.changeset_bytes),
            )

    def kept_checkpoints(self) -> list[KeptCheckpoint]:
        """Oldest first."""
        rows = self._connection.execute(
            "SELECT upload, device, seq, hash, made_s, complete, retired FROM kept_checkpoint ORDER BY upload"
        )
        return [
            KeptCheckpoint(
                upload=upload,
                device=device,
                seq=seq,
                hash=digest,
                made_s=made_s,
                complete=bool(complete),
                retired=retired,
            )
            for upload, device, seq, digest, made_s, complete, retired in rows
        ]

    def put_checkpoint(self, kept: KeptCheckpoint) -> None:
        self._execute(
            "INSERT OR REPLACE INTO kept_checkpoint VALUES (?, ?, ?, ?, ?, ?, ?)",
            (kept.upload, kept.device, kept.seq, kept.hash, kept.made_s, int(kept.complete), kept.retired),
        )

    def forget_checkpoint(self, upload: int) -> None:
        self._execute("DELETE FROM kept_checkpoint WHERE upload = ?", (upload,))

    # what nothing needs any more

    def stretches(self) -> list[tuple[int, int, int]]:
        """(device, first, last) of commits that may still be on hosts."""
        return list(self._connection.execute("SELECT device, first, last FROM stretch ORDER BY device"))

    def set_stretch(self, device: int, first: int, last: int) -> None:
        self._execute("INSERT OR REPLACE INTO stretch VALUES (?, ?, ?)", (device, first, last))

    def expire(self, kind: Kind, ident: bytes, hosts: Iterable[HostId]) -> None:
        """Nothing needs this object any more; a host that does not have it yet never gets it."""
        for host in hosts:
            self._execute("INSERT OR IGNORE INTO expired VALUES (?, ?, ?)", (kind.value, ident, host))
        row = self._execute("SELECT n FROM upload WHERE kind = ? AND ident = ?", (kind.value, ident)).get
        if row is not None:
            self.forget_upload(int(row))

    def expired(self, host: HostId, limit: int) -> list[tuple[Kind, bytes]]:
        rows = self._connection.execute("SELECT kind, ident FROM expired WHERE host = ? LIMIT ?", (host, limit))
        return [(Kind(kind), ident) for kind, ident in rows]

    def confirm_deleted(self, kind: Kind, ident: bytes, host: HostId) -> None:
        self._execute("DELETE FROM expired WHERE kind = ? AND ident = ? AND host = ?", (kind.value, ident, host))

    def is_frozen(self, n: int) -> bool:
        """Whether that outbox row is in a commit object."""
        return bool(self._execute("SELECT seq > 0 FROM outbox WHERE n = ?", (n,)).get)


def _upload(row: tuple[int, str, bytes, bytes]) -> Upload:
    n, kind, ident, body = row
    return Upload(n=n, kind=Kind(kind), ident=ident, body=body)
