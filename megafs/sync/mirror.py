"""A host that lost what it had: the index's objects are copied there again, lost packs are told to repair.

The ledger and the index in, objects of other hosts out to the host that lacks them. Each host is asked now and then
for the newest head that it acknowledged (sync.watch): one that still has it is believed to have the rest. Deletes
nothing. (Boot objects: sync.anchors.)
"""

import logging

import trio

from megafs.crypto.keys import ident_pack
from megafs.errors import HostError, ObjectMissing, Unavailable
from megafs.index.ledger import Ledger
from megafs.index.packs import Packs
from megafs.model import HostId, Kind, PackNumber
from megafs.sync.claims import Claims
from megafs.sync.joining import needed_objects
from megafs.sync.objects import Objects
from megafs.sync.repair import Repairer
from megafs.sync.stream import Stream
from megafs.sync.watch import Watch

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1800.0
FIRST_LOOK_S = 60.0  # after the mount: who has just started has more urgent things to ask
AT_ONCE = 4


class Mirror:
    """Owner of nothing: every look begins with the rows."""

    def __init__(
        self,
        *,
        objects: Objects,
        ledger: Ledger,
        packs: Packs,
        stream: Stream,
        claims: Claims,
        repairer: Repairer,
        watch: Watch,
    ) -> None:
        self._objects, self._ledger, self._packs = objects, ledger, packs
        self._stream, self._claims, self._repairer, self.watch = stream, claims, repairer, watch
        self.copied = 0

    async def run(self) -> None:
        """Look after the hosts until cancelled; also once another device writes, for alarms."""
        with trio.move_on_after(FIRST_LOOK_S):
            await self.watch.suspicion.wait()
        while True:
            lost_to = self._claims.lost_to
            for host in await self.watch.look():
                if not self._claims.is_lost:
                    await self.complete(host)
            if not self._claims.is_lost:
                await self.watch.beat()
            elif lost_to is not None and lost_to.claim.number != self._stream.signer.device:
                await self.watch.look_for_news(lost_to.claim.number)
            with trio.move_on_after(LOOK_EVERY_S):
                await self.watch.suspicion.wait()

    def wake(self) -> None:
        """A host is back: it may lack what was written before this device was there."""
        self.watch.suspicion.set()

    async def complete(self, host: HostId) -> int:
        """As ``fill``; a host that fails meanwhile is looked at again next time."""
        before = self.copied
        try:
            await self.fill(host)
        except (HostError, Unavailable) as error:
            log.info("a host is not complete yet: %s", error)
        return self.copied - before

    async def fill(self, host: HostId) -> None:
        """Put every object of the index there that it lacks, and have lost packs repaired. Raises HostError,
        Unavailable."""
        await self._claims.spread(host)
        for kind, ident in list(needed_objects(self._ledger, self._stream)):
            if not await self._objects.has(host, kind, ident):
                await self._copy(host, kind, ident)
        await self._find_lost_packs(host)

    async def mend(self, host: HostId, kind: Kind, ident: bytes) -> bool:
        """Put one object there anew that the host lacks or has damaged; whether it did. Not if no other host has it:
        then it was collected. Raises HostError, Unavailable."""
        before = self.copied
        if await self._objects.has(host, kind, ident):  # what lies there would stay
            if not await self._claims.may_delete():
                raise Unavailable("no majority of hosts says who writes")
            if not await self._is_elsewhere(host, kind, ident):
                return False
            await self._objects.delete(host, kind, ident)
        await self._copy(host, kind, ident)
        return self.copied > before

    async def _is_elsewhere(self, host: HostId, kind: Kind, ident: bytes) -> bool:
        others = Objects(self._objects.keyring, {h: s for h, s in self._objects.hosts.items() if h != host})
        try:
            await others.read(kind, ident, lambda sealed: self._objects.keyring.open(kind, [ident], sealed))
        except (ObjectMissing, Unavailable):
            return False
        return True

    async def _copy(self, host: HostId, kind: Kind, ident: bytes) -> None:
        def checked(sealed: bytes) -> bytes:
            self._objects.keyring.open(kind, [ident], sealed)
            return sealed

        damages = len(self._objects.damages)
        try:
            sealed = await self._objects.read(kind, ident, checked)
        except (ObjectMissing, Unavailable):
            return  # removed meanwhile, or nobody else has it right now
        finally:
            del self._objects.damages[damages:]  # that this host lacks it is known
        await self._objects.put(host, kind, ident, sealed)
        self.copied += 1

    async def _find_lost_packs(self, host: HostId) -> None:
        limiter = trio.CapacityLimiter(AT_ONCE)
        failed: list[HostError] = []

        async def look(number: PackNumber, shard: int) -> None:
            async with limiter:
                pack = self._packs.get(number)
                try:
                    if pack is None or failed or await self._objects.has(host, Kind.PACK, ident_pack(pack.id, shard)):
                        return
                except HostError as error:
                    failed.append(error)
                    return
                self._repairer.note_damage(pack, host)

        async with trio.open_nursery() as nursery:
            for number in self._packs.on_hosts([host]):
                for holder, shard, _ in self._packs.copies(number):
                    if holder == host:
                        nursery.start_soon(look, number, shard)
        if failed:
            raise failed[0]
