"""Errors of a damaged index become one sentence that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from megafs.errors import DamagedIndex
from megafs.index.database import SICK


@contextmanager
def cure_named(name: str) -> Iterator[None]:
    """An index that cannot be read, as one sentence that says what to do."""
    found: list[Exception] = []
    try:
        yield
    except* (DamagedIndex, *SICK) as group:
        found.append(first(group))
    if found:
        raise DamagedIndex(
            f"the index of {name} is damaged ({found[0]}); this rebuilds it from the hosts: "
            f"megafs attach --repair {name} --host URL … --recovery-key-file FILE"
        ) from found[0]


def first(error: Exception) -> Exception:
    """One of a group of groups."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
