"""The store on a real disk and a real index, with hosts left out."""

from megafs.crypto.identity import RootKey
from megafs.crypto.keys import Keyring
from megafs.errors import DiskError, Unavailable
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.packs import Packs
from megafs.model import ChunkPlace
from megafs.store.disk import Disk
from megafs.store.reader import Reader
from megafs.store.writer import PackWriter
from tests.support.keys import raw

KEYRING = Keyring.create(RootKey.generate().public)


class FaultyDisk(Disk):
    """Refuses the next calls of a kind; notes all of them."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.refused: dict[str, int] = {}
        self.calls: list[tuple[str, int]] = []

    def _call(self, kind, number) -> None:
        self.calls.append((kind, number))
        if self.refused.get(kind, 0):
            self.refused[kind] -= 1
            raise DiskError(f"{kind} refused")

    def write(self, number, offset, buffers):
        self._call("write", number)
        super().write(number, offset, buffers)

    def sync(self, number):
        self._call("sync", number)
        super().sync(number)

    def sync_directory(self):
        self._call("sync_directory", 0)
        super().sync_directory()

    def read(self, number, offset, size):
        self._call("read", number)
        return super().read(number, offset, size)


class OneHost:
    """A fetcher that has whole packs in memory."""

    def __init__(self) -> None:
        self.packs: dict[int, bytes] = {}
        self.asked = 0

    async def fetch(self, pack, start, stop, verify):
        self.asked += 1
        data = self.packs.get(pack.number, b"")[start:stop]
        if not verify(data):
            raise Unavailable("the host has it wrong")
        return data

    def reach_bytes(self, least_bytes=0):
        return 7


class Rig:
    """Everything of store/ but the cache; ``again`` is what a restart makes of it."""

    def __init__(self, root, database=None) -> None:
        self.root, self.is_closed = root, False
        (root / "packs").mkdir(exist_ok=True)
        self.database = database or self._new(root)
        self.packs, self.extents = Packs(self.database), Extents(self.database)
        self.disk = FaultyDisk(root / "packs")
        self.now_s = 100.0
        self.writer = PackWriter(self.disk, KEYRING, self.packs, clock=lambda: self.now_s)
        self.host = OneHost()
        self.reader = Reader(self.disk, KEYRING, self.packs, self.host, cache_bytes=1 << 20)

    @staticmethod
    def _new(root) -> Database:
        database = Database(root / "index.db", raw(bytes(32)), create=True)
        database.connection.execute("INSERT INTO device VALUES (1, x'01', x'', x'', 0)")
        database.adopt(1)
        database.commit(0)
        return database

    async def stored(self, *pieces) -> list[ChunkPlace]:
        """Stored, and told to the index."""
        places = await self.writer.store(pieces)
        for place in places:
            self.extents.add_chunk(place)
        return places

    def again(self) -> "Rig":
        """Crash: what is not committed is gone."""
        self.close()
        database = Database(self.root / "index.db", raw(bytes(32)))
        database.adopt(1)
        return Rig(self.root, database)

    def close(self) -> None:
        """Once; ``again`` has done it already."""
        if not self.is_closed:
            self.is_closed = True
            self.disk.close()
            self.database.close()
