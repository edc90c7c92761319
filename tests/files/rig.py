"""Content with a real index, and a store in memory whose every answer is given by hand."""

from os import urandom

import trio

from megafs.errors import DiskError
from megafs.files.content import Content
from megafs.files.namespace import Namespace
from megafs.files.xattrs import Xattrs
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.index.packs import Packs
from megafs.model import ROOT_INO, ChunkId, ChunkPlace, PackId
from megafs.packs.codec import is_zero
from megafs.store.reader import ChunkCache
from tests.support.keys import raw

FILE = 0o100644


def database_at(path) -> Database:
    """An index with a root and one open pack."""
    database = Database(path, raw(bytes(32)), create=True)
    database.connection.execute("INSERT INTO device VALUES (1, x'01', x'', x'', 0)")
    database.adopt(1)
    Inodes(database).insert_root(0o40755, 0, 0, 0)
    Packs(database).open(PackId(bytes(16)), 1)
    database.commit(0)
    return database


class Batch:
    """A batch that waits for its answer."""

    def __init__(self, pieces) -> None:
        self.pieces = [bytes(piece) for piece in pieces]
        self.answered = trio.Event()
        self.error: Exception | None = None


class HandStore:
    """Writer and reader in one: batches wait in ``waiting`` until ``answer``; what is stored is read at once."""

    def __init__(self, packs: Packs) -> None:
        self.number = packs.newest()
        self.waiting: list[Batch] = []
        self.stored: dict[ChunkId, bytes] = {}
        self.is_prompt = False  # answers every batch at once
        self.cache = ChunkCache(0)
        self.position = 0
        self.synced = 0
        self.steps: list[str] = []
        self.sync_waits: trio.Event | None = None

    async def store(self, pieces):
        batch = Batch(pieces)
        if self.is_prompt:
            batch.answered.set()
        else:
            self.waiting.append(batch)
        await batch.answered.wait()
        if batch.error is not None:
            raise batch.error
        return [None if is_zero(piece) else self._place(piece) for piece in batch.pieces]

    def _place(self, piece: bytes) -> ChunkPlace:
        chunk = ChunkId(urandom(16))
        self.stored[chunk] = piece
        self.position += len(piece)
        return ChunkPlace(chunk, self.number, self.position - len(piece), len(piece), len(piece), 0, b"")

    def answer(self, which: int, *, refuse: bool = False) -> None:
        """Give one of the waiting batches its answer."""
        batch = self.waiting.pop(which % len(self.waiting))
        if refuse:
            batch.error = DiskError("refused")
        batch.answered.set()

    async def sync(self) -> None:
        position = self.position
        self.steps.append("sync")
        if self.sync_waits is not None:
            await self.sync_waits.wait()
        await trio.lowlevel.checkpoint()
        self.synced = max(self.synced, position)

    @property
    def newest_pack(self):
        return self.number

    def now(self, place):
        return self.stored[place.chunk]

    async def chunk(self, place):
        await trio.lowlevel.checkpoint()
        return self.stored[place.chunk]

    async def chunks(self, places):
        return {place.chunk: await self.chunk(place) for place in places}

    def is_idle(self, chunk):
        return True

    def reach_bytes(self, number):
        return 0


class Rig:
    """The parts, wired."""

    def __init__(self, database: Database, *, dirty_bytes: int = 1 << 20) -> None:
        self.database = database
        self.extents, self.inodes = Extents(database), Inodes(database)
        self.store = HandStore(Packs(database))
        self.content = Content(self.extents, self.inodes, self.store, self.store, dirty_bytes=dirty_bytes)
        self.xattrs = Xattrs(self.inodes)
        self.now_ns = 1_000
        self.names = Namespace(self.inodes, self.xattrs, self.content, self._clock)

    def _clock(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def file(self, name: bytes = b"file") -> int:
        return self.names.create(ROOT_INO, name, FILE, 0, 0).ino

    async def read(self, ino) -> bytes:
        row = self.names.row(ino)
        size = self.content.size(ino, row.size)
        return bytes(await self.content.read(ino, 0, size + 10, row.size))
