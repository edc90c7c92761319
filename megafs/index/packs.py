"""Statements on pack, copy and local_pack: what travels, where copies are, what lies in the cache."""

from collections.abc import Collection, Iterable, Sequence

import apsw

from megafs.index.database import Database
from megafs.model import SHARD_BITS, WHOLE, ChunkPlace, HostId, Pack, PackId, PackNumber

OPEN, CLOSED, SHIPPED = 0, 1, 2  # local_pack.state
HASH_BYTES = 32
_PART_BYTES = f"CASE WHEN shard = {WHOLE} THEN p.stored ELSE p.stored / (shard >> {SHARD_BITS}) + 80 END"
_COPIES_ON = "FROM copy c JOIN pack p ON p.number = c.pack WHERE c.host = ?"
COLUMNS = "number, id, epoch, stored, root, dead_since"


def _pack(row: tuple[int, bytes, int, int, bytes, int]) -> Pack:
    number, ident, epoch, stored, root, dead_since = row
    return Pack(
        number=PackNumber(number),
        id=PackId(ident),
        epoch=epoch,
        stored_bytes=stored,
        root=root,
        dead_since_s=dead_since,
    )


def live_before(connection: apsw.Connection, epoch: int) -> int:
    """Thread. Sealed bytes of live chunks of earlier epochs. Looks at every chunk of their packs."""
    query = "SELECT sum(chunk.sealed) FROM pack JOIN chunk ON chunk.pack = pack.number WHERE pack.epoch < ?"
    return int(connection.execute(query, (epoch,)).get or 0)


def _fewer_copies(besides: Collection[HostId]) -> str:
    """A condition on pack with a place for each host and one for a number."""
    return (
        "stored > 0 AND dead_since = 0 "
        f"AND NOT EXISTS (SELECT 1 FROM local_pack l WHERE l.number = pack.number AND l.state < {SHIPPED}) "
        "AND (SELECT count(*) FROM copy "
        f"WHERE copy.pack = pack.number AND host NOT IN ({', '.join('?' * len(besides))})) < ?"
    )


def thin_bytes(connection: apsw.Connection, wanted: int, besides: Collection[HostId] = ()) -> int:
    """Thread. Bytes of packs that ``Packs.with_fewer_copies`` names."""
    query = f"SELECT sum(stored) FROM pack WHERE {_fewer_copies(besides)}"
    return int(connection.execute(query, (*besides, wanted)).get or 0)


class Packs:
    """Packs as rows."""

    def __init__(self, database: Database) -> None:
        self._new_id = database.new_id
        self._execute = database.connection.cursor().execute
        self._connection = database.connection

    def open(self, ident: PackId, epoch: int) -> PackNumber:
        """A new, empty pack of this device."""
        number = PackNumber(self._new_id())
        self._execute("INSERT INTO pack VALUES (?, ?, ?, 0, x'', 0)", (number, ident, epoch))
        self._execute("INSERT INTO local_pack VALUES (?, 0, ?, 0)", (number, OPEN))
        return number

    def get(self, number: PackNumber) -> Pack | None:
        row = self._execute(f"SELECT {COLUMNS} FROM pack WHERE number = ?", (number,)).get
        return _pack(row) if row is not None else None

    def close(self, number: PackNumber, stored_bytes: int, root: bytes) -> None:
        """The pack is complete: its length and Merkle root are final."""
        self._execute("UPDATE pack SET stored = ?2, root = ?3 WHERE number = ?1", (number, stored_bytes, root))
        self.set_local(number, stored_bytes, CLOSED)

    def delete(self, number: PackNumber) -> None:
        """Forget the pack and where its copies are."""
        self._execute("DELETE FROM copy WHERE pack = ?", (number,))
        self._execute("DELETE FROM leaf WHERE pack = ?", (number,))
        self._execute("DELETE FROM damaged WHERE pack = ?", (number,))
        self._execute("DELETE FROM pack WHERE number = ?", (number,))
        self.delete_local(number)

    def end(self, number: PackNumber) -> int:
        """The byte after the last chunk that the index names; 0 for none. The open pack is cut there after a crash."""
        return int(self._execute("SELECT max(offset + sealed) FROM chunk WHERE pack = ?", (number,)).get or 0)

    def places(self, number: PackNumber) -> list[ChunkPlace]:
        """The live chunks of a pack, by offset."""
        rows = self._connection.execute(
            "SELECT id, pack, offset, sealed, plain, codec, digest FROM chunk WHERE pack = ? ORDER BY offset", (number,)
        )
        return [ChunkPlace._make(row) for row in rows]

    def live_bytes(self, number: PackNumber) -> int:
        """Sealed bytes of chunks that are alive."""
        return int(self._execute("SELECT sum(sealed) FROM chunk WHERE pack = ?", (number,)).get or 0)

    def is_empty(self, number: PackNumber) -> bool:
        return self._execute("SELECT 1 FROM chunk WHERE pack = ? LIMIT 1", (number,)).get is None

    def emptied(self) -> list[PackNumber]:
        """Closed packs that no chunk row names and that are not yet known to be dead."""
        query = (
            "SELECT number FROM pack WHERE stored > 0 AND dead_since = 0 "
            "AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.pack = pack.number) ORDER BY number"
        )
        return [PackNumber(row[0]) for row in self._connection.execute(query)]

    def set_dead(self, number: PackNumber, since_s: int) -> None:
        self._execute("UPDATE pack SET dead_since = ?2 WHERE number = ?1", (number, since_s))

    def dead(self, before_s: int) -> list[Pack]:
        """Packs without a live chunk since before that time."""
        rows = self._connection.execute(
            f"SELECT {COLUMNS} FROM pack WHERE dead_since > 0 AND dead_since <= ? ORDER BY number", (before_s,)
        )
        return [_pack(row) for row in rows]

    def newest_death(self) -> int:
        """When the pack died that died last; 0 for none."""
        return int(self._execute("SELECT max(dead_since) FROM pack").get or 0)

    def all(self) -> list[Pack]:
        """Every pack; thousands at most for a terabyte."""
        return [_pack(row) for row in self._connection.execute(f"SELECT {COLUMNS} FROM pack ORDER BY number")]

    def newest(self) -> PackNumber:
        """The greatest pack number of all devices' rows; 0 for none."""
        return PackNumber(int(self._execute("SELECT max(number) FROM pack").get or 0))

    def copies(self, number: PackNumber) -> list[tuple[HostId, int, bytes]]:
        """(host, shard or -1, Merkle root) of each copy known."""
        return list(
            self._connection.execute("SELECT host, shard, root FROM copy WHERE pack = ? ORDER BY id", (number,))
        )

    def add_copy(self, number: PackNumber, host: HostId, shard: int, root: bytes) -> None:
        self._execute("INSERT OR IGNORE INTO copy VALUES (?, ?, ?, ?, ?)", (self._new_id(), number, host, shard, root))

    def leaves(self, number: PackNumber, shard: int) -> list[bytes]:
        """The leaf hashes of a part; empty if this device does not know them."""
        hashes = self._execute("SELECT hashes FROM leaf WHERE pack = ? AND shard = ?", (number, shard)).get or b""
        return [hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]

    def set_leaves(self, number: PackNumber, shard: int, hashes: Sequence[bytes]) -> None:
        """Know them from now on. Those of the whole are of no use once the pack is in shards."""
        if shard != WHOLE:
            self._execute("DELETE FROM leaf WHERE pack = ? AND shard = ?", (number, WHOLE))
        self._execute("INSERT OR REPLACE INTO leaf VALUES (?, ?, ?)", (number, shard, b"".join(hashes)))

    def copies_on(self, host: HostId) -> list[tuple[PackNumber, int, bytes]]:
        """(pack, shard, Merkle root) of every copy of a pack with live chunks that the host should have."""
        rows = self._connection.execute(
            "SELECT c.pack, c.shard, c.root FROM copy c JOIN pack p ON p.number = c.pack "
            "WHERE c.host = ? AND p.stored > 0 AND p.dead_since = 0 ORDER BY c.pack, c.shard",
            (host,),
        )
        return [(PackNumber(number), int(shard), root) for number, shard, root in rows]

    def on_host(self, host: HostId) -> tuple[int, int]:
        """(packs, bytes) that a host holds, whole or in shards, as far as the index knows."""
        row = self._execute(f"SELECT count(*), coalesce(sum({_PART_BYTES}), 0) {_COPIES_ON}", (host,)).get
        return int(row[0]), int(row[1])

    def retained_on(self, host: HostId) -> int:
        """Bytes of these that are dead, and kept until the retention is over."""
        row = self._execute(f"SELECT sum({_PART_BYTES}) {_COPIES_ON} AND p.dead_since > 0", (host,)).get
        return int(row or 0)

    def newest_copy(self) -> int:
        """The greatest id of a copy row: another one means that there are more."""
        return int(self._execute("SELECT max(id) FROM copy").get or 0)

    def stored_bytes(self) -> int:
        """Bytes of all closed packs; thousands of rows at most for a terabyte."""
        return int(self._execute("SELECT coalesce(sum(stored), 0) FROM pack WHERE dead_since = 0").get)

    def delete_copy(self, number: PackNumber, host: HostId, shard: int) -> None:
        self._execute("DELETE FROM copy WHERE pack = ? AND host = ? AND shard = ?", (number, host, shard))

    def local(self, number: PackNumber) -> tuple[int, int, int] | None:
        """(bytes, state, used_min) of a pack file in the cache, or None."""
        row = self._execute("SELECT bytes, state, used_min FROM local_pack WHERE number = ?", (number,)).get
        return row if row is None else (int(row[0]), int(row[1]), int(row[2]))

    def locals(self) -> list[tuple[PackNumber, int, int, int]]:
        """(number, bytes, state, used_min) of every pack file, least recently used first."""
        return list(
            self._connection.execute("SELECT number, bytes, state, used_min FROM local_pack ORDER BY used_min, number")
        )

    def set_local(self, number: PackNumber, size: int, state: int) -> None:
        self._execute(
            "INSERT INTO local_pack VALUES (?1, ?2, ?3, 0) ON CONFLICT (number) DO UPDATE SET bytes = ?2, state = ?3",
            (number, size, state),
        )

    def note_fetched(self, number: PackNumber, size: int, used_min: int) -> None:
        """``size`` more bytes of a shipped pack lie in the cache. (One not shipped yet was there, and was mended.)"""
        self._execute(
            "INSERT INTO local_pack VALUES (?1, ?2, ?3, ?4) "
            "ON CONFLICT (number) DO UPDATE SET bytes = bytes + ?2 * (state = ?3), used_min = ?4",
            (number, size, SHIPPED, used_min),
        )

    def use_local(self, number: PackNumber, used_min: int) -> None:
        self._execute("UPDATE local_pack SET used_min = ?2 WHERE number = ?1", (number, used_min))

    def delete_local(self, number: PackNumber) -> None:
        self._execute("DELETE FROM local_pack WHERE number = ?", (number,))

    def on_hosts(self, hosts: Iterable[HostId]) -> list[PackNumber]:
        """Packs with a copy on one of these hosts."""
        found: set[PackNumber] = set()
        for host in hosts:
            found.update(row[0] for row in self._connection.execute("SELECT pack FROM copy WHERE host = ?", (host,)))
        return sorted(found)

    def with_other_copies(self, most: int, shards: Sequence[int], besides: Collection[HostId] = ()) -> list[PackNumber]:
        """Closed packs with live chunks that have more copies than ``most``, or one that is none of ``shards``; what
        is on the hosts ``besides`` does not count."""
        kinds = ", ".join(str(int(shard)) for shard in shards)
        counted = f"FROM copy WHERE copy.pack = pack.number AND host NOT IN ({', '.join('?' * len(besides))})"
        query = (
            "SELECT number FROM pack WHERE stored > 0 AND dead_since = 0 AND ("
            f"EXISTS (SELECT 1 {counted} AND shard NOT IN ({kinds})) OR (SELECT count(*) {counted}) > ?) "
            "ORDER BY number"
        )
        return [PackNumber(row[0]) for row in self._connection.execute(query, (*besides, *besides, most))]

    def with_fewer_copies(self, wanted: int, besides: Collection[HostId] = ()) -> list[PackNumber]:
        """Packs with live chunks that have left and have fewer copies than that; those on the hosts ``besides`` do not
        count."""
        query = f"SELECT number FROM pack WHERE {_fewer_copies(besides)} ORDER BY number"
        return [PackNumber(row[0]) for row in self._connection.execute(query, (*besides, wanted))]
