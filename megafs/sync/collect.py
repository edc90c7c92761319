"""What nothing needs any more goes: dead chunks here within seconds, dead packs and old objects on hosts later.

Candidates (chunks that lost an extent) and doomed files in; chunk rows deleted, holes punched, packs dropped, objects
of ours deleted on hosts. Only objects that the index names are ever deleted, only after a majority of hosts said within
the last minute that this device is the writing one, and never on an append-only host. Bytes go after the commit that
deletes the last row naming them is durable.
"""

import logging
import math
from collections.abc import Callable, Sequence

import trio

from megafs.config import PACK_BYTES, Settings
from megafs.crypto.keys import ident_checkpoint, ident_commit, ident_head, ident_pack, ident_part
from megafs.errors import MegaFSError
from megafs.index.extents import Extents
from megafs.index.inodes import Inodes
from megafs.index.ledger import KeptCheckpoint, Ledger
from megafs.index.packs import SHIPPED, Packs
from megafs.model import ChunkId, ChunkPlace, HostId, Kind, Pack, PackNumber
from megafs.store.disk import Disk
from megafs.sync import gallop
from megafs.sync.claims import Claims
from megafs.sync.lasting import Lasting
from megafs.sync.objects import Objects
from megafs.sync.packing import Landscape
from megafs.sync.ship import Commits, Shipper
from megafs.sync.stream import Stream

log = logging.getLogger(__name__)

SWEEP_S = 2.0
SLICE_ROWS = 250  # of a doomed file, or candidates, between two looks at other tasks: about 10 ms
SLICES = 40  # in one sweep, so that a commit stays small: 10,000 chunks, at least 2.5 GB of a large file
TEND_S = 60.0  # how often hosts are looked after
DROP_BEFORE_S = 15.0  # a commit that waits longer is not delayed by dropping packs that it names
DELETES_AT_ONCE = 500
PART_BYTES = 16  # of a part's id
WORTH_BYTES = PACK_BYTES // 4  # dead in one pack: punched although more of it is dying


def removable(
    kept: Sequence[KeptCheckpoint], *, now_s: float, retention_s: float, told_upload: int
) -> list[KeptCheckpoint]:
    """Checkpoints that go, oldest first: not the newest two complete ones, none younger than the retention, none at or
    after the one that the newest head on enough hosts names. Pure."""
    complete = [each for each in kept if each.complete]
    gone: list[KeptCheckpoint] = []
    for each in complete[:-2]:
        if each.made_s + retention_s > now_s or each.upload >= told_upload:
            break
        gone.append(each)
    return gone


class Collector:
    """Owner of the dead chunks whose bytes are still here."""

    def __init__(
        self,
        *,
        objects: Objects,
        ledger: Ledger,
        packs: Packs,
        extents: Extents,
        inodes: Inodes,
        disk: Disk,
        stream: Stream,
        shipper: Shipper,
        commits: Commits,
        landscape: Landscape,
        settings: Settings,
        clock: Callable[[], float],
        lasting: Lasting,
        is_idle: Callable[[ChunkId], bool],
    ) -> None:
        """``is_idle`` says whether nobody reads a chunk just now."""
        self._lasting = lasting
        self._objects, self._ledger, self._packs, self._extents = objects, ledger, packs, extents
        self._inodes, self._disk, self._stream, self._shipper = inodes, disk, stream, shipper
        self._commits, self._landscape, self._settings, self._clock = commits, landscape, settings, clock
        self._is_idle = is_idle
        self._unpunched: dict[PackNumber, list[ChunkPlace]] = {}
        self._left = False  # the last sweep did not come to the end of what it saw
        self.deleted_objects = 0

    @property
    def claims(self) -> Claims:
        return self._shipper.claims

    async def run(self) -> None:
        """Sweep and tend until cancelled. Rests while nothing changes."""
        moves = self._shipper.moves
        tend_at, tended = trio.current_time(), -1
        while True:
            await trio.sleep(SWEEP_S)
            seen = moves.count
            if not self.claims.is_lost:
                try:
                    await self.sweep()
                    if trio.current_time() >= tend_at:
                        tend_at, tended = trio.current_time() + TEND_S, seen
                        await self.tend()
                except MegaFSError as error:  # the local disk refuses: nothing is lost by collecting later
                    log.warning("collecting pauses: %s", error)
                    continue
                if self._left:
                    continue
            with trio.move_on_at(tend_at if tended != seen else math.inf):
                await moves.beyond(seen)

    # here

    async def sweep(self) -> None:
        """One look at what died since the last."""
        self._left = True
        for _ in range(SLICES):
            if not self._reap():
                self._left = False
                break
            await trio.lowlevel.checkpoint()
        dead: list[ChunkPlace] = []
        for _ in range(SLICES):
            looked, found = self._bury()
            dead += found
            if looked < SLICE_ROWS:
                break
            await trio.lowlevel.checkpoint()
        else:
            self._left = True
        emptied = self._emptied({place.pack for place in dead})
        punchable = self._punchable(dead)
        if dead or emptied or punchable:
            await self._commits.durable_now()
        if emptied:
            await trio.to_thread.run_sync(self._unlink, emptied)
        if punchable:
            await trio.to_thread.run_sync(self._punch, punchable)
        await self._drop_unshipped()

    def _reap(self) -> bool:
        reaped = self._extents.reap(SLICE_ROWS)
        if reaped is None:
            return False
        ino, freed = reaped
        if freed:
            self._inodes.grow(ino, 0, -freed)
        return True

    def _bury(self) -> tuple[int, list[ChunkPlace]]:
        """Delete the rows of chunks that no extent names, of one slice. Returns how many were looked at and settled."""
        settled, dead = 0, []
        for chunk, place in self._extents.suspects(SLICE_ROWS):
            if place is None:
                self._extents.clear_suspicion(chunk)
            elif self._is_idle(chunk):
                self._extents.delete_chunk(chunk)
                dead.append(place)
            else:
                self._left = True  # a read is under way; it is looked at again
                continue
            settled += 1
        return settled, dead

    def _emptied(self, numbers: set[PackNumber]) -> list[PackNumber]:
        """Shipped packs that hold nothing alive any more: dead from now on, their files here go."""
        gone = []
        for number in numbers:
            local = self._packs.local(number)
            if (local is None or local[1] == SHIPPED) and self._packs.is_empty(number):
                self._packs.set_dead(number, int(self._lasting()))
                self._packs.delete_local(number)
                self._ledger.forget_owed(number)
                gone.append(number)
        return gone

    def _unlink(self, numbers: Sequence[PackNumber]) -> None:
        for number in numbers:
            self._disk.unlink(number)

    def _punchable(self, dead: Sequence[ChunkPlace]) -> list[ChunkPlace]:
        """Bytes of packs not yet shipped stay until they are: an earlier commit may ship with the pack and names them,
        and the pack must arrive as it was closed. That it is shipped must be durable, too, before a hole is made: a
        crash would forget it, and ship the pack with the hole. A pack in which a little died just now is left for the
        next sweep: while a tree is removed it soon holds nothing, and then it goes whole."""
        for place in dead:
            self._unpunched.setdefault(place.pack, []).append(place)
        dying = {place.pack for place in dead}
        now: list[ChunkPlace] = []
        for number in list(self._unpunched):
            local = self._packs.local(number)
            if local is None:
                del self._unpunched[number]
            elif local[1] == SHIPPED and not self._is_lonely(number):
                if number in dying and sum(place.sealed_bytes for place in self._unpunched[number]) < WORTH_BYTES:
                    self._left = True
                else:
                    now += self._unpunched.pop(number)
        return now

    def _is_lonely(self, number: PackNumber) -> bool:
        """Whether it left with too few hosts, as the others were away: what is here makes the copies that are owed."""
        return len({host for host, _, _ in self._packs.copies(number)}) < self._landscape.enough()

    def _punch(self, places: Sequence[ChunkPlace]) -> None:
        number, start, stop = PackNumber(0), 0, 0
        for place in sorted(places, key=lambda place: (place.pack, place.offset)):
            if place.pack != number or place.offset != stop:
                if stop:
                    self._disk.punch(number, start, stop - start)
                number, start = place.pack, place.offset
            stop = place.offset + place.sealed_bytes
        self._disk.punch(number, start, stop - start)

    async def _drop_unshipped(self) -> None:
        """Packs closed, not shipped and dead need not travel at all. Commits that name them must then reach as far as
        the rows that removed the last such name, so this is done only while it delays none for long, or while too few
        hosts answer anyway; and not while a checkpoint needs a commit to end at a certain row."""
        waiting = self._ledger.waiting(self._commits.durable)
        is_late = bool(waiting) and self._clock() - waiting[0].made_s > DROP_BEFORE_S
        if self._shipper.boundary or self._shipper.held or (is_late and not self._shipper.packing.troubles):
            return
        dropped = [
            number
            for number in self._ledger.closed_packs()
            if not self._shipper.packing.is_flying(number) and self._packs.is_empty(number)
        ]
        if not dropped:
            return
        for number in dropped:
            pack = self._packs.get(number)
            assert pack is not None
            self._expire_pack(pack)  # a part of it may have reached a host
            self._packs.delete(number)
            self._ledger.forget_owed(number)
            self._ledger.drop(number, self._ledger.newest_outbox() + 1)
        await self._commits.durable_now()
        await trio.to_thread.run_sync(self._unlink, dropped)
        self._shipper.wake()

    # on hosts

    def _hosts(self) -> list[HostId]:
        return [state.spec.id for state in self._landscape.states() if state.spec.state != "gone"]

    async def tend(self) -> None:
        """One look at what has become old."""
        self._lasting.keep()
        gone = self._emptied(set(self._packs.emptied()))
        if gone:  # they died while they were on their way
            await self._commits.durable_now()
            await trio.to_thread.run_sync(self._unlink, gone)
        self._expire_checkpoints()
        self._expire_dead_packs()
        await self._delete_expired()

    def _told_upload(self) -> int:
        """The upload number of the checkpoint that the newest head on enough hosts names; 0 for none."""
        position, device = self._stream.position, self._stream.signer.device
        told = [
            each.upload
            for each in self._ledger.kept_checkpoints()
            if (each.device, each.seq) == (position.told.device, position.told.seq)
        ]
        reached = [host for host in self._hosts() if self._ledger.host_head(host, device) >= position.told_seq]
        return max(told, default=0) if len(reached) >= self._landscape.enough() and position.told_seq else 0

    def _expire_checkpoints(self) -> None:
        hosts, told_upload = self._hosts(), self._told_upload()
        kept = self._ledger.kept_checkpoints()
        gone = removable(kept, now_s=self._lasting(), retention_s=self._settings.retention_s, told_upload=told_upload)
        for each in gone:
            self._ledger.expire(Kind.CHECKPOINT, ident_checkpoint(each.device, each.seq), hosts)
            for start in range(0, len(each.retired), PART_BYTES):
                self._ledger.expire(Kind.PART, ident_part(each.retired[start : start + PART_BYTES]), hosts)
            self._ledger.forget_checkpoint(each.upload)
        complete = [each for each in kept if each.complete and each not in gone]
        if len(complete) >= 2 and complete[0].upload < told_upload:
            self._expire_commits(complete[0], hosts)

    def _expire_commits(self, oldest: KeptCheckpoint, hosts: Sequence[HostId]) -> None:
        """Commits before the oldest kept checkpoint, and heads that no search asks for."""
        for device, first, last in self._ledger.stretches():
            # Later writers have greater numbers: what they wrote comes after the checkpoint.
            if device > oldest.device:
                continue
            stop = oldest.seq if device == oldest.device else last + 1
            if stop <= first:
                continue
            for seq in range(first, stop):
                self._ledger.expire(Kind.COMMIT, ident_commit(device, seq), hosts)
            covered = min(stop, last) if last else stop
            for seq in [*gallop.landmarks(first), *range(first, stop)]:
                if not gallop.needed(seq, covered):
                    self._ledger.expire(Kind.HEAD, ident_head(device, seq), hosts)
            self._ledger.set_stretch(device, stop, last)

    def _expire_dead_packs(self) -> None:
        """Packs dead for longer than the retention and not named by any kept checkpoint."""
        before_s = int(self._lasting() - self._settings.retention_s)
        oldest_s = min((each.made_s for each in self._ledger.kept_checkpoints()), default=before_s + 1)
        for pack in self._packs.dead(min(before_s, oldest_s - 1)):
            self._expire_pack(pack)
            self._packs.delete(pack.number)

    def _expire_pack(self, pack: Pack) -> None:
        copies = self._packs.copies(pack.number)
        for host, shard, _ in copies:
            self._ledger.expire(Kind.PACK, ident_pack(pack.id, shard), [host])
        if not any(shard >= 0 for _, shard, _ in copies):
            self._ledger.expire(Kind.PACK, ident_pack(pack.id), self._hosts())

    async def _delete_expired(self) -> None:
        """Delete on every host what was put down as expired by a commit that is durable."""
        specs = {state.spec.id: state.spec for state in self._landscape.states()}
        work = {
            host: self._ledger.expired(host, DELETES_AT_ONCE)
            for host in self._objects.hosts
            if host in specs and not specs[host].append_only
        }
        if not any(work.values()):
            return
        await self._commits.durable_now()
        if not await self.claims.may_delete():
            return

        async def one(host: HostId) -> None:
            for kind, ident in work.get(host, ()):
                if not await self.claims.may_delete():
                    return
                await self._objects.delete(host, kind, ident)
                self._ledger.confirm_deleted(kind, ident, host)
                self.deleted_objects += 1

        answers = await self._objects.everywhere(one, [host for host, objects in work.items() if objects])
        for error in answers.failed.values():
            log.info("old objects stay for now: %s", error)
