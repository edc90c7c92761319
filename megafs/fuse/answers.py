"""Errors of a FUSE request become its errno, in this one place."""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pyfuse3 import FUSEError

from megafs.errors import MegaFSError, NoSpace, ReadOnly, Refused
from megafs.index.database import SICK

log = logging.getLogger(__name__)


class Failing(Protocol):
    """Who counts and logs what went wrong (fuse.operations)."""

    def note_failure(self, request: str, error: MegaFSError) -> None:
        """An error that is not the caller's own."""

    def index_failed(self, request: str, error: Exception) -> None:
        """The index did not give or take a page."""


P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self", bound=Failing)


def answers(
    handler: Callable[Concatenate[Self, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Self, P], Coroutine[Any, Any, R]]:
    """Every error of ours becomes its errno; a bug becomes EIO and a traceback in the log."""

    async def answering(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except Refused as error:
            raise FUSEError(error.code) from None
        except (ReadOnly, NoSpace) as error:  # status says why; the log has it once, where it began
            raise FUSEError(error.code) from error
        except MegaFSError as error:
            self.note_failure(handler.__name__, error)
            raise FUSEError(error.code) from error
        except SICK as error:
            self.index_failed(handler.__name__, error)
            raise FUSEError(errno.EIO) from error
        except FUSEError:
            raise
        except Exception:
            log.exception("bug in %s", handler.__name__)
            raise FUSEError(errno.EIO) from None

    functools.update_wrapper(answering, handler)
    return answering
