"""A drive without a kernel, used at random, with a model of what may and what must be there after a crash.

The model counts versions: each operation that was accepted makes the next one. A promise is a version: all that was
accepted before an fsync that returned. After a crash at step n
* the names are exactly those of one version, not older than the newest promise, not newer than what was accepted by n;
* each file holds, byte for byte, what it held in some version that is neither older than the promise nor than the last
  unlink, replacing rename or truncate among the operations found: a commit never holds a destructive step without the
  data accepted before it;
* the index breaks none of its invariants, every chunk opens, every pack file is known, nothing was logged as a warning;
* no host holds a commit that the device does not know it made.
"""

import logging
import random
import stat
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

import trio

from megafs.config import MountOptions, Settings, VaultPaths
from megafs.crypto.identity import RootKey
from megafs.crypto.keys import Keyring
from megafs.daemon import create
from megafs.daemon.device import Device
from megafs.daemon.engine import Engine
from megafs.errors import MegaFSError
from megafs.files.namespace import Change
from megafs.hosts import stacked
from megafs.hosts.wrappers import Wrapped
from megafs.index.database import Database
from megafs.index.invariants import faults, left_over
from megafs.index.packs import SHIPPED
from megafs.model import ROOT_INO, HostId, HostSpec, Ino, Policy
from megafs.sync import recover
from megafs.sync.objects import Objects
from tests.crash.machine import Entry, Image, Log, LoggedDatabase, LoggedDisk
from tests.support.hosts import MemoryHost
from tests.support.keys import raw

SETTINGS = Settings(commit_s=0.05, pack_idle_s=0.05, pack_age_s=0.1, host_reply_s=5, host_patience_s=5)
CACHE_BYTES = 1 << 20  # so that packs are evicted all the time
MODE = stat.S_IFREG | 0o644
NAMES = [b"a", b"b", b"c", b"d", b"e"]
SIZES = [1, 100, 4096, 5000, 30_000, 70_000]
HOSTS = [HostSpec(id=HostId(bytes([n]) * 16), url=f"file:///{n}", label=f"host{n}") for n in (1, 2)]


@cache
def identity() -> Device:
    """One vault for all; its keys cost nothing, but a round needs no new ones."""
    root = RootKey.generate()
    return create.first_device(Keyring.create(root.public), root)


class LoggedHost(Wrapped):
    """What a host has acknowledged is a step, too: the machine must not forget what it told others."""

    def __init__(self, inner: MemoryHost, label: str, log: Log) -> None:
        super().__init__(inner)
        self._label_of, self._log = label, log

    async def put(self, name, data):
        await super().put(name, data)
        self._log.add(Entry("put", self._label_of, data=bytes(data), note=name))

    async def delete(self, name):
        await super().delete(name)
        self._log.add(Entry("delete", self._label_of, note=name))


def new_vault(root: Path) -> Image:
    """The directory of an empty vault."""
    paths = VaultPaths(root=root)
    paths.packs.mkdir(parents=True)
    device = identity()
    database = Database(paths.index, raw(device.keyring.index_key(device.id)), create=True)
    create.fill(database, device, HOSTS, Policy(copies=2))
    database.commit(0)
    database.close()
    return Image.of(root, {spec.label: {} for spec in HOSTS})


@asynccontextmanager
async def engine_on(
    root: Path,
    objects,
    log: Log | None,
    *,
    ships: bool = True,
    forgotten: frozenset[str] = frozenset(),
    delayed: bool = False,
):
    """An engine on a directory, its loops running; logged if there is a log. What it has not committed is lost."""
    paths, device = VaultPaths(root=root), identity()
    key = raw(device.keyring.index_key(device.id))
    database = LoggedDatabase(paths.index, key, log, forgotten) if log is not None else Database(paths.index, key)
    database.adopt(device.number)
    stacks = {}
    for spec in HOSTS:
        host = MemoryHost(label=spec.label)
        host.objects = objects[spec.label]
        wrapped = LoggedHost(host, spec.label, log) if log is not None else host
        stacks[spec.id] = stacked(wrapped, label=spec.label, reply_s=5, patience_s=5)
    disk = LoggedDisk(paths.packs, log, forgotten) if log is not None else None
    engine = Engine(paths, device, database, SETTINGS, MountOptions(), stacks, disk)
    if log is not None:
        engine.cache.limit_bytes = CACHE_BYTES
    if delayed:
        delay_syncs(engine)
    if "gate" in forgotten:
        engine.commits.destructive = lambda: None
    if "hold" in forgotten:
        engine.content.hold = lambda: None
    engine.names.purge_left_over()
    engine.commits.on_durable = lambda: (engine.shipper.wake(), engine.cache.wake())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.commits.run)
            nursery.start_soon(engine.content.run)
            nursery.start_soon(engine.cache.run)
            if ships:
                nursery.start_soon(engine.shipper.run)
                nursery.start_soon(engine.keeping.checkpointer.run)
            yield engine
            nursery.cancel_scope.cancel()
    finally:
        engine.close()


SYNC_S = 0.004  # what a sync of a real disk takes


def delay_syncs(engine: Engine) -> None:
    """Content comes into the pack between a sync of it and the COMMIT that the sync was for, as it does all the time on
    a real disk, where a sync takes milliseconds."""
    sync, syncs = engine.writer.sync, count()

    async def synced() -> None:
        await sync()
        if next(syncs) % 3:
            await trio.sleep(SYNC_S)
            await engine.content.flush()

    engine.writer.sync = synced


Tree = dict[bytes, Ino]


@dataclass(slots=True)
class Model:
    """Every version since the last crash."""

    trees: list[tuple[int, Tree]] = field(default_factory=list)  # (version, path: inode), when names changed
    files: dict[Ino, list[tuple[int, bytes]]] = field(default_factory=dict)  # (version, content), when it changed
    destructive: list[int] = field(default_factory=list)  # versions
    accepted: list[int] = field(default_factory=list)  # by version: length of the log when it was accepted
    directories: set[Ino] = field(default_factory=set)

    @property
    def version(self) -> int:
        return len(self.accepted) - 1

    @property
    def tree(self) -> Tree:
        return dict(self.trees[-1][1])

    def note(self, at: int, *, tree: Tree | None = None, file: tuple[Ino, bytes] | None = None, destroys: bool = False):
        self.accepted.append(at)
        if tree is not None:
            self.trees.append((self.version, tree))
        if file is not None:
            self.files.setdefault(file[0], []).append((self.version, file[1]))
        if destroys:
            self.destructive.append(self.version)

    def content(self, ino: Ino) -> bytes:
        return self.files[ino][-1][1] if ino in self.files else b""

    def latest(self, step: int) -> int:
        """The newest version accepted by then."""
        return sum(at <= step for at in self.accepted) - 1


def listing(engine: Engine) -> tuple[Tree, set[Ino]]:
    """Every path and its inode; and which are directories."""
    tree: Tree = {}
    directories = {ROOT_INO}
    todo: list[tuple[bytes, Ino]] = [(b"", ROOT_INO)]
    while todo:
        above, ino = todo.pop()
        for _, name, row in engine.names.page(ino, 2):
            path = above + b"/" + name
            tree[path] = row.ino
            if stat.S_ISDIR(row.mode):
                directories.add(row.ino)
                todo.append((path, row.ino))
    return tree, directories


async def contents(engine: Engine, ino: Ino) -> bytes:
    row = engine.names.row(ino)
    size = engine.content.size(ino, row.size)
    return bytes(await engine.content.read(ino, 0, size, row.size)) if size else b""


async def model_of(engine: Engine) -> Model:
    """A model that begins with what is there."""
    tree, directories = listing(engine)
    model = Model(directories=directories)
    model.note(0, tree=tree)
    for ino in set(tree.values()) - directories:
        model.files[ino] = [(0, await contents(engine, ino))]
    return model


class Workload:
    """Random operations by one user, and fsyncs beside them."""

    def __init__(self, engine: Engine, model: Model, log: Log, chance: random.Random) -> None:
        self.engine, self.model, self.log, self.chance = engine, model, log, chance

    async def run(self, operations: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sync_now_and_then)
            nursery.start_soon(self._collect)
            for _ in range(operations):
                await self._one()
                self.engine.commits.note_change()
                await trio.sleep(self.chance.choice([0, 0, 0, 0.001, 0.004]))
            nursery.cancel_scope.cancel()
        await self.sync()

    async def _sync_now_and_then(self) -> None:
        while True:
            await trio.sleep(self.chance.random() * 0.03)
            await self.sync()

    async def _collect(self) -> None:
        """The daemon does it every two seconds and every five minutes."""
        while True:
            await trio.sleep(0.1)
            await self.engine.keeping.collector.sweep()
            if self.chance.random() < 0.3:
                await self.engine.keeping.compactor.run_once()

    async def sync(self) -> None:
        """fsync(2), of whichever file: it holds for everything."""
        version = self.model.version
        await self.engine.commits.durable_now()
        self.log.add(Entry("promise", note=version))

    async def _gate(self) -> None:
        while (passing := self.engine.commits.destructive()) is not None:
            await passing.wait()

    def _place(self) -> tuple[bytes, Ino, bytes]:
        """Some directory's path and inode, some name."""
        tree = self.model.tree
        found = [(path, ino) for path, ino in tree.items() if ino in self.model.directories and path.count(b"/") < 3]
        path, ino = self.chance.choice([(b"", ROOT_INO), *found])
        return path, ino, self.chance.choice(NAMES)

    async def _one(self) -> None:
        kinds = {
            self.write: 10, self.make: 3, self.save: 4, self.cut: 2, self.remove: 3, self.mkdir: 2, self.rename: 2,
            self.link: 1,
        }  # fmt: skip
        kind: Callable = self.chance.choices(list(kinds), list(kinds.values()))[0]
        await kind()

    def _some_file(self) -> Ino | None:
        files = sorted({ino for ino in self.model.tree.values() if ino not in self.model.directories})
        return self.chance.choice(files) if files else None

    async def write(self) -> None:
        ino = self._some_file()
        if ino is not None:
            old = self.model.content(ino)
            start = self.chance.choice([0, len(old), self.chance.randrange(len(old) + 9000)])
            await self._write(ino, start, self.chance.randbytes(self.chance.choice(SIZES)))

    async def _write(self, ino: Ino, start: int, data: bytes) -> None:
        await self.engine.content.write(ino, start, data)
        old = self.model.content(ino)
        new = old.ljust(start, b"\0")[:start] + data + old[start + len(data) :]
        self.model.note(len(self.log), file=(ino, new))

    def _make(self, above: Ino, path: bytes, mode: int) -> Ino:
        row = self.engine.names.create(above, path.rpartition(b"/")[2], mode, 0, 0)
        tree = self.model.tree
        tree[path] = row.ino
        if stat.S_ISDIR(mode):
            self.model.directories.add(row.ino)
        self.model.note(len(self.log), tree=tree)
        return row.ino

    async def make(self) -> None:
        path, above, name = self._place()
        if path + b"/" + name not in self.model.tree:
            self._make(above, path + b"/" + name, MODE)

    async def mkdir(self) -> None:
        path, above, name = self._place()
        if path + b"/" + name not in self.model.tree and path.count(b"/") < 2:
            self._make(above, path + b"/" + name, stat.S_IFDIR | 0o755)

    async def save(self) -> None:
        """As an editor: a new file, its content, maybe fsync, renamed over the old one."""
        path, above, name = self._place()
        new_name = b".new%d" % self.engine.database.new_id()
        temporary, target = path + b"/" + new_name, path + b"/" + name
        if self.model.tree.get(target) in self.model.directories:
            return
        ino = self._make(above, temporary, MODE)
        for _ in range(self.chance.randrange(1, 4)):
            await self._write(ino, len(self.model.content(ino)), self.chance.randbytes(self.chance.choice(SIZES)))
        if self.chance.random() < 0.3:
            await self.sync()
        await self._gate()
        self.engine.names.rename(above, new_name, above, name, 0)
        tree = self.model.tree
        tree[target] = tree.pop(temporary)
        self.model.note(len(self.log), tree=tree, destroys=True)
        self._forget_unlinked()

    async def cut(self) -> None:
        ino = self._some_file()
        if ino is None:
            return
        old = self.model.content(ino)
        size = self.chance.choice([0, self.chance.randrange(len(old) + 5000)])
        await self._gate()
        self.engine.names.change(ino, Change(size=size))
        self.model.note(len(self.log), file=(ino, old[:size].ljust(size, b"\0")), destroys=True)

    async def remove(self) -> None:
        tree = self.model.tree
        if not tree:
            return
        path = self.chance.choice(sorted(tree))
        above, _, name = path.rpartition(b"/")
        is_directory = tree[path] in self.model.directories
        if is_directory and any(other.startswith(path + b"/") for other in tree):
            return
        await self._gate()
        parent = tree[above] if above else ROOT_INO
        (self.engine.names.rmdir if is_directory else self.engine.names.unlink)(parent, name)
        del tree[path]
        self.model.note(len(self.log), tree=tree, destroys=True)
        self._forget_unlinked()

    async def link(self) -> None:
        ino = self._some_file()
        path, above, name = self._place()
        if ino is not None and path + b"/" + name not in self.model.tree:
            self.engine.names.link(ino, above, name)
            tree = self.model.tree
            tree[path + b"/" + name] = ino
            self.model.note(len(self.log), tree=tree)

    async def rename(self) -> None:
        """To a free name, maybe elsewhere; directories with all that is in them."""
        tree = self.model.tree
        path, above, name = self._place()
        target = path + b"/" + name
        if not tree or target in tree:
            return
        source = self.chance.choice(sorted(tree))
        if (target + b"/").startswith(source + b"/"):
            return
        old_above, _, old_name = source.rpartition(b"/")
        await self._gate()
        self.engine.names.rename(tree[old_above] if old_above else ROOT_INO, old_name, above, name, 0)
        moved = {
            target + old[len(source) :] if (old + b"/").startswith(source + b"/") else old: ino
            for old, ino in tree.items()
        }
        self.model.note(len(self.log), tree=moved, destroys=True)

    def _forget_unlinked(self) -> None:
        """The kernel forgets some of them, some it keeps until the crash."""
        for ino in list(self.engine.names.unlinked):
            if self.chance.random() < 0.7:
                self.engine.names.purge(ino)


class Warnings(logging.Handler):
    """What was logged that a human would have to look at."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@dataclass(slots=True)
class Verdict:
    """What was checked after one crash, and what was wrong."""

    wrong: list[str] = field(default_factory=list)
    files: int = 0
    chunks: int = 0


async def verify(root: Path, image: Image, model: Model, promised: int, step: int, *, thorough: bool) -> Verdict:
    """Open what a crash left, and compare with the model."""
    verdict, warnings = Verdict(), Warnings()
    image.unfold(root)
    logging.getLogger("megafs").addHandler(warnings)
    try:
        objects = {host: dict(held) for host, held in image.objects.items()}  # the next life begins with them, too
        async with engine_on(root, objects, None, ships=thorough) as engine:
            await _examine(engine, model, promised, model.latest(step), verdict)
            row = engine.names.create(ROOT_INO, b"afterwards", MODE, 0, 0)
            await engine.content.write(row.ino, 0, b"goes on")
            await engine.commits.durable_now()
            if thorough:
                async for _ in engine.shipper.until_shipped(5):
                    pass
                await _examine_leftovers(engine, verdict)
                unshipped = [number for number, _, state, _ in engine.packs.locals() if state != SHIPPED]
                verdict.wrong += [f"pack {number} was not shipped" for number in unshipped]
    except (MegaFSError, AssertionError, ExceptionGroup) as error:
        verdict.wrong.append(f"{type(error).__name__}: {error}")
    finally:
        logging.getLogger("megafs").removeHandler(warnings)
    verdict.wrong += [f"logged: {line}" for line in warnings.lines]
    return verdict


async def _examine(engine: Engine, model: Model, promised: int, latest: int, verdict: Verdict) -> None:
    tree, directories = listing(engine)
    fitting = [
        version
        for (version, known), after in zip(model.trees, [*model.trees[1:], (latest + 1, {})], strict=True)
        if known == tree and version <= latest and after[0] > promised
    ]
    if not fitting:
        known = "of an older version" if any(seen == tree for _, seen in model.trees) else "of no version"
        verdict.wrong.append(f"names are {known}; promised {promised}, accepted {latest}")
    else:
        found = max(fitting[0], promised)
        floor = max([promised, *(at for at in model.destructive if at <= found)])
        for ino in sorted(set(tree.values()) - directories):
            verdict.files += 1
            _compare(ino, await contents(engine, ino), model.files.get(ino, [(0, b"")]), floor, latest, verdict)
    connection = engine.database.connection
    verdict.wrong += [f"{fault.rule} {fault.row}: {fault.text}" for fault in faults(connection)]
    objects = Objects(engine.device.keyring, {host: stack.prompt for host, stack in engine.stacks.items()})
    if await recover.steps_ahead(objects, engine.device.trust, engine.shipper.stream.position, engine.device.number):
        verdict.wrong.append("hosts hold a commit that this device does not know it made")
    if left_over(connection):
        verdict.wrong.append("unlinked inodes were not purged")
    await _examine_packs(engine, verdict)


def _compare(ino: Ino, found: bytes, known: list[tuple[int, bytes]], floor: int, latest: int, verdict: Verdict) -> None:
    """Each byte as it was in one of the versions that count."""
    first = max((n for n, (version, _) in enumerate(known) if version <= floor), default=0)
    counted = [content for version, content in known[first:] if version <= latest] or [b""]
    if known and known[0][0] > floor:
        counted.append(b"")  # it was made after, and may be empty still
    if found in counted:
        return
    sizes = [len(content) for content in counted]
    if not min(sizes) <= len(found) <= max(sizes):
        verdict.wrong.append(f"file {ino} has {len(found)} bytes, not one of {sizes}; floor {floor}, accepted {latest}")
        return
    padded = [content.ljust(len(found), b"\0") for content in counted]
    for at, byte in enumerate(found):
        if all(content[at] != byte for content in padded):
            verdict.wrong.append(f"file {ino} is wrong at byte {at}; floor {floor}, accepted {latest}")
            return


async def _examine_leftovers(engine: Engine, verdict: Verdict) -> None:
    """Whatever died is collected: here, and once it is shipped or dropped."""
    for _ in range(2):
        await engine.keeping.collector.sweep()
    await engine.commits.durable_now()
    count = engine.database.connection.execute
    if count("SELECT count(*) FROM candidate").get:
        verdict.wrong.append("candidates were not collected")
    unused = count("SELECT count(*) FROM chunk WHERE id NOT IN (SELECT chunk FROM extent)").get
    if unused:
        verdict.wrong.append(f"{unused} chunks are left that nothing names")
    for number in set(engine.disk.numbers()) - {each[0] for each in engine.packs.locals()}:
        verdict.wrong.append(f"pack file {number} is left that nobody knows")


async def _examine_packs(engine: Engine, verdict: Verdict) -> None:
    known = {number: state for number, _, state, _ in engine.packs.locals()}
    for number in engine.disk.numbers():
        if number not in known:
            verdict.wrong.append(f"pack file {number} is known to nobody")
    for pack in engine.packs.all():
        for place in engine.packs.places(pack.number):
            verdict.chunks += 1
            if known.get(pack.number, SHIPPED) == SHIPPED:  # evicted: on the hosts
                await engine.reader.chunk(place)
                continue
            sealed = engine.disk.read(place.pack, place.offset, place.sealed_bytes)
            try:
                engine.device.keyring.open_chunk(pack.epoch, place, sealed)
            except MegaFSError as error:
                verdict.wrong.append(f"chunk at {place.offset} of pack {place.pack}: {type(error).__name__} {error}")
