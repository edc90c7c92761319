"""A whole vault without a mount: engine, FUSE operations called directly, hosts in one evil hand, attaching from them.

No slot and no key derivation: what the slot would hold is kept by the rig, so a test takes a tenth of a second.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import trio

from megafs.config import KIB, MountOptions, Settings, VaultPaths
from megafs.crypto.identity import RootKey
from megafs.crypto.keys import Keyring, ident_pack
from megafs.crypto.recovery import RecoveryKey
from megafs.daemon.create import fill, first_device
from megafs.daemon.engine import Engine
from megafs.files.namespace import Change
from megafs.fuse.operations import Operations
from megafs.hosts import stacked
from megafs.index.database import Database
from megafs.index.schema import REPLICATED
from megafs.model import ROOT_INO, ChunkPlace, HostId, HostSpec, Kind, Policy
from megafs.sync import boot, recover
from megafs.sync.objects import Objects
from megafs.sync.survey import survey
from tests.support.evil import Brain, Puppet
from tests.support.keys import raw

WHO = SimpleNamespace(uid=0, gid=0, pid=0, umask=0)
SETTINGS = Settings(compression=False, host_reply_s=5.0, host_patience_s=5.0)
MODE = 0o100644
READ_BYTES = 128 * KIB


class Rig:
    """One vault: its keys, its hosts, one state directory."""

    def __init__(self, base: Path, hosts: int = 1, policy: Policy | None = None) -> None:
        self.base, self.brain, self.settings = base, Brain(), SETTINGS
        self.root, self.recovery = RootKey.generate(), RecoveryKey.generate()
        self.keyring = Keyring.create(self.root.public)
        self.device = first_device(self.keyring, self.root)
        ids = [HostId(os.urandom(16)) for _ in range(hosts)]
        self.specs = [HostSpec(id=host, url=f"file:///{n}", label=f"host-{n}") for n, host in enumerate(ids)]
        self.puppets = {spec.id: Puppet(self.brain, spec.label) for spec in self.specs}
        self.paths = VaultPaths(root=base / "v")
        self.paths.packs.mkdir(parents=True)
        database = self.database(create=True)
        fill(database, self.device, self.specs, policy or Policy(copies=hosts))
        database.commit(0)
        database.close()

    @property
    def evil(self) -> Puppet:
        """The host that turns evil in a test with several."""
        return next(iter(self.puppets.values()))

    def database(self, *, create: bool = False) -> Database:
        return Database(self.paths.index, raw(self.keyring.index_key(self.device.id)), create=create)

    def objects(self, *hosts: HostId) -> Objects:
        return Objects(self.keyring, {host: self.puppets[host] for host in hosts or self.puppets})

    async def put_boots(self) -> None:
        for spec in self.specs:
            await boot.put(
                self.puppets[spec.id],
                spec,
                self.specs,
                generation=1,
                keyring=self.keyring,
                epochs=self.device.epochs,
                recovery=self.recovery,
                root=self.root,
            )

    @asynccontextmanager
    async def running(self, *, everything: bool = False) -> AsyncIterator["Drive"]:
        """The engine at work; ``everything``: with every loop that a mount has, by trio's clock."""
        database = self.database()
        database.adopt(self.device.number)
        stacks = {
            spec.id: stacked(self.puppets[spec.id], label=spec.label, reply_s=5, patience_s=1) for spec in self.specs
        }
        began_s = time.time() - trio.current_time()
        clock = (lambda: began_s + trio.current_time()) if everything else time.time
        engine = Engine(self.paths, self.device, database, self.settings, MountOptions(), stacks, clock=clock)
        few = (engine.commits.run, engine.content.run, engine.cache.run, engine.shipper.run)
        try:
            async with trio.open_nursery() as nursery:
                for loop in engine.loops() if everything else few:
                    nursery.start_soon(loop)
                engine.commits.on_durable = engine.note_durable if everything else engine.shipper.wake
                yield Drive(engine)
                nursery.cancel_scope.cancel()
        finally:
            engine.close()

    async def attached_rows(self, *hosts: HostId) -> dict[str, list[tuple[object, ...]]]:
        """Every replicated row as a new device gets it from these hosts alone."""
        objects = self.objects(*hosts)
        found = await survey(objects, self.device.trust)
        database = Database(self.base / f"{os.urandom(8).hex()}.db", raw(bytes(32)), create=True)
        try:
            await recover.rebuild(database, objects, self.device.trust, found)
            self.damages = objects.damages
            return rows(database)
        finally:
            database.close()

    def name(self, host: HostId, kind: Kind, ident: bytes) -> str:
        return self.keyring.object_name(host, kind, ident)


class Drive:
    """Files of a running engine, through the handlers that the kernel would call."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.operations = Operations(
            engine.names, engine.content, engine.xattrs, engine.commits, timeout_s=1, space=lambda: (1 << 40, 1 << 40)
        )

    async def write(self, name: bytes, data: bytes, start: int = 0) -> int:
        """Make or overwrite a file; its inode."""
        there = self.engine.names.lookup(ROOT_INO, name)
        if there is None:
            opened, row = await self.operations.create(ROOT_INO, name, MODE, os.O_RDWR, WHO)
            ino, fh = row.st_ino, opened.fh
        else:
            ino, fh = there.ino, (await self.operations.open(there.ino, os.O_RDWR, WHO)).fh
        for at in range(0, len(data), READ_BYTES):
            await self.operations.write(fh, start + at, data[at : at + READ_BYTES])
        if start + len(data) > self.engine.names.row(ino).size:  # the kernel would say so with SETATTR
            self.engine.names.change(ino, Change(size=start + len(data)))
        await self.operations.release(fh)
        await self.engine.commits.durable_now()
        return int(ino)

    async def read(self, ino: int, start: int = 0, size: int | None = None) -> bytes:
        """What read(2) would give; raises FUSEError as the kernel would get it."""
        fh = (await self.operations.open(ino, os.O_RDONLY, WHO)).fh
        try:
            size = self.engine.names.row(ino).size - start if size is None else size
            parts = [
                bytes(await self.operations.read(fh, at, min(READ_BYTES, start + size - at)))
                for at in range(start, start + size, READ_BYTES)
            ]
            return b"".join(parts)
        finally:
            await self.operations.release(fh)

    async def sync(self) -> None:
        async for _ in self.engine.shipper.until_shipped(60):
            pass

    def forget(self) -> None:
        """No plaintext and no packs are here any more: what is read comes from the hosts."""
        self.engine.reader.cache.clear()
        for path in self.engine.paths.packs.iterdir():
            path.unlink()
        self.engine.disk.close()

    def places(self, ino: int) -> list[ChunkPlace]:
        """Where the chunks of a file lie."""
        found = self.engine.database.connection.execute(
            "SELECT c.id, c.pack, c.offset, c.sealed, c.plain, c.codec, c.digest"
            " FROM extent e JOIN chunk c ON c.id = e.chunk WHERE e.ino = ? ORDER BY e.start",
            (ino,),
        )
        return [ChunkPlace(*row) for row in found]

    def pack_name(self, rig: Rig, host: HostId, place: ChunkPlace) -> str:
        pack = self.engine.packs.get(place.pack)
        assert pack is not None
        return rig.name(host, Kind.PACK, ident_pack(pack.id))


def rows(database: Database) -> dict[str, list[tuple[object, ...]]]:
    return {table: sorted(database.connection.execute(f"SELECT * FROM {table}")) for table in REPLICATED}
