"""One device, killed again and again: real files, real SIGKILL, three hosts of which some are slow and some away.

Each life is a process that opens the vault as a mount does (an old state is looked for, claims are looked at), writes
files and ships them, until its parent kills it. A life that logs a WARNING, or that misses a promise of a former one,
says so in ``said``. So do a host and a state directory that were put back to an older copy: the negative controls.

Run as a program: ``python -m tests.crash.killed ROOT LIVES SEED [PUT_BACK]`` prints one JSON object of counts.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import trio

from megafs.config import MountOptions, Settings, VaultPaths
from megafs.daemon import create
from megafs.daemon.catchup import catch_up
from megafs.daemon.device import Device
from megafs.daemon.engine import Engine
from megafs.daemon.hosts import Opener
from megafs.errors import HostUnreachable, Incomplete, ReadOnly
from megafs.hosts.directory import DirectoryHost
from megafs.hosts.wrappers import Request, Wrapped
from megafs.index.database import Database
from megafs.index.vault import Vault
from megafs.model import ROOT_INO, HostId, HostSpec, Policy
from megafs.sync import recover
from megafs.sync.objects import Objects
from megafs.sync.survey import survey
from tests.crash.drive import MODE, contents, identity
from tests.support.keys import raw

Result = TypeVar("Result")

SETTINGS = Settings(
    commit_s=0.05, pack_idle_s=0.05, pack_age_s=0.1, host_reply_s=5, host_patience_s=1, retention_s=0, compression=False
)
HOSTS = 3
FILES = 12
LONGEST_S = 1.0  # of a life
OPENED = 0.8  # the share of lives that open the vault before they may end
SETTLING_S = 20.0  # of a life that is not killed
SIZES = (10, 500, 5000, 70_000)
PUT_BACK = ("host", "state")


class Weather(Wrapped):
    """A host in the mood of one life."""

    def __init__(self, inner: DirectoryHost, mood: str, lots: random.Random) -> None:
        super().__init__(inner)
        self._mood, self._lots = mood, lots
        self._left = lots.randrange(1, 40)

    async def around(self, request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
        await trio.sleep(self._lots.uniform(0, 0.1) if self._mood == "slow" else 0)
        self._left -= 1
        if self._mood == "away" or (self._mood == "leaving" and self._left < 0):
            raise HostUnreachable("not there")
        result = await work()
        await trio.sleep(self._lots.uniform(0, 0.1) if self._mood == "slow" else 0)
        if self._mood == "deaf" and self._lots.random() < 0.3:
            raise HostUnreachable("its answer was lost")
        return result


MOODS = ("fine", "fine", "slow", "slow", "leaving", "away", "deaf")


class World:
    """The directories of a vault and of its hosts. What is promised stands in ``manifest``, one line each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = VaultPaths(root=root / "vault")
        self.manifest, self.said = root / "manifest", root / "said"
        self.specs = [
            HostSpec(id=HostId(bytes([n]) * 16), url=f"file://{root}/host{n}", label=f"host{n}")
            for n in range(1, HOSTS + 1)
        ]

    def host(self, number: int) -> Path:
        return self.root / f"host{number}"

    def make(self, device: Device) -> None:
        self.paths.packs.mkdir(parents=True)
        self.manifest.touch()
        self.said.touch()
        database = Database(self.paths.index, raw(device.keyring.index_key(device.id)), create=True)
        create.fill(database, device, self.specs, Policy(copies=2))
        database.commit(0)
        database.sync_wal()
        database.close()

        async def prepare() -> None:
            for number in range(1, HOSTS + 1):
                self.host(number).mkdir()
                await DirectoryHost(self.host(number), label="new").prepare()

        trio.run(prepare)

    def promised(self) -> dict[str, set[str]]:
        """What each file may hold: what was promised last, or anything begun since. Digests, or "absent"."""
        allowed: dict[str, set[str]] = {}
        for line in self.manifest.read_text().splitlines():
            what, name, digest = line.split(" ")
            if what == "promised":
                allowed[name] = {digest}
            else:
                allowed.setdefault(name, {"absent"}).add(digest)
        return allowed


class Life:
    """One process's use of the vault; ``moods`` by host."""

    def __init__(self, world: World, device: Device, lots: random.Random, moods: list[str]) -> None:
        self.world, self.device, self.lots, self.moods = world, device, lots, moods
        self.manifest = os.open(world.manifest, os.O_WRONLY | os.O_APPEND)
        self.open = lambda: None  # called once the vault is open

    async def live(self, work: Callable[[Engine], Awaitable[None]]) -> None:
        """As a mount does: daemon.run without a kernel."""
        world, device = self.world, self.device
        database = Database(world.paths.index, raw(device.keyring.index_key(device.id)))
        database.adopt(device.number)
        opener = Opener(SETTINGS, lambda url: {})
        stacks = {
            spec.id: opener.stack(spec, Weather(DirectoryHost(Path(spec.url[7:]), label=spec.label), mood, self.lots))
            for spec, mood in zip(Vault(database).hosts(), self.moods, strict=True)
        }
        await catch_up(world.paths, database, device, stacks)
        engine = Engine(world.paths, device, database, SETTINGS, MountOptions(), stacks)
        engine.names.purge_left_over()
        with suppress(ReadOnly):
            await engine.shipper.claims.look()
        await self.check(engine)
        self.open()
        engine.commits.on_durable = lambda: (engine.keeping.wake(), engine.cache.wake())
        async with trio.open_nursery() as nursery:
            loops = (engine.commits.run, engine.content.run, engine.cache.run, *engine.keeping.loops())
            for loop in loops:
                nursery.start_soon(loop)
            await work(engine)
            nursery.cancel_scope.cancel()
        engine.close()

    async def check(self, engine: Engine) -> None:
        """Every promise of former lives."""
        for name, allowed in self.world.promised().items():
            row = engine.names.lookup(ROOT_INO, name.encode())
            found = hashlib.sha256(await contents(engine, row.ino)).hexdigest() if row is not None else "absent"
            if found not in allowed:
                logging.getLogger("megafs").error("%s was promised and is not there", name)

    def note(self, what: str, name: str, digest: str) -> None:
        os.write(self.manifest, f"{what} {name} {digest}\n".encode())

    async def work(self, engine: Engine) -> None:
        """Until killed."""
        steps: dict[Callable[[Engine], Awaitable[None]], int] = {
            self.write: 10, self.remove: 2, self.ship: 4, self.checkpoint: 1, self.tend: 2, self.look: 3,
        }  # fmt: skip
        while True:
            await self.lots.choices(list(steps), list(steps.values()))[0](engine)

    async def write(self, engine: Engine) -> None:
        name = f"file{self.lots.randrange(FILES)}"
        data = os.urandom(self.lots.choice(SIZES))
        digest = hashlib.sha256(data).hexdigest()
        self.note("begun", name, digest)
        there = engine.names.lookup(ROOT_INO, name.encode())
        fresh = engine.names.create(ROOT_INO, b".new", MODE, 0, 0)
        await engine.content.write(fresh.ino, 0, data)
        while (passing := engine.commits.destructive()) is not None:
            await passing.wait()
        engine.names.rename(ROOT_INO, b".new", ROOT_INO, name.encode(), 0)
        if there is not None:
            engine.names.purge(there.ino)
        engine.commits.note_change()
        await engine.commits.durable_now()
        self.note("promised", name, digest)

    async def remove(self, engine: Engine) -> None:
        name = f"file{self.lots.randrange(FILES)}"
        there = engine.names.lookup(ROOT_INO, name.encode())
        if there is None:
            return
        self.note("begun", name, "absent")
        while (passing := engine.commits.destructive()) is not None:
            await passing.wait()
        engine.names.unlink(ROOT_INO, name.encode())
        engine.names.purge(there.ino)
        engine.commits.note_change()
        await engine.commits.durable_now()
        self.note("promised", name, "absent")

    async def ship(self, engine: Engine) -> None:
        with suppress(Incomplete):
            async for _ in engine.shipper.until_shipped(0.2):
                pass

    async def checkpoint(self, engine: Engine) -> None:
        engine.keeping.checkpointer.note_complete()
        with trio.move_on_after(0.3):
            if not engine.keeping.checkpointer.is_pending():
                await engine.keeping.checkpointer.make()

    async def tend(self, engine: Engine) -> None:
        await engine.keeping.collector.sweep()
        await engine.keeping.collector.tend()

    async def look(self, engine: Engine) -> None:
        """For hosts that show less than they have confirmed, or another history. Alarms are logged."""
        await engine.keeping.mirror.watch.look()

    async def settle(self, engine: Engine) -> None:
        """All that is there is shipped, and seen again."""
        async for _ in engine.shipper.until_shipped(SETTLING_S):
            pass
        await self.look(engine)


def lived(world: World, device: Device, lots: random.Random, moods: list[str], *, settle: bool = False) -> int:
    """A life in a process of its own, killed at some moment unless it is to ``settle``; its wait status."""
    seed = lots.randrange(1 << 60)
    opened, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(opened)
            logging.basicConfig(filename=world.said, level=logging.WARNING, format="%(levelname)s %(message)s")
            life = Life(world, device, random.Random(seed), moods)
            life.open = lambda: os.close(tell)
            trio.run(life.live, life.settle if settle else life.work)
            status = 0
        except BaseException:
            with world.said.open("a") as file:
                traceback.print_exc(file=file)
        finally:
            os._exit(status)
    os.close(tell)
    if not settle:
        if lots.random() < OPENED:
            os.read(opened, 1)  # the other end was closed
        time.sleep(LONGEST_S * lots.random() ** 2 + 0.01)  # most lives are short
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os.close(opened)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def same_from_the_hosts(world: World, device: Device) -> None:
    """The index that a new device gets is this one."""

    async def rebuilt(database: Database) -> None:
        hosts = {spec.id: DirectoryHost(Path(spec.url[7:]), label=spec.label) for spec in world.specs}
        objects = Objects(device.keyring, hosts)
        await recover.rebuild(database, objects, device.trust, await survey(objects, device.trust))

    def rows(database: Database) -> dict[str, list[tuple[object, ...]]]:
        # What is behind the files. Other rows may have changed since all was shipped: collecting never rests.
        named = " WHERE id IN (SELECT chunk FROM extent)"
        tables = {"inode": "", "dirent": "", "extent": "", "xattr": "", "chunk": named}
        return {
            table: sorted(database.connection.execute(f"SELECT * FROM {table}{which}"))
            for table, which in tables.items()
        }

    mine = Database(world.paths.index, raw(device.keyring.index_key(device.id)))
    other = Database(world.root / "other.db", raw(bytes(32)), create=True)
    trio.run(rebuilt, other)
    differing = [table for table, found in rows(mine).items() if rows(other)[table] != found]
    mine.close()
    other.close()
    if differing:
        with world.said.open("a") as file:
            file.write(f"ERROR the hosts tell of another index: {differing}\n")


@contextmanager
def put_back(world: World, what: str) -> Iterator[None]:
    """Negative control: a copy of a host or of the state is made before the body and put in its place after it."""
    place = {"host": world.host(1), "state": world.paths.root}[what]
    shutil.copytree(place, world.root / "older")
    yield
    shutil.rmtree(place)
    (world.root / "older").rename(place)


def main(root: Path, lives: int, seed: int, control: str) -> dict[str, object]:
    """So many lives; then everything is shipped, and a new device compares. With a ``control``, something older is put
    back at the end."""
    lots, device, world = random.Random(seed), identity(), World(root)
    world.make(device)
    counts: Counter[str] = Counter()
    for _ in range(lives):
        moods = [lots.choice(MOODS) for _ in range(HOSTS)]
        status = lived(world, device, lots, moods)
        counts.update({f"ended {status}": 1, **Counter(moods)})
        if world.said.stat().st_size:
            break  # the first alarm is the one to look at
    fine = ["fine"] * HOSTS
    if not world.said.stat().st_size:
        counts[f"settled {lived(world, device, lots, fine, settle=True)}"] += 1
        same_from_the_hosts(world, device)
    before = world.said.read_text()
    if control:
        with put_back(world, control):
            for _ in range(10):
                lived(world, device, lots, fine)
            lived(world, device, lots, fine, settle=True)
        lived(world, device, lots, fine, settle=True)
    objects = sum(len(list(world.host(n).rglob("*"))) for n in range(1, HOSTS + 1))
    promises = sum(line.startswith("promised") for line in world.manifest.read_text().splitlines())
    return {
        "counts": dict(counts),
        "promises": promises,
        "objects": objects,
        "alarms": before.splitlines(),
        "alarms after the control": world.said.read_text()[len(before) :].splitlines(),
    }


if __name__ == "__main__":
    place, number, chosen, *rest = sys.argv[1:]
    print(json.dumps(main(Path(place), int(number), int(chosen), rest[0] if rest else "")))
