"""One device with everything below sync/ real (index, writer, disk, crypto) and hosts in memory."""

import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from os import urandom
from pathlib import Path

import trio

from megafs.config import Settings
from megafs.crypto.identity import DeviceKey, RootKey, issue_device, issue_epoch
from megafs.crypto.keys import Keyring
from megafs.index.alarms import Alarms
from megafs.index.care import Care
from megafs.index.database import Database
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.index.ledger import Ledger
from megafs.index.packs import Packs
from megafs.index.vault import Vault
from megafs.model import ROOT_INO, Attributes, DeviceId, HostId, HostSpec, HostState, Ino, Policy
from megafs.store.disk import Disk
from megafs.store.writer import PackWriter
from megafs.sync import recover
from megafs.sync import stream as streams
from megafs.sync.checkpoint import Checkpointer
from megafs.sync.claims import Claims, Standing
from megafs.sync.objects import Objects
from megafs.sync.packing import Landscape, PackShipper
from megafs.sync.ship import Shipper
from megafs.sync.statements import NOTHING, Signer, Step, Trust
from megafs.sync.stream import Stream
from megafs.sync.survey import survey
from megafs.sync.watch import Watch
from tests.support.hosts import DyingHost, MemoryHost
from tests.support.keys import raw

POLICY = Policy(copies=2)
DEFAULTS = Settings()
DIRECTORY_MODE, FILE_MODE = 0o40755, 0o100644


class Identity:
    """A vault's keys, shared by all its devices."""

    def __init__(self) -> None:
        self.root = RootKey.generate()
        self.keyring = Keyring.create(self.root.public)
        self.epochs = (issue_epoch(self.root, self.keyring),)
        self.trust = Trust.of(self.keyring.vault, self.root.public, self.epochs)

    def signer(self, number: int, device: bytes | None = None) -> Signer:
        key = DeviceKey.generate()
        certificate = issue_device(
            self.keyring, device=device or urandom(16), number=number, public_key=key.public, first_seq=1
        )
        return Signer(vault=self.keyring.vault, key=key, certificate=certificate)


class World:
    """Hosts that outlive devices; each can die."""

    def __init__(self, count: int = 3) -> None:
        self.identity = Identity()
        self.memory = {HostId(bytes([n]) * 16): MemoryHost(label=f"host{n}") for n in range(1, count + 1)}
        self.dying = {host: DyingHost(memory, calls=1 << 60) for host, memory in self.memory.items()}
        self.specs = [HostSpec(id=host, url=f"file:///{host[0]}", label=f"host{host[0]}") for host in self.memory]
        self.policy = POLICY

    def objects(self) -> Objects:
        return Objects(self.identity.keyring, dict(self.dying))

    def states(self) -> Sequence[HostState]:
        return [HostState(spec=spec, answers=self.dying[spec.id].calls > 0) for spec in self.specs]

    @property
    def landscape(self) -> Landscape:
        return Landscape(states=self.states, policy=lambda: self.policy)


class PlainCommits:
    """The committer without files.content: everything in the index is ready to be committed."""

    def __init__(self, database: Database, writer: PackWriter, packs: Packs) -> None:
        self._database, self._writer, self._packs = database, writer, packs
        self.durable = database.connection.execute("SELECT max(n) FROM outbox").get or 0
        self.on_durable: Callable[[], None] = lambda: None

    async def durable_now(self) -> None:
        await self._writer.sync()
        newest = self._database.commit(self._packs.newest())
        await trio.to_thread.run_sync(self._database.sync_wal)
        if newest > self.durable:
            self.durable = newest
            self.on_durable()


class Device:
    """One installation, from its directory."""

    def __init__(self, world: World, root: Path, signer: Signer, *, settings: Settings = DEFAULTS) -> None:
        self.world, self.root, self.signer, self.settings = world, root, signer, settings
        self.date_wrong_by_s = 0.0
        keyring = world.identity.keyring
        (root / "packs").mkdir(parents=True, exist_ok=True)
        is_new = not (root / "index.db").exists()
        self.database = Database(root / "index.db", raw(bytes(32)), create=is_new)
        self.packs, self.vault, self.ledger = (
            Packs(self.database),
            Vault(self.database),
            Ledger(self.database.connection),
        )
        self.care = Care(self.database.connection)
        self.inodes, self.extents = Inodes(self.database), Extents(self.database)
        self.alarms = Alarms(self.database.connection)
        if is_new and signer.device == 1:
            self.create()
        self.database.adopt(signer.device)
        self.disk = Disk(root / "packs")
        self.writer = PackWriter(self.disk, keyring, self.packs, clock=lambda: 1 + trio.current_time())
        self.writer.resume()
        self.commits = PlainCommits(self.database, self.writer, self.packs)
        self.objects = world.objects()

    def create(self) -> None:
        claims = self.signer.certificate.claims
        self.vault.add_device(1, DeviceId(claims.device), claims.public_key, b"certificate")
        self.inodes.insert_root(DIRECTORY_MODE, 0, 0, 1)
        for spec in self.world.specs:
            self.vault.put_host(spec)
        self.begin(1)

    def begin(self, term: int, base: Step = NOTHING, checkpoint: Step = NOTHING) -> None:
        streams.begin(self.database, self.signer.device, term=term, base=base, checkpoint=checkpoint)
        self.database.set_state("device_id", self.signer.certificate.claims.device)

    def assemble(self) -> Shipper:
        """The shipper, as the daemon would make it."""
        start_s, start = time.time(), trio.current_time()

        def lasting() -> float:
            return start_s + trio.current_time() - start

        def clock() -> float:
            return lasting() + self.date_wrong_by_s

        self.clock, self.lasting = clock, lasting
        landscape = self.world.landscape
        self.stream = Stream(self.database, self.world.identity.keyring, self.signer, clock)
        standing = Standing(term=self.stream.position.term, device=DeviceId(self.signer.certificate.claims.device))
        self.claims = Claims(self.objects, self.world.identity.trust, standing, trio.current_time)
        self.shipper: Shipper
        packing = PackShipper(
            objects=self.objects,
            ledger=self.ledger,
            packs=self.packs,
            writer=self.writer,
            disk=self.disk,
            landscape=landscape,
            settings=self.settings,
            clock=clock,
            changed=lambda: self.shipper.wake(),
        )
        self.shipper = Shipper(
            objects=self.objects,
            ledger=self.ledger,
            alarms=self.alarms,
            stream=self.stream,
            claims=self.claims,
            packing=packing,
            commits=self.commits,
            landscape=landscape,
            clock=clock,
        )
        self.commits.on_durable = self.shipper.wake
        return self.shipper

    def watch(self) -> Watch:
        """Of an assembled device, as the daemon would make it."""
        return Watch(
            objects=self.objects,
            ledger=self.ledger,
            vault=self.vault,
            alarms=self.alarms,
            trust=self.world.identity.trust,
            own=lambda: self.stream.position.previous,
            durable_now=self.commits.durable_now,
            clock=self.clock,
            lasting=self.lasting,
        )

    @asynccontextmanager
    async def shipping(self):
        """With the loop running."""
        shipper = self.assemble()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shipper.run)
            yield shipper
            nursery.cancel_scope.cancel()

    async def sync(self, patience_s: float = 60) -> None:
        async for _ in self.shipper.until_shipped(patience_s):
            pass

    async def write(self, name: bytes, data: bytes) -> Ino:
        """A new file in the root, committed."""
        inode = self.inodes.insert(FILE_MODE, 0, 0, 0, 5, Ino(0), None)
        self.database.connection.execute(
            "INSERT INTO dirent VALUES (?, 1, ?, ?)", (self.database.new_id(), name, inode.ino)
        )
        places = await self.writer.store([data])
        place = places[0]
        assert place is not None
        self.extents.add_chunk(place)
        self.extents.write(inode.ino, [(0, len(data), place.chunk, 0)])
        self.database.connection.execute(
            "UPDATE inode SET size = ?, stored = ? WHERE id = ?", (len(data), len(data), inode.ino)
        )
        await self.commits.durable_now()
        return inode.ino

    async def remove(self, ino: Ino) -> None:
        """Unlink it, committed."""
        execute = self.database.connection.execute
        execute("DELETE FROM dirent WHERE ino = ?", (ino,))
        self.extents.truncate(ino, 0)
        execute("DELETE FROM inode WHERE id = ?", (ino,))
        await self.commits.durable_now()

    def tables(self) -> dict[str, list[tuple[object, ...]]]:
        """Every replicated row."""
        from megafs.index.schema import REPLICATED

        return {t: sorted(self.database.connection.execute(f"SELECT * FROM {t}")) for t in REPLICATED}

    def crash(self) -> None:
        """Close without committing what is open."""
        self.database.close()
        self.disk.close()


def root_row(device: Device) -> Attributes | None:
    return device.inodes.get(ROOT_INO)


async def attached(world: World, root: Path, least: int | None = None) -> Device:
    """A new device, from the hosts alone; it has claimed and made its first commit."""
    identity = world.identity
    (root / "packs").mkdir(parents=True)
    objects = world.objects()
    found = await survey(objects, identity.trust)
    database = Database(root / "index.db", raw(bytes(32)), create=True)
    done = await recover.rebuild(database, objects, identity.trust, found)
    signer = identity.signer(recover.next_number(database, found))
    claims = Claims(objects, identity.trust, None, trio.current_time)
    claim = await claims.claim(signer, done.step, int(time.time()), least=least)
    recover.enrol(database, signer, b"certificate", term=claim.claim.term, done=done, survey=found)
    database.commit(0)
    database.close()
    device = Device(world, root, signer)
    device.survey = found
    return device


def checkpointer(device: Device) -> Checkpointer:
    return Checkpointer(
        database=device.database,
        keyring=device.world.identity.keyring,
        stream=device.stream,
        shipper=device.shipper,
        commits=device.commits,
        landscape=device.world.landscape,
        clock=device.clock,
    )
