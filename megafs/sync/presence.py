"""Hosts that stay away: noticed, written off after a time that the owner sets, taken back when they are there again.

What is measured of hosts in, absence rows out. A host is absent only while another one answers: a laptop without a
network has lost no host. Written off means that its copies do not count and are made anew on others, if there are any;
its rows stay. When it is back it gets what it lacks of the index, is asked for every pack that it should have, and
counts again: nothing is sent twice, and what is then too many is removed where placement likes it least.
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

import trio

from megafs.errors import MegaFSError
from megafs.index.care import Absence, Care
from megafs.model import HostId
from megafs.sync.mirror import Mirror
from megafs.sync.repair import Repairer

log = logging.getLogger(__name__)

LOOK_S = 60.0
SURE_S = (
    3600.0  # others must have answered for so long of that time: the first minutes after a long sleep prove nothing
)


class Presence:
    """Owner of nothing: absences are rows."""

    def __init__(
        self,
        *,
        care: Care,
        mirror: Mirror,
        repairer: Repairer,
        hosts: Callable[[], Collection[HostId]],
        answers: Callable[[HostId], bool],
        ask: Callable[[HostId], Awaitable[None]],
        gone_s: float,
        clock: Callable[[], float],
    ) -> None:
        """``answers`` says whether a host answered when it was asked last; ``ask`` asks it something if it did not: of
        a host to which nothing is sent just now nobody would hear. ``gone_s`` 0: no host is written off."""
        self._care, self._mirror, self._repairer = care, mirror, repairer
        self._hosts, self._answers, self._ask, self._gone_s, self._clock = hosts, answers, ask, gone_s, clock
        self._look_s = min(LOOK_S, gone_s / 4) if gone_s else LOOK_S
        self._failed = trio.Event()

    def note_failure(self) -> None:
        """A host did not do what it was asked."""
        self._failed.set()

    async def run(self) -> None:
        """Look until cancelled; once all hosts are there, not before one fails."""
        while True:
            await trio.sleep(self._look_s)
            self._failed = trio.Event()
            if await self.look():
                await self._failed.wait()

    async def look(self) -> bool:
        """One look at all hosts; whether all of them are there."""
        async with trio.open_nursery() as nursery:
            for host in self._hosts():
                nursery.start_soon(self._ask, host)
        hosts, absences = list(self._hosts()), self._care.absences()
        present = {host for host in hosts if self._answers(host)}
        for host in hosts:
            absence = absences.get(host)
            if host in present and absence is not None:
                await self._back(host, absence)
            elif host not in present and present:
                self._away(host, absence or Absence(since_s=int(self._clock()), observed_s=-self._look_s))
            elif absence is not None and absence.observed_s and not absence.written_off:
                self._care.set_absence(host, replace(absence, observed_s=0.0))  # it is us who are away
        return present.issuperset(hosts) and not self._care.absences()

    def _away(self, host: HostId, absence: Absence) -> None:
        if absence.observed_s < 0:
            log.info("host %s does not answer", host.hex()[:8])
        absence = replace(absence, observed_s=absence.observed_s + self._look_s)
        is_gone = self._clock() - absence.since_s >= self._gone_s
        is_sure = absence.observed_s >= min(SURE_S, self._gone_s)
        if self._gone_s and not absence.written_off and is_gone and is_sure:
            absence = replace(absence, written_off=True)
            log.warning("host %s has been away for too long: its packs are made anew on others", host.hex()[:8])
            self._repairer.wake()
        self._care.set_absence(host, absence)

    async def _back(self, host: HostId, absence: Absence) -> None:
        if absence.written_off:
            try:
                await self._mirror.fill(host)
            except MegaFSError as error:
                log.info("host %s is back and cannot be taken back yet: %s", host.hex()[:8], error)
                return
        self._care.end_absence(host)
        log.info("host %s answers again", host.hex()[:8])
        self._repairer.wake()
        self._mirror.wake()
