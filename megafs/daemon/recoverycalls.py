"""What the CLI asks about the recovery key of a mounted vault: which hosts have its boot objects, and new words.

The private root key is sealed under the words and nowhere else, so all of this needs the words that hold now: the
daemon cannot show them, and whoever has lost them cannot get new ones. A change is two calls, and the words are on
paper between them: ``rekey`` puts boot objects under the new words beside the old ones, ``retire`` takes the old ones
away. Broken off anywhere, one set of words or both open the vault.
"""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence

import trio

from megafs import slotfile
from megafs.control.messages import BootReport, Boots, Message, Request
from megafs.control.server import Handler
from megafs.crypto.identity import RootKey
from megafs.crypto.recovery import RecoveryKey
from megafs.daemon.engine import Engine
from megafs.errors import HostError, MegaFSError, ReadOnly, Unavailable, Usage, WrongKey
from megafs.model import HostId, HostSpec
from megafs.sync import boot as boots
from megafs.sync.statements import Boot

log = logging.getLogger(__name__)


class RecoveryCalls:
    """The handlers of one mount; one change at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = trio.Lock()

    def handlers(self) -> Mapping[str, Handler]:
        return {"boots": self.boots, "rekey": self.rekey, "retire": self.retire}

    async def boots(self, request: Request) -> AsyncGenerator[Message, None]:
        """Who has a boot object of these words; a host that answers and has none, or only one of a former epoch, gets
        one."""
        async with self._lock:
            recovery = RecoveryKey.from_text(request.words)
            found, failed = await self._found(recovery)
            newest = self._newest(found)
            behind = {host for host, boot in found.items() if len(boot.epochs) < len(newest.epochs)}
            lacking = [s for s in self._specs() if s.id in behind or (s.id not in found and s.id not in failed)]
            made = await self._put(lacking, recovery, newest, newest.generation)
            await self._keep_slot(recovery)
            yield self._told(found, failed | made.failed, made.done)

    async def rekey(self, request: Request) -> AsyncGenerator[Message, None]:
        """Boot objects under new words on every host that answers. Raises Unavailable if none took one."""
        async with self._lock:
            old, new = RecoveryKey.from_text(request.words), RecoveryKey.from_text(request.new_words)
            self._engine.shipper.claims.check_writable()
            found, _ = await self._found(old)
            newest = self._newest(found)
            made = await self._put(self._specs(), new, newest, newest.generation + 1)
            if not made.done:
                raise Unavailable(f"no host took a boot object: {next(iter(made.failed.values()))}")
            yield self._told({}, made.failed, made.done)

    async def retire(self, request: Request) -> AsyncGenerator[Message, None]:
        """Delete what the old words open, on every host where the new ones open something."""
        async with self._lock:
            old, new = RecoveryKey.from_text(request.words), RecoveryKey.from_text(request.new_words)
            claims = self._engine.shipper.claims
            claims.check_writable()
            if not await claims.may_delete():
                raise ReadOnly("most hosts do not say whether this is still the writing device, so nothing is deleted")
            found, failed = await self._found(new)
            self._newest(found)
            await self._keep_slot(new)
            done: dict[HostId, int] = {}
            for spec in self._specs():
                if spec.id in found:
                    try:
                        await boots.retire(self._engine.stacks[spec.id].patient, old)
                        done[spec.id] = found[spec.id].generation
                    except MegaFSError as error:
                        failed[spec.id] = str(error)
                elif spec.id not in failed:
                    failed[spec.id] = f"{spec.label}: has no boot object of the new words, so the old one stays"
            yield self._told({}, failed, done)

    def _specs(self) -> Sequence[HostSpec]:
        return [spec for spec in self._engine.vault.hosts() if spec.id in self._engine.stacks and spec.state != "gone"]

    async def _found(self, recovery: RecoveryKey) -> tuple[dict[HostId, Boot], dict[HostId, str]]:
        """The newest boot object of each host, and who did not answer."""
        found: dict[HostId, Boot] = {}
        failed: dict[HostId, str] = {}

        async def look(spec: HostSpec) -> None:
            try:
                boot = await boots.find(self._engine.stacks[spec.id].prompt, recovery)
            except HostError as error:
                failed[spec.id] = str(error)
                return
            if boot is not None and boot.keyring.vault == self._engine.device.keyring.vault:
                found[spec.id] = boot

        async with trio.open_nursery() as nursery:
            for spec in self._specs():
                nursery.start_soon(look, spec)
        return found, failed

    def _newest(self, found: Mapping[HostId, Boot]) -> Boot:
        newest = max(found.values(), key=lambda boot: boot.rank, default=None)
        if newest is None:
            raise WrongKey("this recovery key opens nothing on the hosts of this vault that answer")
        if len(newest.epochs) > len(self._engine.device.epochs):
            raise Usage("the hosts tell of a newer epoch than this device has: finish megafs rotate first")
        return newest

    async def _put(self, specs: Sequence[HostSpec], recovery: RecoveryKey, base: Boot, generation: int) -> "_Made":
        """A boot object on each. The vault's keys are the daemon's own, the root key is the one that the words gave."""
        engine, made = self._engine, _Made()
        for spec in specs:
            try:
                given = await boots.put(
                    engine.stacks[spec.id].patient,
                    spec,
                    self._specs(),
                    generation=generation,
                    keyring=engine.device.keyring,
                    epochs=engine.device.epochs,
                    recovery=recovery,
                    root=RootKey(base.root_seed),
                )
                engine.vault.set_boot(spec.id, *given)
                made.done[spec.id] = generation
            except (HostError, Unavailable) as error:
                made.failed[spec.id] = str(error)
        await engine.commits.durable_now()
        return made

    async def _keep_slot(self, recovery: RecoveryKey) -> None:
        """These words replace a lost passphrase on this device from now on."""
        engine = self._engine
        await trio.to_thread.run_sync(slotfile.put_recovery, engine.paths, engine.device.slot_key, recovery)

    def _told(self, found: Mapping[HostId, Boot], failed: Mapping[HostId, str], made: Mapping[HostId, int]) -> Boots:
        rows = []
        for spec in self._specs():
            generation = made.get(spec.id) or (found[spec.id].generation if spec.id in found else 0)
            rows.append(
                BootReport(
                    label=spec.label,
                    url=spec.url,
                    generation=generation,
                    is_new=spec.id in made,
                    error=failed.get(spec.id, ""),
                )
            )
        return Boots(vault=self._engine.device.keyring.vault, hosts=tuple(rows))


class _Made:
    """Which hosts took a boot object, of which generation, and which did not."""

    def __init__(self) -> None:
        self.done: dict[HostId, int] = {}
        self.failed: dict[HostId, str] = {}
