"""A host that lost what it had: the index's objects are copied there again, lost packs are told to repair.

The ledger and the index in, objects of other hosts out to the host that lacks them. Each host is asked now and then
for the newest head that it acknowledged: one that still has it is believed to have the rest. Deletes nothing. (A boot
object cannot be made again without the recovery words.)
"""

import logging
from collections.abc import Iterator

import trio

from megafs.crypto.keys import ident_checkpoint, ident_claim, ident_commit, ident_head, ident_pack, ident_part
from megafs.errors import HostError, ObjectMissing, Unavailable
from megafs.index.ledger import Ledger
from megafs.index.packs import Packs
from megafs.model import HostId, Kind, PackNumber
from megafs.sync import gallop
from megafs.sync.claims import FIRST_TERM, SLOTS, Claims
from megafs.sync.objects import Objects
from megafs.sync.repair import Repairer
from megafs.sync.stream import Stream

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
    ) -> None:
        self._objects, self._ledger, self._packs = objects, ledger, packs
        self._stream, self._claims, self._repairer = stream, claims, repairer
        self.copied = 0

    async def run(self) -> None:
        """Look after the hosts until cancelled."""
        await trio.sleep(FIRST_LOOK_S)
        while self._claims.lost_to is None:
            for host in await self.forgetful():
                log.warning("host %s has lost objects: putting them there again", host.hex()[:8])
                await self.complete(host)
            await trio.sleep(LOOK_EVERY_S)

    async def forgetful(self) -> list[HostId]:
        """Hosts that no longer have the newest head that they acknowledged."""
        device = self._stream.signer.device

        async def has_newest(host: HostId) -> bool:
            seq = self._ledger.host_head(host, device)
            return not seq or await self._objects.has(host, Kind.HEAD, ident_head(device, seq))

        answers = await self._objects.everywhere(has_newest)
        return [host for host, is_there in answers.said.items() if not is_there]

    async def complete(self, host: HostId) -> int:
        """Put every object of the index there that it lacks, and have lost packs repaired; how many were put. A host
        that fails meanwhile is looked at again next time."""
        before = self.copied
        try:
            for kind, ident in list(self._wanted()):
                if not await self._objects.has(host, kind, ident):
                    await self._copy(host, kind, ident)
            await self._copy_claims(host)
            await self._find_lost_packs(host)
        except HostError as error:
            log.info("a host is not complete yet: %s", error)
        return self.copied - before

    def _wanted(self) -> Iterator[tuple[Kind, bytes]]:
        """What every host should have, the way to find it last: a head must not speak of what is not there."""
        for part in self._ledger.known_parts():
            yield Kind.PART, ident_part(part.id)
        kept = [each for each in self._ledger.kept_checkpoints() if each.complete]
        for each in kept:
            yield Kind.CHECKPOINT, ident_checkpoint(each.device, each.seq)
        own, newest = self._stream.signer.device, self._stream.position.told_seq
        for device, first, last in self._ledger.stretches():
            for seq in range(first, (newest if device == own else last) + 1):
                yield Kind.COMMIT, ident_commit(device, seq)
        for device, first, last in self._ledger.stretches():
            stop = newest if device == own else last
            for seq in range(1, stop + 1):
                if seq >= first or gallop.needed(seq, first):
                    yield Kind.HEAD, ident_head(device, seq)

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

    async def _copy_claims(self, host: HostId) -> None:
        term = self._claims.standing.term if self._claims.standing is not None else FIRST_TERM
        for number in range(FIRST_TERM + 1, term + 1):
            for slot in range(SLOTS):
                ident = ident_claim(number, slot)
                if not await self._objects.exists(Kind.CLAIM, ident):
                    break
                if not await self._objects.has(host, Kind.CLAIM, ident):
                    await self._copy(host, Kind.CLAIM, ident)

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
