"""Locking a mount without ending it: what was accepted is committed, then keys, plaintext and caches go.

``lock`` is asked by the CLI, after idle time, or by the screen. The order: nobody waits for hosts any more; the kernel
hands over its dirty pages; the gate narrows; a commit; the kernel forgets attributes, names and pages of every inode,
the root first, so that every path ends there; the gate shuts; commits until nothing is left; then whoever owns the
engine (daemon.run) ends its loops, closes it and has its keys wiped. Nothing that was acknowledged is lost: if a commit
fails, it stays unlocked.
"""

import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from megafs.control.messages import Done, Message, Request, Status
from megafs.control.server import Handler
from megafs.crypto.opened import Opened
from megafs.daemon.engine import Engine
from megafs.errors import Locked, MegaFSError, WrongKey
from megafs.fuse.gate import LOCKED
from megafs.fuse.handover import hand_over
from megafs.fuse.operations import Operations
from megafs.index.pins import Pins
from megafs.model import Ino

log = logging.getLogger(__name__)

COMMITS = 20  # at most, until nothing is left; programs that are refused make none
CHASE_S = 3.0  # for files that are open for writing
IDLE_LOOKS = 4  # in the time that it has to be idle
ROOT = 1


class Locking:
    """Owner of whether a mount is locked, and of the calls that go on meanwhile."""

    def __init__(self, name: str, mountpoint: Path, operations: Operations) -> None:
        self._status = Status(vault=name, mountpoint=str(mountpoint), locked=True)
        self._mountpoint, self._operations = mountpoint, operations
        self._one = trio.Lock()
        self.ending = trio.Event()  # the engine's loops are to end
        self._locked, self._unlocked = trio.Event(), trio.Event()
        self._given: Opened | None = None
        self._came = trio.Event()
        self._refusal: MegaFSError | None = None
        self._running = 0
        self._idle = trio.Event()
        self._idle.set()

    @property
    def is_locked(self) -> bool:
        return self._operations.gate.is_shut

    # what the mount owner calls

    async def lock(self, engine: Engine) -> None:
        """Return when the keys are gone. Raises what a commit raised; then nothing has changed."""
        async with self._one:
            if self.is_locked:
                return
            gate = self._operations.gate
            try:
                gate.hasten()
                await self.take_pages(engine)
                gate.narrow()
                await engine.commits.durable_now()
                await self._invalidate(engine)
                gate.shut()
                for _ in range(COMMITS):
                    await engine.commits.durable_now()
                    if not engine.commits.is_due():
                        break
                if engine.content.has_work():
                    raise Locked("not locked: writers did not stop")
            except BaseException:
                gate.open()
                raise
            engine.content.end(LOCKED)  # no await since nothing was left
            engine.commits.end(LOCKED)
            self.ending.set()
            with trio.CancelScope(shield=True):  # loops end and keys go; seconds
                await self._locked.wait()
            log.info("locked")

    async def take_pages(self, engine: Engine) -> None:
        """The kernel hands over what programs have written into files that they have open."""
        top, pins = os.fsencode(self._mountpoint), Pins(engine.database)
        inodes = self._operations.open_for_writing() - engine.names.unlinked
        paths = [pins.path(Ino(ino)) for ino in sorted(inodes)]
        files = [b"%s/%s" % (top, path) for path in paths if path]
        try:
            await trio.to_thread.run_sync(hand_over, files, abandon_on_cancel=True)
        except OSError as error:
            log.warning("the kernel could not hand over everything: %s", error)

    async def _invalidate(self, engine: Engine) -> None:
        """The kernel forgets what it knows. A file that is written without a pause may grow faster than its pages can
        be taken away: what is left of it then stays readable for who has it open, and the thread goes on behind it."""
        written = self._operations.open_for_writing()
        inodes = await trio.to_thread.run_sync(_inodes, engine)
        quiet = [ino for ino in inodes if ino not in written]
        await trio.to_thread.run_sync(_invalidate, ROOT, *quiet)
        with trio.move_on_after(CHASE_S):
            async with trio.open_nursery() as nursery:
                for ino in written:
                    nursery.start_soon(partial(trio.to_thread.run_sync, _invalidate, ino, abandon_on_cancel=True))

    async def calls_ended(self) -> None:
        """Calls that use the engine have been broken off."""
        await self._idle.wait()

    async def wait_for_key(self, takes: Callable[[Opened], MegaFSError | None]) -> None:
        """The engine is closed. Returns once ``takes`` has opened another with what somebody gave."""
        self._locked.set()
        while True:
            await self._came.wait()
            given, self._given, self._came = self._given, None, trio.Event()
            assert given is not None
            self._refusal = takes(given)
            if self._refusal is None:
                break
            self._unlocked.set()
            self._unlocked = trio.Event()
        self.ending, self._locked = trio.Event(), trio.Event()
        self._operations.gate.open()
        self._unlocked.set()
        self._unlocked = trio.Event()
        log.info("unlocked")

    # calls

    def counted(self, handler: Handler) -> Handler:
        """A call that uses the engine, which is not closed before it has ended."""

        async def answering(request: Request) -> AsyncGenerator[Message, None]:
            self._running += 1
            self._idle = trio.Event()
            try:
                async with aclosing(handler(request)) as answers:  # what holds a lock ends in the task that took it
                    async for told in answers:
                        yield told
            finally:
                self._running -= 1
                if not self._running:
                    self._idle.set()

        return answering

    async def status(self, request: Request) -> AsyncGenerator[Message, None]:
        """While it is locked."""
        yield self._status

    async def refuse(self, request: Request) -> AsyncGenerator[Message, None]:
        """Any other call while it is locked."""
        if not self.is_locked:
            yield Done(sentences=())
        raise LOCKED

    async def unlock(self, request: Request) -> AsyncGenerator[Message, None]:
        """With the opened slot file. Raises WrongKey if it is another device's."""
        try:
            async with self._one:
                if self.is_locked:
                    if not request.opened.body:
                        raise WrongKey("nothing was given that opens the vault")
                    self._given, waiting = request.opened, self._unlocked
                    self._came.set()
                    await waiting.wait()
                    if self._refusal is not None:
                        raise self._refusal
        finally:
            request.opened.forget()
        yield Done(sentences=("It is unlocked.",))

    async def watch_idle(self, idle_s: float, lock: Callable[[], object]) -> None:
        """Lock once no request has come for so long."""
        seen, quiet_s = -1, 0.0
        while True:
            await trio.sleep(idle_s / IDLE_LOOKS)
            passed = self._operations.gate.passed
            quiet_s = quiet_s + idle_s / IDLE_LOOKS if passed == seen and not self.is_locked else 0.0
            seen = passed
            if quiet_s >= idle_s:
                lock()
                quiet_s = 0.0


def _inodes(engine: Engine) -> list[int]:
    """Thread. Every inode that the kernel may know."""
    with engine.database.snapshot() as connection:
        return [int(row[0]) for row in connection.execute("SELECT id FROM inode")]


def _invalidate(*inodes: int) -> None:
    """Thread: the kernel may have to hand over pages first, and the loop takes them."""
    for ino in inodes:
        with suppress(OSError):  # it does not know this one
            pyfuse3.invalidate_inode(pyfuse3.InodeT(ino))
