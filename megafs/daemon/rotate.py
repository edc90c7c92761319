"""A new epoch: new secrets for what is sealed from now on; and with it every revocation.

A vault that is not mounted, its passphrase and the recovery key in; the order is what makes it safe to be killed:

1. boot objects of the next generation on the hosts: who has the words alone can read both epochs from now on;
2. this device's slot, whole: from now on it writes in the new epoch;
3. all else follows from the slot (daemon.epochs), here or at the next mount: announcement, checkpoint, the index's key.

Killed before 2 the device goes on in its epoch as if nothing had been, and that the words open an epoch that nobody
uses harms nothing: the next rotation begins above it. Only the device that writes may do this, so two never meet.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import trio

from megafs import process
from megafs.config import MountOptions, VaultPaths, settings_from
from megafs.crypto.identity import Pinned, Revoked, RootKey, issue_device, issue_epoch
from megafs.crypto.keys import Keyring
from megafs.crypto.recovery import RecoveryKey
from megafs.daemon import secrets
from megafs.daemon.catchup import catch_up
from megafs.daemon.cure import first
from megafs.daemon.device import Device, locked
from megafs.daemon.engine import Engine
from megafs.daemon.epochs import open_index, settle
from megafs.daemon.hosts import Opener, connected
from megafs.daemon.keeping import DEEP
from megafs.errors import HostError, Incomplete, MegaFSError, Unavailable, Usage, WrongKey
from megafs.hosts import Stack
from megafs.index.database import Database
from megafs.index.ledger import Ledger
from megafs.index.vault import Vault
from megafs.model import DeviceId, HostId, HostSpec
from megafs.sync import boot as boots
from megafs.sync import stream
from megafs.sync.statements import Boot, Signer, Trust

log = logging.getLogger(__name__)

LEAST_HOSTS = 2  # that must take the new boot object (all, if there are fewer): the words alone must go on to suffice


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What became of it."""

    epoch: int
    without_boot: tuple[str, ...]  # labels of hosts that still have only a boot object of a former epoch
    waiting: str  # why not everything is on the hosts yet; empty: it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the owner wants."""

    revoke: int = 0  # number of a device; 0: of none
    deep: bool = False  # all chunks are to be sealed anew


Store = Callable[[Device], None]
Reached = Callable[[str], None]  # told before each step


def rotate_vault(
    paths: VaultPaths, device: Device, recovery: RecoveryKey, asked: Asked, store: Store, reached: Reached
) -> Rotated:
    """Blocks. ``store`` replaces the slot's body. Raises Busy if the vault is mounted, WrongKey, Usage, ReadOnly if
    another device writes, Unavailable, HostError; then nothing has changed."""
    process.harden()
    with locked(paths):
        database = open_index(paths, device)
        try:
            database.adopt(device.number)
            return trio.run(Rotation(paths, database, device, recovery, asked, store, reached).run)
        except* MegaFSError as group:
            raise first(group) from group
        finally:
            database.close()


class Rotation:
    """Owner of the device as it is so far."""

    def __init__(
        self,
        paths: VaultPaths,
        database: Database,
        device: Device,
        recovery: RecoveryKey,
        asked: Asked,
        store: Store,
        reached: Reached,
    ) -> None:
        self._paths, self._database, self._device = paths, database, device
        self._recovery, self._asked, self._store, self._reached = recovery, asked, store, reached
        self._vault = Vault(database)
        self._given: dict[HostId, tuple[str, bytes]] = {}  # boot objects, by the host that has them

    async def run(self) -> Rotated:
        settings = settings_from(self._paths.settings.read_text())
        specs = self._vault.hosts()
        async with connected(
            specs, Opener(settings, partial(secrets.read, self._paths, self._device.keyring))
        ) as stacks:
            await catch_up(self._paths, self._database, self._device, stacks)
            settle(self._database, self._device)
            self._check_revocable(self._asked.revoke)
            async with self._working(stacks) as engine:
                await engine.keeping.claims.look()
                if self._asked.revoke:
                    self._reached("checkpoint")
                    await checkpoint(engine)
            # What was frozen is numbered: the new certificate begins after it.
            boot = await self._newest_boot(stacks)
            next_device, root = self._next(boot)
            lacking = await self._put_boots(specs, stacks, boot, next_device, root)
            self._reached("slot")
            await trio.to_thread.run_sync(self._store, next_device)
            self._device = next_device
            self._reached("index")
            settle(self._database, next_device)
            for host, given in self._given.items():
                self._vault.set_boot(host, *given)
            if self._asked.deep:
                self._vault.set_setting(DEEP, b"%d" % next_device.keyring.epoch)
            async with self._working(stacks) as engine:
                await engine.commits.durable_now()
                self._reached("new checkpoint")
                waiting = await shipped(engine)
                self._reached("done")
        return Rotated(epoch=next_device.keyring.epoch, without_boot=tuple(lacking), waiting=waiting)

    @asynccontextmanager
    async def _working(self, stacks: dict[HostId, Stack]) -> AsyncIterator[Engine]:
        """The vault at work without a mount."""
        settings = settings_from(self._paths.settings.read_text())
        engine = Engine(self._paths, self._device, self._database, settings, MountOptions(), stacks)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.commits.run)
            nursery.start_soon(engine.shipper.run)
            engine.commits.on_durable = engine.keeping.wake
            yield engine
            nursery.cancel_scope.cancel()
        engine.reader.cache.clear()
        engine.disk.close()

    def _check_revocable(self, number: int) -> None:
        """Raises Usage."""
        if not number:
            return
        known = {row[0]: DeviceId(row[1]) for row in self._vault.devices()}
        if number not in known:
            raise Usage(f"there is no device {number}: megafs devices NAME lists them")
        if number == self._device.number:
            raise Usage("this is the device that you use: revoke it from another one")
        if any(entry.device == known[number] for entry in self._device.trust.newest.revoked):
            raise Usage(f"device {number} is revoked already")

    async def _newest_boot(self, stacks: Mapping[HostId, Stack]) -> Boot:
        """Of all hosts that answer. Raises WrongKey or HostError."""
        found: list[Boot] = []
        failed: list[HostError] = []

        async def one(stack: Stack) -> None:
            try:
                boot = await boots.find(stack.patient, self._recovery)
            except HostError as error:
                failed.append(error)
            else:
                found.extend([boot] if boot is not None else [])

        async with trio.open_nursery() as nursery:
            for stack in stacks.values():
                nursery.start_soon(one, stack)
        if not found and failed:
            raise failed[0]
        newest = max(found, key=lambda boot: boot.rank, default=None)
        if newest is None or newest.keyring.vault != self._device.keyring.vault:
            raise WrongKey("this recovery key opens nothing on the hosts of this vault")
        return replace(newest, generation=max(boot.generation for boot in found))

    def _next(self, boot: Boot) -> tuple[Device, RootKey]:
        """This device in the next epoch. A rotation that was killed may have left an epoch that only the words open."""
        device, root = self._device, RootKey(boot.root_seed)
        base, certificates = device.keyring, device.epochs
        if len(boot.epochs) > len(certificates):
            base, certificates = Keyring.from_fields(boot.keyring), boot.epochs
        keyring = base.rotated()
        newest = certificates[-1].claims
        epochs = (
            *certificates,
            issue_epoch(root, keyring, self._revoked(newest.revoked), self._pinned(newest.devices)),
        )
        certificate = issue_device(
            keyring,
            device=device.id,
            number=device.number,
            public_key=device.signer.key.public,
            first_seq=stream.load(self._database).next_seq,
        )
        signer = Signer(vault=keyring.vault, key=device.signer.key, certificate=certificate)
        trust = Trust.of(keyring.vault, device.root_public, epochs)
        return replace(device, keyring=keyring, signer=signer, trust=trust, epochs=epochs), root

    def _pinned(self, before: Sequence[Pinned]) -> tuple[Pinned, ...]:
        rows = (Pinned(device=ident, number=number, public_key=key) for number, ident, key, _ in self._vault.devices())
        return tuple(sorted({*before, *rows}, key=lambda each: (each.number, each.device)))

    def _revoked(self, before: Sequence[Revoked]) -> tuple[Revoked, ...]:
        if not self._asked.revoke:
            return tuple(before)
        ends = {number: last for number, _, last in Ledger(self._database.connection).stretches()}
        ident = next(ident for number, ident, _, _ in self._vault.devices() if number == self._asked.revoke)
        # This device's own term is the first that the revoked one did not win.
        term = stream.load(self._database).term - 1
        return (*before, Revoked(device=ident, last_seq=ends.get(self._asked.revoke, 0), last_term=term))

    async def _put_boots(
        self, specs: Sequence[HostSpec], stacks: Mapping[HostId, Stack], boot: Boot, device: Device, root: RootKey
    ) -> list[str]:
        """Labels of hosts that did not take one. Raises Unavailable if too many did not."""
        lacking: list[str] = []
        active = [spec for spec in specs if spec.id in stacks]
        for spec in active:
            self._reached(f"boot {spec.label}")
            try:
                given = await boots.put(
                    stacks[spec.id].patient,
                    spec,
                    specs,
                    generation=boot.generation + 1,
                    keyring=device.keyring,
                    epochs=device.epochs,
                    recovery=self._recovery,
                    root=root,
                )
                self._given[spec.id] = given
            except (HostError, Unavailable) as error:
                log.warning("%s", error)
                lacking.append(spec.label)
        if len(active) - len(lacking) < min(LEAST_HOSTS, len(active)):
            raise Unavailable(f"too few hosts take the new boot object; these do not: {', '.join(lacking)}")
        return lacking


async def checkpoint(engine: Engine) -> None:
    """The newest checkpoint on enough hosts is one of this very device, and a head says so: those of a revoked device
    stop counting. Raises Incomplete."""
    left = await ended(engine)
    if not has_own(engine):
        await engine.keeping.checkpointer.make()
        left = await ended(engine)
        if not has_own(engine):
            raise Incomplete(left)


def has_own(engine: Engine) -> bool:
    """Whether a checkpoint of this device is complete."""
    return any(kept.complete and kept.upload > 0 for kept in engine.ledger.kept_checkpoints())


async def ended(engine: Engine) -> str:
    """Everything that is frozen, and a checkpoint in the making, are on their hosts; empty, or why not on all: a host
    that stays away is not waited for for ever."""
    left = ""
    for _ in range(2):  # a checkpoint that is complete is told by one more commit
        try:
            async for _ in engine.shipper.until_shipped(engine.settings.host_patience_s):
                pass
        except Incomplete as error:
            left = str(error)
        engine.keeping.checkpointer.note_complete()
    await engine.commits.durable_now()
    return left


async def shipped(engine: Engine) -> str:
    """A checkpoint of the new epoch on its hosts; empty, or why not yet: the next mount goes on with it."""
    left = await ended(engine)
    if engine.keeping.checkpointer.is_pending():
        return left
    await engine.keeping.checkpointer.make()
    return await ended(engine)
