"""One durable step of the index: pack bytes, then the index that names them, never the other way round.

In: fsync (``durable``), the interval, 20,000 changed rows, shipping. Steps, as DESIGN.md section 2 orders them:
1. seal and append what is pending, sync the packs; requests go on
2. once more for what came meanwhile; now requests that destroy something wait at ``destructive``
3. in one ``def``: the changeset, COMMIT; landings that arrived after the sync began wait until it is over
4. sync the WAL; only then is anything acknowledged or shipped
So no commit holds a destructive step without all data accepted before it.
"""

import logging
from collections.abc import Callable

import trio

from megafs.config import CHANGED_ROWS_PER_COMMIT
from megafs.errors import Corrupt, DiskError, MegaFSError, NoSpace
from megafs.files.content import Content
from megafs.index.database import Database
from megafs.store.writer import PackWriter

RETRY_S = 1.0  # after a commit that the disk refused
LOOK_EVERY = 64  # changes between two looks at how many rows they made

log = logging.getLogger(__name__)


class Committer:
    """Owner of the commit sequence; one at a time, callers that ask meanwhile share the next."""

    def __init__(
        self, database: Database, content: Content, writer: PackWriter, *, interval_s: float, newest_pack: int
    ) -> None:
        self._database, self._content, self._writer = database, content, writer
        self._interval_s = interval_s
        self._started = self._finished = self._noted = 0
        self._changed, self._asked, self._over, self._open = trio.Event(), trio.Event(), trio.Event(), trio.Event()
        self._open.set()  # destructive requests pass
        self._newest_pack = newest_pack
        self.durable = 0  # newest outbox number whose WAL sync has returned
        self.failing: MegaFSError | None = None  # why the last commit failed; None: it did not
        self.given_up = trio.Event()  # the index failed in the middle of a change
        self.on_durable: Callable[[], None] = lambda: None

    def destructive(self) -> trio.Event | None:
        """Before unlink, rmdir, rename, truncate: None to go on, or the event to wait for."""
        return None if self._open.is_set() else self._open

    def is_due(self) -> bool:
        """Whether a commit would have anything to do."""
        return self._content.has_work() or self._database.changed_rows > 0

    async def durable_now(self) -> None:
        """Return when everything accepted before this call is durable. Raises what the disk said."""
        ticket = self._started + 1
        self.ask()
        while self._finished < ticket:
            await self._over.wait()
        if self.failing is not None:
            raise self.failing

    def ask(self) -> None:
        """A commit at once; nobody need wait for it."""
        self._changed.set()
        self._asked.set()

    def give_up(self, error: Exception) -> None:
        """The index failed in the middle of a change."""
        self._database.give_up(error)
        self.failing = DiskError(self._database.given_up)
        self.given_up.set()
        self.ask()

    def explain(self, why: str) -> None:
        """After ``give_up``: what is known by now of the reason."""
        log.error("%s", why)
        self._database.given_up = why
        self.failing = DiskError(why)

    def end(self, error: MegaFSError) -> None:
        """No commit will follow: whoever waits for one is told why, whoever waits for one to be over goes on."""
        self.failing = error
        self._finished = self._started + 1
        self._over.set()
        self._open.set()

    def note_change(self) -> None:
        """A request changed rows or content. Cheap: called for every one."""
        self._noted += 1
        if not self._changed.is_set():
            self._changed.set()
        elif not self._noted % LOOK_EVERY and self._database.changed_rows > CHANGED_ROWS_PER_COMMIT:
            self._asked.set()

    async def run(self) -> None:
        """Commit when asked, and the interval after the first change. Idle, it does not wake up. Ends by
        cancellation."""
        while True:
            if self.failing is None:
                await self._changed.wait()
            else:
                await trio.sleep(RETRY_S)
            with trio.move_on_after(self._interval_s):
                await self._asked.wait()
            await self.commit()

    async def commit(self) -> None:
        """One commit now; errors are kept in ``failing`` and raised to those who wait."""
        self._started += 1
        number = self._started
        self._changed, self._asked = trio.Event(), trio.Event()
        try:
            await self._commit()
            self.failing = None
        except (NoSpace, DiskError, Corrupt) as error:
            self.failing = error
            if not self.given_up.is_set():  # told when it was
                log.warning("commit failed, trying again every second: %s", error)
        finally:
            self._finished = number
            self._over.set()
            self._over = trio.Event()

    async def _commit(self) -> None:
        content, writer, database = self._content, self._writer, self._database
        if database.given_up:
            raise DiskError(database.given_up)
        if content.has_work():
            await content.flush()
        await writer.sync()
        self._open = trio.Event()
        try:
            if content.has_work():
                await content.flush()
            content.hold()
            try:
                await writer.sync()
                self._newest_pack = max(self._newest_pack, writer.newest_pack)
                newest = database.commit(self._newest_pack)
            finally:
                await content.release()
        finally:
            self._open.set()
        await trio.to_thread.run_sync(database.sync_wal)
        if newest > self.durable:
            self.durable = newest
            self.on_durable()
        if database.wal_is_long() and await trio.to_thread.run_sync(database.checkpoint_wal):
            database.note_bulk_copied()
