"""A new epoch on real folders, without a mount: killed before each of its steps, with a device revoked, sealed anew."""

import os
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio

from megafs.config import MountOptions, Settings, VaultPaths
from megafs.crypto.identity import DeviceKey, RootKey, issue_device
from megafs.crypto.keys import Keyring, ident_claim, ident_commit, ident_epoch
from megafs.crypto.recovery import RecoveryKey
from megafs.daemon.attach import attach_vault, find_way
from megafs.daemon.create import fill, first_device, host_specs
from megafs.daemon.engine import Engine
from megafs.daemon.epochs import open_index, settle
from megafs.daemon.hosts import Opener, connected
from megafs.daemon.rotate import Asked, rotate_vault
from megafs.errors import DamagedIndex, HostError, ReadOnly, RolledBack, Unauthentic, Unavailable, Usage, WrongKey
from megafs.index.database import Database
from megafs.index.schema import REPLICATED
from megafs.model import NO_SECRETS, DeviceId, Kind, Policy
from megafs.sync import boot, recover
from megafs.sync.claims import Claims
from megafs.sync.compact import resealed
from megafs.sync.objects import Objects
from megafs.sync.statements import Claim, Signer, Trust, framed
from megafs.sync.survey import survey
from tests.security.rig import Drive
from tests.security.test_restore import restore

SETTINGS = Settings(pack_idle_s=0.2, host_patience_s=5.0)
STEPS = ("boot file-1", "boot file-2", "slot", "index", "new checkpoint", "done")


class Killed(BaseException):
    """What a kill leaves of the process: nothing."""


class Place:
    """A vault of one device in a directory, its slot a variable."""

    def __init__(self, base, hosts=2):
        self.base = base
        self.root, self.recovery = RootKey.generate(), RecoveryKey.generate()
        keyring = Keyring.create(self.root.public)
        self.device = first_device(keyring, self.root)
        self.urls = [(base / f"host-{number}").as_uri() for number in range(hosts)]
        self.specs = host_specs(self.urls)
        self.paths = VaultPaths(root=base / "v")
        self.paths.packs.mkdir(parents=True)
        self.paths.settings.write_text("pack_idle_s = 0.2\nhost_patience_s = 5.0\n")
        database = Database(self.paths.index, keyring.index_key(self.device.id), create=True)
        fill(database, self.device, self.specs, Policy(copies=hosts))
        database.commit(0)
        database.close()
        trio.run(self.introduce)

    async def introduce(self):
        async with self.connected() as stacks:
            for spec in self.specs:
                await stacks[spec.id].prompt.prepare()
                await boot.put(
                    stacks[spec.id].prompt, spec, self.specs, generation=1, keyring=self.device.keyring,
                    epochs=self.device.epochs, recovery=self.recovery, root=self.root,
                )  # fmt: skip

    def connected(self):
        return connected(self.specs, Opener(SETTINGS, lambda url: {}))

    def store(self, device):
        self.device = device

    def rotate(self, *, kill="", **asked):
        def reached(step):
            if step == kill:
                raise Killed

        return rotate_vault(self.paths, self.device, self.recovery, Asked(**asked), self.store, reached)

    @asynccontextmanager
    async def working(self, *loops):
        """As a mount would have it."""
        database = open_index(self.paths, self.device)
        database.adopt(self.device.number)
        async with self.connected() as stacks:
            settle(database, self.device)
            engine = Engine(self.paths, self.device, database, SETTINGS, MountOptions(), stacks)
            try:
                async with trio.open_nursery() as nursery:
                    for loop in (engine.commits.run, engine.content.run, engine.shipper.run):
                        nursery.start_soon(loop)
                    engine.commits.on_durable = engine.keeping.wake
                    yield Drive(engine)
                    nursery.cancel_scope.cancel()
            finally:
                engine.close()

    async def shipped(self, drive):
        async for _ in drive.engine.shipper.until_shipped(5):
            pass

    def write(self, name, data):
        async def run():
            async with self.working() as drive:
                await drive.write(name, data)
                await self.shipped(drive)

        trio.run(run)

    def read(self, name):
        async def run():
            async with self.working() as drive:
                return await drive.read(drive.engine.names.lookup(1, name).ino)

        return trio.run(run)

    def with_words(self, urls=None):
        """Every row and the newest epoch, as one who has only the words gets them."""

        async def run():
            way, named = await find_way(urls or self.urls, self.recovery, SETTINGS, NO_SECRETS)
            keyring = Keyring.from_fields(way.keyring)
            trust = Trust.of(keyring.vault, way.root_public, way.epochs)
            async with connected(named, Opener(SETTINGS, lambda url: {})) as stacks:
                objects = Objects(keyring, {host: stack.prompt for host, stack in stacks.items()})
                found = await survey(objects, trust)
                database = Database(self.base / f"{os.urandom(8).hex()}.db", bytes(32), create=True)
                await recover.rebuild(database, objects, trust, found)
                rows = {table: sorted(database.connection.execute(f"SELECT * FROM {table}")) for table in REPLICATED}
                database.close()
                return rows, keyring.epoch

        return trio.run(run)

    def rows(self):
        database = open_index(self.paths, self.device)
        try:
            return {table: sorted(database.connection.execute(f"SELECT * FROM {table}")) for table in REPLICATED}
        finally:
            database.close()


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """The process of the tests stays dumpable, and its umask."""
    monkeypatch.setattr("megafs.process.harden", lambda: None)


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    made.write(b"before", b"b" * 50_000)
    return made


def test_a_rotation(place):
    former = place.device
    done = place.rotate()
    assert (done.epoch, done.without_boot, done.waiting) == (2, (), "")
    with pytest.raises(DamagedIndex):
        Database(place.paths.index, place.device.keyring.index_key(former.id, 2)).close()
    place.write(b"after", b"a" * 50_000)
    Database(place.paths.index, place.device.keyring.index_key(former.id, 2)).close()
    with pytest.raises(DamagedIndex):  # the key of the index is a new one since the next mount
        Database(place.paths.index, former.keyring.index_key(former.id))
    assert place.read(b"before") == b"b" * 50_000
    rows, epoch = place.with_words()
    assert (rows, epoch) == (place.rows(), 2)
    assert sorted({row[2] for row in rows["pack"]}) == [1, 2]
    second = place.rotate()
    assert second.epoch == 3
    assert place.with_words() == (place.rows(), 3)
    another(place)  # that one need not seal all of the index once more

    async def of_former_epoch():
        async with place.working() as drive:
            found = [drive.engine.keeping.checkpointer.is_of_former_epoch]
            drive.engine.database.set_state("checkpoint_epoch", b"2")
            return [*found, drive.engine.keeping.checkpointer.is_of_former_epoch]

    assert trio.run(of_former_epoch) == [False, True]


def test_everything_of_the_index_is_sealed_anew_at_once(place):
    """A18: with the secrets of the former epoch alone the newest tree cannot be read."""
    former = place.device
    place.rotate()
    place.write(b"after", b"a" * 50_000)

    async def look(keyring, trust):
        async with place.connected() as stacks:
            objects = Objects(keyring, {host: stack.prompt for host, stack in stacks.items()})
            found = await survey(objects, trust)
            database = Database(place.base / f"{os.urandom(8).hex()}.db", bytes(32), create=True)
            try:
                await recover.rebuild(database, objects, trust, found)
                return {row[2] for row in database.connection.execute("SELECT * FROM dirent")}
            finally:
                database.close()

    assert trio.run(look, place.device.keyring, place.device.trust) == {b"before", b"after"}
    only_new = Keyring(vault=former.keyring.vault, secrets={1: os.urandom(32), 2: place.device.keyring.secrets[2]})
    pretending = partial(Keyring.object_name, former.keyring)

    class Renamed(Objects):
        def name(self, host, kind, ident):
            return pretending(host, kind, ident)

    async def newest_checkpoint_opens():
        async with place.connected() as stacks:
            objects = Renamed(only_new, {host: stack.prompt for host, stack in stacks.items()})
            found = await survey(Objects(place.device.keyring, objects.hosts), place.device.trust)
            for part in found.checkpoint.parts:
                sealed = await objects.get(place.specs[0].id, Kind.PART, part.id)
                only_new.open(Kind.PART, [part.id], sealed)
            return len(found.checkpoint.parts)

    assert trio.run(newest_checkpoint_opens) >= len(REPLICATED)
    assert trio.run(look, former.keyring, former.trust) == {b"before"}


def test_killed_before_each_step_it_is_finished_or_begun_anew(place):
    """One vault that never gets through a rotation in one piece."""
    expected = 1
    for step in STEPS:
        before = place.device.keyring.epoch
        with pytest.raises((Killed, BaseExceptionGroup)):
            place.rotate(kill=step)
        is_begun = STEPS.index(step) > STEPS.index("slot")
        expected += step != "boot file-1"  # that is when the words open one more epoch
        assert place.device.keyring.epoch == (expected if is_begun else before)
        place.write(step.encode(), os.urandom(20_000))
        assert place.read(b"before") == b"b" * 50_000
        assert place.with_words() == (place.rows(), expected)
    done = place.rotate()
    assert done.epoch == expected + 1
    assert place.with_words() == (place.rows(), done.epoch)


def test_control_the_slot_before_the_boot_objects_would_lose_the_vault(place, monkeypatch):
    """What the order is for: killed in between, the words alone no longer open what is written."""

    async def put_later(self, specs, stacks, boot, device, root):
        return []

    monkeypatch.setattr("megafs.daemon.rotate.Rotation._put_boots", put_later)
    place.rotate()
    place.write(b"after", b"a" * 50_000)
    with pytest.raises((Unavailable, Unauthentic, AssertionError)):
        assert place.with_words() == (place.rows(), 2)


def another(place):
    """A second device of the vault, enrolled as attach does; (its signer, its claim)."""

    async def run():
        async with place.connected() as stacks:
            objects = Objects(place.device.keyring, {host: stack.prompt for host, stack in stacks.items()})
            found = await survey(objects, place.device.trust)
            paths = VaultPaths(root=place.base / "two")
            paths.packs.mkdir(parents=True)
            ident, key = DeviceId(os.urandom(16)), DeviceKey.generate()
            database = Database(paths.index, place.device.keyring.index_key(ident), create=True)
            done = await recover.rebuild(database, objects, place.device.trust, found)
            number = recover.next_number(database, found)
            certificate = issue_device(
                place.device.keyring, device=ident, number=number, public_key=key.public, first_seq=1
            )
            signer = Signer(vault=place.device.keyring.vault, key=key, certificate=certificate)
            claims = Claims(objects, place.device.trust, None, time.time)
            claimed = await claims.claim(signer, done.step, int(time.time()))
            recover.enrol(database, signer, b"certificate", term=claimed.claim.term, done=done, survey=found)
            database.commit(0)
            database.close()
            former = place.device
            place.paths.root.rename(place.base / "one")
            paths.root.rename(place.paths.root)
            place.paths.settings.write_text((place.base / "one" / "vault.toml").read_text())
            place.device = replace(former, id=ident, number=number, signer=signer)
            return former

    return trio.run(run)


def test_a_revoked_device(place, monkeypatch):
    """A18, A37: it was the first; the second revokes it."""
    former = another(place)
    place.write(b"second", b"s" * 1000)
    with pytest.raises(Usage, match="the device that you use"):
        place.rotate(revoke=place.device.number)
    with pytest.raises(Usage, match="no device 999"):
        place.rotate(revoke=999)
    assert place.device.keyring.epoch == 1
    place.rotate(revoke=1)
    with pytest.raises(Usage, match="revoked already"):
        place.rotate(revoke=1)
    place.write(b"after", b"a" * 1000)
    before = place.with_words()
    assert before == (place.rows(), 2)

    async def old_device_looks():
        async with place.connected() as stacks:
            objects = Objects(former.keyring, {host: stack.prompt for host, stack in stacks.items()})
            claims = Claims(objects, former.trust, None, time.time)
            with pytest.raises(ReadOnly, match="revoked"):
                await claims.claim(former.signer, found_step(former), int(time.time()))
            # It ignores what it is told, and claims the next term, and signs commits, as only its own program lets it.
            made_up = issue_device(
                former.keyring, device=os.urandom(16), number=77, public_key=former.signer.key.public, first_seq=1
            )
            for signer in (former.signer, replace(former.signer, certificate=made_up)):
                claim = Claim(
                    term=9, number=signer.device, base=found_step(former), made_s=0, certificate=signer.certificate
                )
                for term in range(3, 10):
                    body = framed(signer, replace(claim, term=term))
                    for host in objects.hosts:
                        await objects.put(
                            host, Kind.CLAIM, ident_claim(term, 5),
                            former.keyring.seal(Kind.CLAIM, [ident_claim(term, 5)], body),
                        )  # fmt: skip
                        await objects.put(host, Kind.COMMIT, ident_commit(77, 1), b"x" * 500)

    trio.run(old_device_looks)
    assert place.with_words() == before
    folders = [place.base / f"host-{number}" for number in range(2)]
    done = restore(place.recovery.words(), place.base / "restored", *folders)
    assert done.returncode == 0, done.stderr
    assert (place.base / "restored" / "after").read_bytes() == b"a" * 1000
    assert (place.base / "restored" / "second").read_bytes() == b"s" * 1000, "of the former epoch"
    assert "newest epoch does not know" in done.stderr
    place.write(b"still", b"w" * 1000)
    assert place.read(b"still") == b"w" * 1000
    monkeypatch.setattr("megafs.sync.statements.still_counts", lambda said, newest, signer: True)
    with pytest.raises((Unavailable, RolledBack, AssertionError)):  # the control: its claim would win
        assert place.with_words() == (place.rows(), 2)


def found_step(device):
    from megafs.sync.statements import Step

    return Step(device=device.number, seq=1, hash=bytes(32))


@pytest.mark.crash
def test_a_host_that_stays_away_is_named_and_does_not_hold_it_up(tmp_path):
    place = Place(tmp_path, hosts=3)
    place.write(b"before", b"b" * 1000)
    away = tmp_path / "host-2"
    away.rename(tmp_path / "elsewhere")
    away.write_text("a file, no folder")
    done = place.rotate()
    assert done.without_boot == ("file-3",)
    assert "file-3 lacks" in done.waiting
    assert place.with_words(place.urls[:2]) == (place.rows(), 2)
    away.unlink()
    (tmp_path / "elsewhere").rename(away)
    place.write(b"after", b"a" * 1000)
    assert place.with_words(place.urls[:2]) == place.with_words() == (place.rows(), 2)
    for number in (0, 1):
        (tmp_path / f"host-{number}").rename(tmp_path / f"away-{number}")
        (tmp_path / f"host-{number}").write_text("a file, no folder")
    before = place.device
    with pytest.raises((Unavailable, RolledBack, HostError)):
        place.rotate()
    assert place.device is before


def test_wrong_words_and_a_mounted_vault_change_nothing(place):
    before = place.device
    place.recovery, right = RecoveryKey.generate(), place.recovery
    with pytest.raises(WrongKey):
        place.rotate()
    place.recovery = right
    assert place.device is before
    assert place.with_words()[1] == 1


@pytest.mark.crash
def test_deep_seals_everything_anew_in_rounds_killed_after_each(place):
    contents = {b"before": b"b" * 50_000}
    for number in range(3):  # each in a pack of its own
        name = b"large %d" % number
        contents[name] = os.urandom(600_000)
        place.write(name, contents[name])
    place.rotate(deep=True)

    def left():
        rows = place.rows()
        packs = {row[0]: row[2] for row in rows["pack"]}
        return sum(packs[row[1]] == 1 for row in rows["chunk"])

    async def round_and_kill(*, shipped):
        async with place.working() as drive:
            compactor = drive.engine.keeping.compactor
            compactor.round_bytes = 1
            await place.shipped(drive)
            moved = await compactor.reseal_once()
            if shipped:
                await place.shipped(drive)
            assert compactor.resealed == moved
            raise Killed

    lefts = [left()]
    for number in range(12):
        with pytest.raises((Killed, BaseExceptionGroup)):
            trio.run(partial(round_and_kill, shipped=bool(number % 2)))
        lefts.append(left())
    assert lefts[0] > 4
    assert lefts[-1] == 0
    assert lefts == sorted(lefts, reverse=True)
    assert len(set(lefts)) >= 4, "a pack a round"

    async def rest():
        async with place.working() as drive:
            assert await drive.engine.keeping.compactor.reseal_once() == 0
            await place.shipped(drive)

    trio.run(rest)
    for pack in place.paths.packs.iterdir():
        pack.unlink()
    assert {name: place.read(name) for name in contents} == contents
    assert place.with_words() == (place.rows(), 2)


def test_hosts_that_show_only_old_boot_objects(place):
    """A18: an attach with them would go on in the former epoch."""
    folders = [place.base / f"host-{number}" for number in range(2)]

    def objects():
        return {path for folder in folders for path in folder.rglob("*") if path.is_file()}

    before = objects()
    place.rotate()
    place.write(b"after", b"a" * 1000)

    def attach(name):
        attach_vault(
            VaultPaths(root=place.base / name), hosts=place.urls, key=place.recovery, passphrase="p", settings=SETTINGS,
            confirm=lambda question: True,
        )  # fmt: skip

    boots = {path for path in objects() - before if path.name in place.recovery.boot_names()}
    assert len(boots) == 2
    for path in boots:
        path.rename(path.with_suffix(".withheld"))
    with pytest.raises(RolledBack, match="newer epoch"):
        attach("refused")
    assert not (place.base / "refused").exists()
    host = place.specs[0].id
    name = place.device.keyring.object_name(host, Kind.EPOCH, ident_epoch(2))
    (announcement,) = folders[0].rglob(name)
    announcement.unlink()
    with pytest.raises(RolledBack, match="newer epoch"):
        attach("refused")  # one honest host is enough
    for path in boots:
        path.with_suffix(".withheld").rename(path)
    attach("two")  # the control


def test_a_chunk_sealed_anew_opens_in_the_new_epoch_only():
    from megafs.crypto.seal import digest
    from megafs.model import ChunkId, ChunkPlace, PackNumber

    old = Keyring.create(b"root")
    new = old.rotated()
    sealed = old.seal_chunk(ChunkId(bytes(16)), 0, 5, b"plain")
    place = ChunkPlace(ChunkId(bytes(16)), PackNumber(1), 0, len(sealed), 5, 0, digest(sealed))
    ((moved, again),) = resealed(new, 1, [(place, sealed)])
    assert len(again) == len(sealed)
    assert moved == place._replace(digest=digest(again))
    assert new.open_chunk(2, moved, again) == b"plain"
    for keyring, epoch in ((new, 1), (old, 1), (old, 2)):
        with pytest.raises(Unauthentic):
            keyring.open_chunk(epoch, moved, again)
