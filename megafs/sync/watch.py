"""What hosts show of what they had confirmed, and when another device was last seen: alarms for the owner.

Witnesses (rows) and heads in, alarm rows and the hosts that lost something out. A host that shows less than before is
behind; one that shows another commit under a number that is taken has a second history; one that shows nothing for
two days is stale, like a device that writes nothing for two days: one that lives says so daily. Deletes nothing.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from megafs.crypto.keys import ident_head
from megafs.errors import Corrupt, HostError, ObjectMissing, Unauthentic, Unavailable
from megafs.index.alarms import Alarms, Witness
from megafs.index.ledger import KnownHead, Ledger
from megafs.index.vault import Vault
from megafs.model import Alarm, AlarmKind, HostId, Kind
from megafs.sync import gallop
from megafs.sync.objects import Objects
from megafs.sync.statements import Head, Step, Trust
from megafs.sync.survey import has_head, read_head, step_of, understood_head
from megafs.sync.told import sentence

log = logging.getLogger(__name__)

HEARTBEAT_S = 24 * 3600
STALE_S = 48 * 3600
HEARTBEAT = (
    "heartbeat_s"  # key of the replicated setting whose change is the commit of a device that has nothing to say
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What one host answered when it was asked for one witness."""

    witness: Witness
    is_owed: bool  # the host had shown or confirmed it, and nothing has removed it since
    head: Head | None


class Watch:
    """Owner of nothing: what was seen is in rows."""

    def __init__(
        self,
        *,
        objects: Objects,
        ledger: Ledger,
        vault: Vault,
        alarms: Alarms,
        trust: Trust,
        own: Callable[[], Step],
        durable_now: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        lasting: Callable[[], float],
    ) -> None:
        """``own`` is the newest commit of this device. ``clock`` says what is written into alarms, ``lasting`` how long
        something took: a date that somebody sets makes nobody stale."""
        self._objects, self._ledger, self._vault, self._alarms = objects, ledger, vault, alarms
        self._trust, self._own, self._durable_now = trust, own, durable_now
        self._clock, self._lasting = clock, lasting
        self._lost: set[HostId] = set()  # found between two looks
        self.suspicion = trio.Event()  # there are such

    async def check_former(self, host: HostId, device: int) -> None:
        """Before a newer head goes to a host: the one that it confirmed last must still be there. Nobody would ask for
        that one any more, so a host that was put back to an older state would never be noticed. Raises HostError."""
        for witness, is_owed in self._wanted(host):
            if witness.device != device or not is_owed:
                continue
            if await self._objects.has(host, Kind.HEAD, ident_head(device, witness.seq)):
                continue
            if self._is_kept(witness) and await self._behind(witness):
                self._lost.add(host)
                self.suspicion.set()

    async def look(self) -> list[HostId]:
        """Ask every host for the newest commits that it is known to have; the hosts that have lost some, or never got
        what a former device left: that one is not there any more to bring it, and nobody is to blame."""
        lost = list(self._lost)
        self._lost.clear()
        self.suspicion = trio.Event()
        answers = await self._objects.everywhere(self._ask)
        for host, shown in answers.said.items():
            for each in shown:
                if each.head is None and each.is_owed:
                    behind = await self._behind(each.witness)
                    lost += [host] if behind else []
                elif each.head is None and self._is_kept(each.witness) and not self._is_on_its_way(each.witness):
                    lost += [] if await self._has_another(each.witness) else [host]
                elif each.head is not None and each.head.step.hash != each.witness.hash:
                    self._tell(AlarmKind.FORK, each.witness, each.head.step)
                elif each.head is not None:
                    self._alarms.note(replace(each.witness, silent_since_s=0))
        for host in answers.failed:
            self._note_silence(host)
        return sorted(set(lost))

    async def _ask(self, host: HostId) -> list[Shown]:
        found: list[Shown] = []
        for witness, is_owed in self._wanted(host):
            ident = ident_head(witness.device, witness.seq)
            try:
                sealed = await self._objects.get(host, Kind.HEAD, ident)
                head: Head | None = understood_head(
                    self._objects.keyring, self._trust, sealed, witness.device, witness.seq
                )
            except (ObjectMissing, Corrupt, Unauthentic):
                head = None
            found.append(Shown(witness=witness, is_owed=is_owed, head=head))
        return found

    def _wanted(self, host: HostId) -> list[tuple[Witness, bool]]:
        """What to ask a host for, and whether it owes it."""
        mine = {witness.device: witness for witness in self._alarms.witnesses() if witness.host == host}
        wanted = [(witness, self._is_kept(witness)) for witness in mine.values()]
        for known in self._ledger.heads():
            if known.device not in mine:
                confirmed = self._ledger.host_head(host, known.device) >= known.seq
                wanted.append((Witness(host=host, device=known.device, seq=known.seq, hash=known.hash), confirmed))
        return wanted

    def _is_on_its_way(self, witness: Witness) -> bool:
        ident = ident_head(witness.device, witness.seq)
        return any(ident == each for _, kind, each in self._ledger.uploads() if kind in (Kind.COMMIT, Kind.HEAD))

    def _is_kept(self, witness: Witness) -> bool:
        """Whether the collector leaves this head on hosts."""
        first = next((first for device, first, _ in self._ledger.stretches() if device == witness.device), 1)
        return gallop.needed(witness.seq, first)

    async def _behind(self, witness: Witness) -> bool:
        """Whether the newest commit that the host shows is older; then an alarm names both. If it is of another history
        it is not behind, and what it lacks is not copied there (sync.mirror). A host that does not answer this is asked
        again another time."""
        try:
            newest = await self._newest_on(witness.host, witness.device)
        except (HostError, Unavailable):
            return False
        if newest.seq >= witness.seq:
            self._alarms.note(replace(witness, seq=newest.seq, hash=newest.hash, silent_since_s=0))
            return False
        if await self._is_fork(witness, newest):
            return False
        self._tell(AlarmKind.BEHIND, witness, newest)
        return True

    async def _has_another(self, witness: Witness) -> bool:
        """Whether a host lacks what it never confirmed because it has another history."""
        try:
            newest = await self._newest_on(witness.host, witness.device)
        except (HostError, Unavailable):
            return False
        return newest.seq < witness.seq and await self._is_fork(witness, newest)

    async def _is_fork(self, witness: Witness, shown: Step) -> bool:
        """Whether another host has another commit in place of this older one; then an alarm names both. While no other
        that has the newest answers, it is taken for ours: a host that was put back is blamed for that alone."""
        known = await self._known(witness, shown.seq) if shown.seq else None
        if known is None or known.hash == shown.hash:
            return False
        self._tell(AlarmKind.FORK, replace(witness, seq=known.seq, hash=known.hash), shown)
        return True

    async def _known(self, witness: Witness, seq: int) -> Step | None:
        """The commit with this older number, as another host has it that shows the newest one known."""
        for host, stack in list(self._objects.hosts.items()):
            alone = Objects(self._objects.keyring, {host: stack})
            try:
                head = await read_head(alone, self._trust, witness.device, witness.seq)
                is_ours = host != witness.host and head.step.hash == witness.hash
                found = await step_of(alone, self._trust, witness.device, seq) if is_ours else None
            except (HostError, Unavailable):
                continue
            if found is not None:
                return found
        return None

    async def _newest_on(self, host: HostId, device: int) -> Step:
        """The newest head of a device that one host shows. Raises HostError or Unavailable."""
        alone = Objects(self._objects.keyring, {host: self._objects.hosts[host]})
        seq = await gallop.newest(lambda n: has_head(alone, self._trust, device, n))
        if not seq:
            return Step(device=device, seq=0, hash=bytes(32))
        return (await read_head(alone, self._trust, device, seq)).step

    def _note_silence(self, host: HostId) -> None:
        """From the first question without an answer on, the machine's own nights not counted."""
        now_s, own = int(self._lasting()), self._own().device
        for witness in self._alarms.witnesses():
            if witness.host == host:
                since_s = min(witness.silent_since_s or now_s, now_s)  # an older version noted it by the date
                self._alarms.note(replace(witness, silent_since_s=since_s))
                if now_s - since_s >= STALE_S and witness.device == own:
                    self._tell(
                        AlarmKind.STALE, witness, Step(device=own, seq=witness.seq, hash=witness.hash), now_s - since_s
                    )

    async def look_for_news(self, writer: int) -> None:
        """Of a device that took the vault over: its newest head, and what it had seen of this one."""
        known = self._ledger.head(writer)
        before = known.seq if known is not None else 0
        try:
            seq = await gallop.newest(lambda n: has_head(self._objects, self._trust, writer, n), before)
            if seq > before:
                head = await read_head(self._objects, self._trust, writer, seq)
                seen_s = min(head.made_s, int(self._lasting()))
                known = KnownHead(device=writer, seq=seq, hash=head.step.hash, seen_s=seen_s)
                self._ledger.set_head(known)
                self._compare_own(head)
        except (HostError, Unavailable) as error:
            log.info("no host says how far device %d is: %s", writer, error)
        if known is not None and (quiet_s := int(self._lasting()) - known.seen_s) >= STALE_S:
            witness = Witness(host=HostId(b""), device=writer, seq=known.seq, hash=known.hash)
            self._tell(AlarmKind.STALE, witness, Step(device=writer, seq=known.seq, hash=known.hash), quiet_s)

    def _compare_own(self, head: Head) -> None:
        """Another device has seen more of us than we have, or something else: our state was put back or copied."""
        own = self._own()
        for seen in head.seen:
            if seen.device == own.device and (seen.seq > own.seq or (seen.seq == own.seq and seen.hash != own.hash)):
                kind = AlarmKind.OWN_STATE if seen.seq > own.seq else AlarmKind.FORK
                self._tell(kind, Witness(host=HostId(b""), device=own.device, seq=own.seq, hash=own.hash), seen)

    def _tell(self, kind: AlarmKind, known: Witness, shown: Step, ago_s: int = 0) -> None:
        alarm = Alarm(
            kind=kind,
            host=known.host,
            device=known.device,
            known_seq=known.seq,
            known_hash=known.hash,
            shown_seq=shown.seq,
            shown_hash=shown.hash,
            since_s=int(self._clock()) - ago_s,
        )
        tell(self._alarms, self._vault, alarm)

    async def beat(self) -> None:
        """A device that had nothing to ship for a day says that it is there: a commit of one row, and its head."""
        own = self._ledger.head(self._own().device)
        now_s = int(self._clock())
        if own is None or abs(now_s - own.seen_s) >= HEARTBEAT_S:  # set back, the date would silence us
            self._vault.set_setting(HEARTBEAT, str(now_s).encode())
            await self._durable_now()


def tell(alarms: Alarms, vault: Vault, alarm: Alarm) -> None:
    """Keep an alarm for ``megafs status``; the log has it once."""
    if alarms.tell(alarm):
        labels = {HostId(spec.id): spec.label for spec in vault.hosts()}
        log.error("%s", sentence(alarm, labels))
