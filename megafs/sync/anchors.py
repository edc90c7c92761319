"""What a host has for the day when nothing else is left: claims, and the boot object that the 24 words find.

Looked after like everything else (sync.scrub): what is missing or wrong is put there again. A boot object cannot be
made without the words, so the vault remembers the one that each host was given: its name and its sealed bytes, which
the host knows anyway.
"""

from megafs.errors import HostError, ObjectMissing
from megafs.index.vault import Vault
from megafs.model import HostId, Kind
from megafs.sync.claims import Claims
from megafs.sync.objects import Objects
from megafs.sync.possession import LACKING, WRONG, Look

KINDS = (Kind.CLAIM, Kind.BOOT)


class Anchors:
    """Owner of nothing."""

    def __init__(self, objects: Objects, claims: Claims, vault: Vault) -> None:
        self._objects, self._claims, self._vault = objects, claims, vault

    async def look(self, host: HostId, kind: Kind) -> tuple[Look, bool]:
        """What is wrong, and whether it was mended. Raises HostError if the host does not answer, or Unavailable."""
        if kind is Kind.CLAIM:
            lacking = await self._claims.spread(host)
            return Look(wrong=LACKING if lacking else ""), bool(lacking)
        given = self._vault.boot(host)
        if given is None:
            return Look(wrong=""), False
        name, sealed = given
        place = self._objects.hosts[host]
        try:
            there = await place.get(name)
        except ObjectMissing:
            await place.put(name, sealed)
            return Look(wrong=LACKING), await place.get(name) == sealed
        if there == sealed:
            return Look(wrong="", bytes=len(there)), False
        if not await self._claims.may_delete():
            return Look(wrong=WRONG, bytes=len(there)), False
        try:
            await place.delete(name)
            await place.put(name, sealed)
            return Look(wrong=WRONG, bytes=len(there)), await place.get(name) == sealed
        except HostError:  # append-only
            return Look(wrong=WRONG, bytes=len(there)), False
