"""Opening the slot file in a child, for a process that stays: it never has the passphrase, or text made of keys."""

import os
import traceback
from collections.abc import Callable
from typing import NoReturn

from megafs.config import OPENED_BYTES
from megafs.control.messages import Failure, error_of, failure, line, message
from megafs.crypto.opened import Opened
from megafs.errors import MegaFSError
from megafs.wiping import read_once

DONE, FAILED, INTERRUPTED, BROKEN = range(4)


def opened_by(unlock: Callable[[], Opened]) -> Opened:
    """What ``unlock`` returns; what it raises is raised here. The caller has one thread."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _tell(writing, unlock)
    os.close(writing)
    with open(reading, "rb", buffering=0) as pipe, read_once(pipe, OPENED_BYTES) as told:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == DONE:
            return Opened.unpacked(told)
        said = message(bytes(told[:-1])) if status == FAILED else None
    if isinstance(said, Failure):
        raise error_of(said)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    raise MegaFSError("the key slot was not opened")


def _tell(writing: int, unlock: Callable[[], Opened]) -> NoReturn:
    """The child's whole life."""
    status = BROKEN
    try:
        with open(writing, "wb") as pipe:
            try:
                pipe.write(unlock().packed())
                status = DONE
            except MegaFSError as error:
                pipe.write(line(failure(error)))
                status = FAILED
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BaseException:  # a bug: said here, because the parent's stack must not be unwound a second time
        traceback.print_exc()
    finally:
        os._exit(status)
