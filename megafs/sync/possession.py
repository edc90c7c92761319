"""Does a host still have what it was given, right? One object at a time, by a random part of it or in full.

(host, pack part) or (host, index object) in, a sentence out: empty if all is well. Of a pack's part 64 KiB are read
that nobody could foresee, and checked against the Merkle root in the copy row. That takes the leaves of the tree, which
this device has of what it put or once read whole; without them a random chunk that lies in the part is read and
compared with its digest, and a part that holds no whole chunk (parity) is read whole, which brings its leaves. What a
host says about sizes is compared as well: a cut file is found at once. Nothing is changed on a host.
"""

from dataclasses import dataclass
from secrets import SystemRandom

import trio

from megafs.config import MERKLE_LEAF_BYTES
from megafs.crypto.keys import ident_head, ident_pack
from megafs.crypto.merkle import leaf_hashes, proof, root_of, verify
from megafs.crypto.seal import digest
from megafs.errors import HostError, ObjectMissing, Unauthentic
from megafs.index.packs import Packs
from megafs.model import WHOLE, HostId, Kind, Pack, shard_parts
from megafs.packs import shards
from megafs.sync.objects import Objects

MISSING, CUT, DAMAGED = "a copy is missing", "a copy has another length", "a copy is damaged"
UNREADABLE = "a copy is not given, though its host answers otherwise"
LACKING, WRONG = "an object of the index is missing", "an object of the index is damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy or shard as the index has it."""

    pack: Pack
    host: HostId
    shard: int
    root: bytes

    @property
    def stored_bytes(self) -> int:
        """The size of the object."""
        if self.shard == WHOLE:
            return self.pack.stored_bytes
        return shards.shard_bytes(shard_parts(self.shard)[0], self.pack.stored_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look found. ``wrong`` empty: all is well."""

    wrong: str
    bytes: int = 0


class Examiner:
    """Owner of nothing."""

    def __init__(self, objects: Objects, packs: Packs, chance: SystemRandom) -> None:
        """``chance`` is one that no host can foresee."""
        self._objects, self._packs, self._chance = objects, packs, chance

    async def answers(self, host: HostId) -> bool:
        """Whether the host says anything, of an object that is everywhere."""
        try:
            await self._objects.has(host, Kind.HEAD, ident_head(1, 1))
        except HostError:
            return False
        return True

    async def look_at(self, copy: Copy, *, full: bool) -> Look:
        """Raises HostError if the host does not answer."""
        try:
            if full:
                return (await self.whole(copy))[0]
            name = self._objects.name(copy.host, Kind.PACK, ident_pack(copy.pack.id, copy.shard))
            if await self._objects.hosts[copy.host].head(name) != copy.stored_bytes:
                return Look(wrong=CUT)
            if leaves := self._packs.leaves(copy.pack.number, copy.shard):
                return await self._leaf(copy, name, leaves)
            return await self._chunk(copy, name) or (await self.whole(copy))[0]
        except ObjectMissing:
            return Look(wrong=MISSING)

    async def look_at_object(self, host: HostId, kind: Kind, ident: bytes) -> Look:
        """Of the index: small ones, read whole. Raises HostError if the host does not answer."""
        try:
            sealed = await self._objects.get(host, kind, ident)
            self._objects.keyring.open(kind, [ident], sealed)
        except ObjectMissing:
            return Look(wrong=LACKING)
        except Unauthentic:
            return Look(wrong=WRONG, bytes=len(sealed))
        return Look(wrong="", bytes=len(sealed))

    async def _leaf(self, copy: Copy, name: str, leaves: list[bytes]) -> Look:
        number = self._chance.randrange(len(leaves))
        start = number * MERKLE_LEAF_BYTES
        data = await self._objects.hosts[copy.host].get(name, start, start + MERKLE_LEAF_BYTES)
        try:
            verify(copy.root, copy.stored_bytes, number, data, proof(leaves, number, number + 1))
        except Unauthentic:
            return Look(wrong=DAMAGED, bytes=len(data))
        return Look(wrong="", bytes=len(data))

    async def _chunk(self, copy: Copy, name: str) -> Look | None:
        """None if no live chunk lies in this part alone."""
        inside = []
        for place in self._packs.places(copy.pack.number):
            start, stop = place.offset, place.offset + place.sealed_bytes
            if copy.shard != WHOLE:
                k, number = shard_parts(copy.shard)
                slices = shards.data_range(k, copy.pack.stored_bytes, start, stop)
                if len(slices) > 1 or slices[0].shard != number:
                    continue
                start, stop = slices[0].start, slices[0].stop
            inside.append((start, stop, place.digest))
        if not inside:
            return None
        start, stop, wanted = self._chance.choice(inside)
        data = await self._objects.hosts[copy.host].get(name, start, stop)
        return Look(wrong="" if digest(data) == wanted else DAMAGED, bytes=len(data))

    async def whole(self, copy: Copy) -> tuple[Look, bytes]:
        """Read whole; the bytes, if they are right, as well. Raises ObjectMissing and what else the host says."""
        data = await self._objects.get(copy.host, Kind.PACK, ident_pack(copy.pack.id, copy.shard))
        leaves = await trio.to_thread.run_sync(leaf_hashes, data)
        if root_of(leaves) != copy.root:
            return Look(wrong=DAMAGED if len(data) == copy.stored_bytes else CUT, bytes=len(data)), b""
        if self._packs.get(copy.pack.number) is not None:
            self._packs.set_leaves(copy.pack.number, copy.shard, leaves)
        return Look(wrong="", bytes=len(data)), data
