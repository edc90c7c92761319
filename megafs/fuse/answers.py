"""Errors of a FUSE request become its errno, in this one place."""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pyfuse3 import FUSEError

from megafs.errors import Locked, MegaFSError, NoSpace, ReadOnly, Refused
from megafs.fuse.gate import Gate, State, nothing
from megafs.index.database import SICK

log = logging.getLogger(__name__)


class Failing(Protocol):
    """Who has the gate, and counts and logs what went wrong (fuse.operations)."""

    gate: Gate

    def note_failure(self, request: str, error: MegaFSError) -> None:
        """An error that is not the caller's own."""

    def index_failed(self, request: str, error: Exception) -> None:
        """The index did not give or take a page."""


P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self", bound=Failing)
OPEN = State.OPEN  # a global is found faster than a member


def answers(
    handler: Callable[Concatenate[Self, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Self, P], Coroutine[Any, Any, R]]:
    """Every error of ours becomes its errno; a bug becomes EIO and a traceback in the log."""
    return _answering(handler, waits=True)


def answers_at_once(
    handler: Callable[Concatenate[Self, P], R],
) -> Callable[Concatenate[Self, P], Coroutine[Any, Any, R]]:
    """The same for a handler that never waits: one coroutine for each request less."""
    return _answering(handler, waits=False)


def _answering(
    handler: Callable[Concatenate[Self, P], Any], *, waits: bool
) -> Callable[Concatenate[Self, P], Coroutine[Any, Any, Any]]:
    name = handler.__name__

    async def answering(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> object:
        gate = self.gate
        gate.passed += 1
        try:
            if gate.state is not OPEN and not await gate.admit(name, args):
                return nothing()  # of statfs; fsync's is not looked at
            answer = handler(self, *args, **kwargs)
            return await answer if waits else answer
        except FUSEError:
            raise
        except Exception as error:
            raise FUSEError(_code(self, name, error)) from error

    functools.update_wrapper(answering, handler)
    return answering


def _code(operations: Failing, request: str, error: Exception) -> int:
    """The errno of an error; one that is not the caller's own is counted and logged where its owner wants it."""
    if isinstance(error, Refused):
        return error.code
    if operations.gate.is_shut:  # it had begun before; what it needs is gone
        operations.gate.refuse()
    if isinstance(error, ReadOnly | NoSpace | Locked):  # status says why; the log has it once, where it began
        return error.code
    if isinstance(error, MegaFSError):
        operations.note_failure(request, error)
        return error.code
    if isinstance(error, SICK):
        operations.index_failed(request, error)
    else:
        log.error("bug in %s", request, exc_info=error)
    return errno.EIO
