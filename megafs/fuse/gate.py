"""The gate that every request passes: open, or closed because the vault is locked.

Closing is done in two steps, because the kernel holds pages that programs have written and that were accepted by it in
our name. *Narrow*: nothing is shown or changed any more, but what the kernel owes (pages, times) comes in. *Shut*:
that waits, too, until the vault is unlocked, and everything else has the error of a key that has expired. What is
harmless is answered without a key: an fsync has nothing left to do here, and the size of the file system is none.
"""

import errno
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import NoReturn

import trio
from pyfuse3 import FUSEError, StatvfsData

from megafs.errors import Locked

OWED = {"write", "setattr", "release", "fsync", "fsyncdir"}
LOCKED = Locked("the vault is locked; megafs unlock opens it")


class State(Enum):
    """How far the gate is open."""

    OPEN = "open"
    NARROW = "narrow"
    SHUT = "shut"


class Gate:
    """Owner of the state, and of what must be made up for when it opens."""

    def __init__(self) -> None:
        self.state = State.OPEN
        self.passed = 0  # requests so far: who watches whether the mount is idle compares two readings
        self.forgotten: list[int] = []  # inodes that the kernel forgot while it was shut
        self._opened = trio.Event()
        self._ended = False
        self.promises_hosts = False  # an fsync waits for some
        self._hastens = False
        self._waits: set[trio.CancelScope] = set()

    @property
    def is_shut(self) -> bool:
        return self.state is State.SHUT

    def narrow(self) -> None:
        """From now on only what the kernel owes comes through."""
        self.state = State.NARROW

    def hasten(self) -> None:
        """It is about to close, and nobody waits for hosts any more: in the kernel an fsync that waits keeps everybody
        from the pages of its file."""
        self._hastens = True
        for wait in self._waits:
            wait.cancel()

    async def while_open(self, wait: Callable[[], Awaitable[None]]) -> None:
        """For what may wait for hosts, for an hour where the settings say so. Raises FUSEError if the gate is about to
        close: what was asked for has not happened."""
        if not self._hastens:
            with trio.CancelScope() as scope:
                self._waits.add(scope)
                try:
                    await wait()
                finally:
                    self._waits.discard(scope)
            if not scope.cancelled_caught:
                return
        raise FUSEError(errno.EIO)

    def shut(self) -> None:
        """And now nothing."""
        self.state, self._opened = State.SHUT, trio.Event()

    def open(self) -> None:
        """Everything comes through, what waited first."""
        self.state, self._hastens = State.OPEN, False
        self._opened.set()

    def end(self) -> None:
        """The mount ends while it is locked: what waits is told so."""
        self._ended = True
        self._opened.set()

    async def admit(self, request: str, arguments: tuple[object, ...]) -> bool:
        """Called unless the gate is open: True to go on with the request. Raises FUSEError."""
        if request not in OWED or (request == "setattr" and changes_more_than_times(arguments)):
            if self.is_shut and request == "statfs":
                return False
            self.refuse()
        if not self.is_shut or request == "release":
            return True
        if request in ("fsync", "fsyncdir"):
            if self.promises_hosts:
                self.refuse()
            return False
        while self.is_shut:
            await self._opened.wait()
            if self._ended:
                self.refuse()
        return True

    def refuse(self) -> NoReturn:
        """What whoever asks is told."""
        raise FUSEError(errno.EKEYEXPIRED)


def changes_more_than_times(arguments: tuple[object, ...]) -> bool:
    """Of the arguments of setattr: whether it is more than the kernel's own bookkeeping of written files."""
    fields = arguments[2]
    return any(getattr(fields, f"update_{name}") for name in ("size", "mode", "uid", "gid"))


def nothing() -> StatvfsData:
    """The answer of statfs while nothing may be said."""
    return StatvfsData()
