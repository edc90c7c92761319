"""Ranges of packs from whichever host has them right: the fastest healthy one first, the next hedged in behind it.

Called by store.reader for chunks that are not here. A host that answers with wrong bytes, or not at all, costs time but
never the read, as long as one other has them; it is named in the log and counted, and repair mends its copy.
"""

import logging
import math
from collections.abc import Callable, Mapping

import trio

from megafs.crypto.keys import Keyring, ident_pack
from megafs.errors import HostError, Unavailable
from megafs.hosts import Stack
from megafs.index.packs import Packs
from megafs.model import HostId, Kind, Pack

log = logging.getLogger(__name__)

HEDGE_FIRST_S = 1.0  # until a host's p95 is known
HEDGE_LEAST_S = 0.02
Verify = Callable[[bytes], bool]


class HostFetcher:
    """Owner of the counts of what hosts did wrong."""

    def __init__(self, keyring: Keyring, packs: Packs, stacks: Mapping[HostId, Stack], *, limit_s: float) -> None:
        self._keyring, self._packs, self._stacks = keyring, packs, stacks
        self._limit_s = limit_s
        self.wrong: dict[HostId, int] = {}  # answers that did not open
        self.on_damage: Callable[[Pack, HostId], None] = lambda pack, host: None

    def candidates(self, pack: Pack) -> list[HostId]:
        """Where to ask, best first: hosts known to have a copy, healthy before not, fast before slow; then the others,
        because a copy row may have been lost with a commit that never shipped."""
        known = {host for host, shard, _ in self._packs.copies(pack.number) if shard < 0}

        def rank(host: HostId) -> tuple[bool, bool, float]:
            measured = self._stacks[host].measured
            return host not in known, not measured.healthy, measured.expected_s(1 << 18)

        return sorted(self._stacks, key=rank)

    async def fetch(self, pack: Pack, start: int, stop: int, verify: Verify) -> bytes:
        """The range as ``verify`` accepts it. Raises Unavailable, within the limit."""
        found: bytes | None = None
        waiting = self.candidates(pack)
        name_of = self._keyring.object_name

        async def ask(host: HostId, over: trio.Event) -> None:
            nonlocal found
            try:
                data = await self._stacks[host].prompt.get(name_of(host, Kind.PACK, ident_pack(pack.id)), start, stop)
            except HostError as error:
                log.info("reading from a host failed: %s", error)
            else:
                if len(data) == stop - start and verify(data):
                    found = found or data
                    nursery.cancel_scope.cancel()
                else:
                    self._note_wrong(pack, host)
            finally:
                over.set()

        with trio.move_on_after(self._limit_s):
            async with trio.open_nursery() as nursery:
                for host in waiting:
                    over = trio.Event()
                    nursery.start_soon(ask, host, over)
                    with trio.move_on_after(self._hedge_s(host)):
                        await over.wait()
        if found is None:
            raise Unavailable("no host answers with the right bytes of this file")
        return found

    def _hedge_s(self, host: HostId) -> float:
        p95_s = self._stacks[host].measured.p95_s()
        return max(HEDGE_LEAST_S, p95_s) if p95_s and math.isfinite(p95_s) else HEDGE_FIRST_S

    def _note_wrong(self, pack: Pack, host: HostId) -> None:
        self.wrong[host] = self.wrong.get(host, 0) + 1
        log.warning("%s answered with wrong bytes of pack %d; asking another", self._stacks[host].label, pack.number)
        self.on_damage(pack, host)
