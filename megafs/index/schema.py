"""The index on disk: every table, column, unit and sentinel. This text is the reference; it is also what is executed.

Replicated tables travel in changesets (commit objects) and checkpoint parts; the others belong to this device.
Ids of replicated tables are ``device << 40 | counter`` or 16 random bytes and are never reused. Times ending in _ns are
nanoseconds since the epoch, in _s seconds; sizes are bytes. After a crash SQLite itself restores the last commit;
"who repairs" below says what else has to be mended, and where.

A new table of this device is added here and made when an index without it is opened; an index that has it opens in an
older program as well. Whatever else changes is a new VERSION.
"""

import re
from collections.abc import Collection

VERSION = 1  # carried by every commit and checkpoint; a migration is a commit of its own, followed by a checkpoint

REPLICATED = {
    "inode": """
        id INTEGER PRIMARY KEY,      -- inode number; 1 is the root
        mode INTEGER NOT NULL,       -- as st_mode, type included
        nlink INTEGER NOT NULL,      -- 0: unlinked, kept until the kernel forgets it; purged at the next mount
        uid INTEGER NOT NULL,
        gid INTEGER NOT NULL,
        rdev INTEGER NOT NULL,       -- of device nodes, else 0
        size INTEGER NOT NULL,       -- of a symlink: of its target
        stored INTEGER NOT NULL,     -- bytes covered by extents (st_blocks = (stored + 511) / 512)
        atime_ns INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        parent INTEGER NOT NULL,     -- of a directory: the directory above it (the root: 1); else 0
        target BLOB                  -- of a symlink, else NULL
    """,
    "dirent": """
        id INTEGER PRIMARY KEY,      -- also the readdir cookie; a replacing rename keeps the row
        parent INTEGER NOT NULL,
        name BLOB NOT NULL,          -- 1 to 255 bytes, no NUL, no slash
        ino INTEGER NOT NULL,
        UNIQUE (parent, name)
    """,
    "xattr": """
        id INTEGER PRIMARY KEY,
        ino INTEGER NOT NULL,
        name BLOB NOT NULL,
        value BLOB NOT NULL,
        UNIQUE (ino, name)
    """,
    "extent": """
        id INTEGER PRIMARY KEY,
        ino INTEGER NOT NULL,
        start INTEGER NOT NULL,      -- first byte in the file; extents of one file never overlap, gaps are holes
        stop INTEGER NOT NULL,       -- byte after the last
        chunk BLOB NOT NULL,         -- chunk.id
        skip INTEGER NOT NULL,       -- where in the chunk's plaintext the byte at start stands
        UNIQUE (ino, start)
    """,
    "chunk": """
        id BLOB PRIMARY KEY NOT NULL, -- 16 bytes: 4 of the pack's id, 12 random
        pack INTEGER NOT NULL,       -- pack.number
        offset INTEGER NOT NULL,     -- in the pack
        sealed INTEGER NOT NULL,     -- bytes in the pack
        plain INTEGER NOT NULL,      -- bytes of plaintext, 1 to 262144
        codec INTEGER NOT NULL,      -- 0 as is, 1 zstd
        digest BLOB NOT NULL         -- SHA-256 of the sealed bytes
    """,
    "pack": """
        number INTEGER PRIMARY KEY,
        id BLOB NOT NULL,            -- 16 random bytes
        epoch INTEGER NOT NULL,      -- of the keys that its chunks are sealed under
        stored INTEGER NOT NULL,     -- bytes once closed; 0: open or closed and not yet shipped. After a crash the open
                                     -- pack is cut behind the last chunk that the index names (store.writer)
        root BLOB NOT NULL,          -- Merkle root over 64 KiB leaves; empty until closed
        dead_since INTEGER NOT NULL  -- s; 0: at least one chunk row names it (or it is open). Set by the collector
    """,
    "copy": """
        id INTEGER PRIMARY KEY,
        pack INTEGER NOT NULL,
        host BLOB NOT NULL,          -- host.id
        shard INTEGER NOT NULL,      -- -1: the whole pack; else k * 32 + 0 to k+m-1 (model.shard_of)
        root BLOB NOT NULL,          -- Merkle root of what is stored there
        UNIQUE (pack, host, shard)
    """,
    "host": """
        id BLOB PRIMARY KEY NOT NULL, -- 16 random bytes
        url TEXT NOT NULL,           -- without secrets
        label TEXT NOT NULL UNIQUE,
        operator TEXT NOT NULL,
        region TEXT NOT NULL,
        price_storage REAL NOT NULL, -- per GiB and month
        price_egress REAL NOT NULL,  -- per GiB
        limit_bytes INTEGER NOT NULL, -- 0: none
        state TEXT NOT NULL,         -- active, draining, gone
        append_only INTEGER NOT NULL -- 1: deletes are never sent
    """,
    "device": """
        number INTEGER PRIMARY KEY,  -- 1 for the creating device
        id BLOB NOT NULL,            -- 16 random bytes
        public BLOB NOT NULL,        -- Ed25519 public key, 32 bytes
        certificate BLOB NOT NULL,   -- signed by an epoch key (crypto.identity)
        counter INTEGER NOT NULL     -- ids up to this one are used; written with every commit that used some
    """,
    # Extents too many to remove in one request: those of `ino` that begin at or after `start` and whose id is at most
    # `before` are dead. Readers skip them; the collector removes them in slices, then the row.
    "doomed": """
        id INTEGER PRIMARY KEY,
        ino INTEGER NOT NULL,
        start INTEGER NOT NULL,
        before INTEGER NOT NULL
    """,
    "setting": """
        key TEXT PRIMARY KEY NOT NULL, -- vault-wide: 'copies', 'k', 'm', 'created_s', 'device.N', 'boot.HOST', …
        value BLOB NOT NULL
    """,
}

# Of the replicated tables: columns in their order, and the type of each.
COLUMNS = {
    table: dict(re.findall(r"^\s+(\w+) (INTEGER|BLOB|TEXT|REAL)\b", text, re.M)) for table, text in REPLICATED.items()
}

INDICES = {
    "dirent_page": "dirent (parent, id)",
    "extent_chunk": "extent (chunk)",
    "chunk_pack": "chunk (pack)",
    "inode_unlinked": "inode (id) WHERE nlink = 0",  # asked at each mount: hardly any of a million
    "outbox_seq": "outbox (seq)",  # in the row it stands behind the changeset, pages further on
}

LOCAL = {
    # Changesets of committed transactions, in order. A row ships only after the WAL sync that followed its COMMIT
    # returned; rows found at start were read back from the database file and count as synced once the first sync is
    # done. Kept after shipping until the next checkpoint has used them to find the touched key ranges.
    "outbox": """
        n INTEGER PRIMARY KEY,
        changeset BLOB NOT NULL,
        pack INTEGER NOT NULL,       -- the greatest pack number that any row so far names: ships after it
        made_s REAL NOT NULL,
        seq INTEGER NOT NULL         -- of the commit object that holds it; 0: not yet frozen
    """,
    # Objects frozen for shipping (commits, heads, checkpoints, claims, boot), byte for byte; a crash repeats the same
    # bytes.
    "upload": """
        n INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        ident BLOB NOT NULL,         -- what the object's name derives from (crypto.keys.object_name)
        body BLOB NOT NULL           -- empty: dropped to save space, is fetched from a host that acknowledged it
    """,
    # Which hosts have acknowledged an upload row.
    "acknowledged": """
        n INTEGER NOT NULL,
        host BLOB NOT NULL,
        PRIMARY KEY (n, host)
    """,
    # Pack files in the cache. A file may be sparse: what is absent or punched fails its digest and is fetched.
    "local_pack": """
        number INTEGER PRIMARY KEY,  -- pack.number
        bytes INTEGER NOT NULL,      -- blocks on disk when last counted
        state INTEGER NOT NULL,      -- 0 open, 1 closed and not yet on enough hosts, 2 shipped (evictable)
        used_min INTEGER NOT NULL    -- last read, in minutes since the epoch (to write seldom)
    """,
    # Packs that are owed to a host: wanted by placement, not yet acknowledged.
    "owed": """
        pack INTEGER NOT NULL,
        host BLOB NOT NULL,
        shard INTEGER NOT NULL,
        since_s INTEGER NOT NULL,
        PRIMARY KEY (pack, host, shard)
    """,
    # Copies that were found missing or wrong and are not yet made anew (sync.repair).
    "damaged": """
        pack INTEGER NOT NULL,
        host BLOB NOT NULL,
        since_s INTEGER NOT NULL,
        PRIMARY KEY (pack, host)
    """,
    # The leaves of the Merkle trees of parts that this device made or read whole: with them any 64 KiB of a part on a
    # host are checked alone. What lacks a row is checked by its chunks, or whole (sync.possession).
    "leaf": """
        pack INTEGER NOT NULL,
        shard INTEGER NOT NULL,      -- as in copy
        hashes BLOB NOT NULL,        -- 32 bytes for each started 64 KiB
        PRIMARY KEY (pack, shard)
    """,
    # What the scrub of each host has come to (sync.scrub).
    "scrub": """
        host BLOB PRIMARY KEY NOT NULL,
        due_s REAL NOT NULL,         -- when the next range is to be read; in the past: that much is to be made up for
        last_s INTEGER NOT NULL,     -- of the last answer; 0: none yet
        checked INTEGER NOT NULL,    -- objects looked at, of this and the following since the host joined
        bytes INTEGER NOT NULL,      -- read for it
        bad INTEGER NOT NULL,        -- missing, cut or wrong
        repaired INTEGER NOT NULL    -- made anew on this host, or elsewhere
    """,
    # Hosts that do not answer while others do (sync.presence).
    "absent": """
        host BLOB PRIMARY KEY NOT NULL,
        since_s INTEGER NOT NULL,
        observed_s REAL NOT NULL,    -- for how long of that time others answered; 0 again once none did
        written_off INTEGER NOT NULL -- 1: its copies do not count until it is back
    """,
    # The newest head known of each device: what rollback and fork checks compare with.
    "head": """
        device INTEGER PRIMARY KEY,
        seq INTEGER NOT NULL,
        hash BLOB NOT NULL,          -- SHA-256 of the sealed commit object
        seen_s INTEGER NOT NULL
    """,
    # The newest head acknowledged by each host, so that a host that falls behind is named.
    "host_head": """
        host BLOB NOT NULL,
        device INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (host, device)
    """,
    # What each host showed or confirmed last of each device, by hash: who shows less or something else later, lies or
    # has lost it.
    "witness": """
        host BLOB NOT NULL,
        device INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        hash BLOB NOT NULL,          -- SHA-256 of the sealed commit object
        silent_since_s INTEGER NOT NULL, -- when the host was first asked for it in vain; 0: the last time it showed it
        PRIMARY KEY (host, device)
    """,
    # What the owner has to be told, one row for each kind, host and device; the same evidence is told once.
    "alarm": """
        n INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,          -- model.AlarmKind
        host BLOB NOT NULL,          -- empty: of no single host
        device INTEGER NOT NULL,
        known_seq INTEGER NOT NULL,  -- what this device knew, 0: nothing
        known_hash BLOB NOT NULL,
        shown_seq INTEGER NOT NULL,  -- what was found instead, 0: nothing
        shown_hash BLOB NOT NULL,
        since_s INTEGER NOT NULL,
        acknowledged_s INTEGER NOT NULL, -- 0: not yet
        UNIQUE (kind, host, device)
    """,
    # What its owner wants to have here: files, and trees with all that comes into them (sync.pins).
    "pin": """
        ino INTEGER PRIMARY KEY,     -- inode.id
        since_s INTEGER NOT NULL
    """,
    # Checkpoint parts as last sealed: rows of `tbl` with low <= key < high.
    "part": """
        id BLOB PRIMARY KEY NOT NULL, -- 16 random bytes, names the object
        tbl TEXT NOT NULL,
        low BLOB NOT NULL,           -- encoded key (index.parts)
        high BLOB NOT NULL,
        digest BLOB NOT NULL,        -- SHA-256 of the sealed part
        bytes INTEGER NOT NULL,      -- of the sealed part
        rows INTEGER NOT NULL,
        changeset_bytes INTEGER NOT NULL -- of its rows as INSERTs, before compression
    """,
    # Packs that died before they were shipped and were dropped. A commit object that holds a row naming such a pack
    # must reach as far as the outbox row that removed the last such name (sync.ship), or it would name what no host
    # has.
    "dropped": """
        pack INTEGER PRIMARY KEY,
        n INTEGER NOT NULL           -- outbox.n as of which nothing names the pack
    """,
    # Checkpoints of this device that are still kept on hosts.
    "kept_checkpoint": """
        upload INTEGER PRIMARY KEY,  -- of the list; its parts have smaller numbers
        device INTEGER NOT NULL,     -- as of this device's
        seq INTEGER NOT NULL,        -- commit
        hash BLOB NOT NULL,          -- of that commit
        made_s INTEGER NOT NULL,     -- when its snapshot was taken
        complete INTEGER NOT NULL,   -- 1: list and parts are on enough hosts
        retired BLOB NOT NULL        -- ids of parts that the next checkpoint no longer has, 16 bytes each
    """,
    # Commits and heads on hosts, by the device that wrote them; the collector removes them from the front.
    "stretch": """
        device INTEGER PRIMARY KEY,
        first INTEGER NOT NULL,      -- the smallest seq whose commit may still be on a host
        last INTEGER NOT NULL        -- the greatest that counts; 0 for this device, which goes on
    """,
    # Objects of ours that nothing needs any more; the row goes once the host has confirmed.
    "expired": """
        kind TEXT NOT NULL,
        ident BLOB NOT NULL,
        host BLOB NOT NULL,
        PRIMARY KEY (kind, ident, host)
    """,
    # Files that only an older copy of this device's state had, until they lie in lost+found (daemon.rescue).
    "only_here": """
        n INTEGER PRIMARY KEY,
        piece BLOB NOT NULL          -- sync.aside.Piece
    """,
    # Chunks that lost an extent: the collector asks `extent` whether any is left.
    "candidate": "chunk BLOB PRIMARY KEY NOT NULL",
    # epoch and checkpoint_epoch (the newest that index and checkpoint are of; absent: 1),
    # device_id, term, clean (1: unmounted in order), next_seq, …
    "state": "key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL",
}


def statements() -> list[str]:
    """The DDL of a new index, in order."""
    tables = [_create(name, columns) for name, columns in REPLICATED.items()]
    return tables + missing_tables(()) + missing_indices(())


def missing_tables(there: Collection[str]) -> list[str]:
    """The DDL of this device's tables that are not ``there``, by name."""
    return [_create(name, columns) for name, columns in LOCAL.items() if name not in there]


def missing_indices(there: Collection[str]) -> list[str]:
    """The same of the indices of all tables."""
    return [f"CREATE INDEX {name} ON {what}" for name, what in INDICES.items() if name not in there]


def _create(name: str, columns: str) -> str:
    return f"CREATE TABLE {name} ({columns}) STRICT"
