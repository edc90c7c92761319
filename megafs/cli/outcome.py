"""How a command or a daemon ended, when several tasks may have failed at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from megafs.errors import MegaFSError


@contextmanager
def one_error() -> Iterator[None]:
    """What a nursery raises as a group, as the one error that a user can do something with. Bugs stay what they are."""
    found: list[MegaFSError] = []
    try:
        yield
    except* MegaFSError as group:
        found = list(leaves(group))
    if found:
        raise found[0]


def leaves(group: BaseExceptionGroup[MegaFSError]) -> Iterator[MegaFSError]:
    """The errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
