"""Errors of a damaged index become one sentence that says what to do."""

import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import trio

from megafs.config import VaultPaths
from megafs.control.messages import Message, Request
from megafs.control.server import Handler
from megafs.errors import DamagedIndex, DiskError, MegaFSError
from megafs.index.database import SICK


@contextmanager
def cure_named(paths: VaultPaths) -> Iterator[None]:
    """An index that cannot be read, as one sentence that says what to do."""
    found: list[Exception] = []
    try:
        yield
    except* (DamagedIndex, DiskError, *SICK) as group:
        error = of_index(first(group))
        if error is None:
            raise
        found.append(error)
    if found and paths.index.exists() and not disk_gives(paths.index):
        raise DiskError(f"the index cannot be read ({found[0]}): the disk of the state directory fails") from found[0]
    if found:
        raise DamagedIndex(sentence(paths.root.name, found[0])) from found[0]


def of_index(error: Exception) -> Exception | None:
    """What SQLite said, if that is what happened."""
    if isinstance(error, DiskError):  # Database.snapshot
        return error.__cause__ if isinstance(error.__cause__, (DamagedIndex, *SICK)) else None
    return error


def sentence(name: str, error: Exception) -> str:
    """What is wrong with an index that its disk gives, and what to do."""
    return (
        f"the index of {name} is damaged ({error}); once it is not mounted, this rebuilds it from the hosts: "
        f"megafs attach {name} --repair --host URL … --recovery-key-file FILE"
    )


def disk_gives(index: Path) -> bool:
    """Thread. Whether the file can be read from end to end, whatever is in it. By another process: closing a
    descriptor of the index in this one would drop SQLite's POSIX locks."""
    done = subprocess.run(["cat", "--", index], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return not done.returncode


async def told(paths: VaultPaths, error: Exception) -> MegaFSError:
    """An error of the index while the vault is mounted, as one of ours: is it damaged, or its disk sick?"""
    if await trio.to_thread.run_sync(disk_gives, paths.index):
        return DamagedIndex(sentence(paths.root.name, error))
    return DiskError(f"the index cannot be read ({error}): waiting for its disk")


def telling(paths: VaultPaths, handler: Handler) -> Handler:
    """The handler of a call, whose errors of the index are told to who called and end nothing."""

    async def answers(request: Request) -> AsyncGenerator[Message, None]:
        try:
            async with aclosing(handler(request)) as messages:
                async for message in messages:
                    yield message
        except (DiskError, *SICK) as error:
            said = of_index(error)
            if said is None:
                raise
            raise await told(paths, said) from error

    return answers


def first(error: Exception) -> Exception:
    """One of a group of groups."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
