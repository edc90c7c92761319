"""What a host is: a place that stores objects under names that we choose. The docstrings are the contract.

Names are 1 to 64 characters of ``a-z2-7``. Objects are immutable: no caller ever puts two contents under one name,
so ``put`` of an existing name may be answered without sending. Errors are HostUnreachable (worth a retry), HostRefused,
HostFull, ObjectMissing; no other exception leaves a host. The bytes of ``put`` and ``get`` pass through the pace of the
request (pace.py), so that limits of rate hold within a body.
"""

import re
from collections.abc import AsyncIterator
from typing import Protocol

from megafs.model import Usage

Bytes = bytes | bytearray | memoryview

NAME = re.compile(r"[a-z2-7]{1,64}")
NOBODY = 32 * "a"  # as long as a real name, and nobody's: to ask whether a host is there
OBJECT_BYTES = 64 << 20  # no object of ours is larger; a host that answers with more is not believed


class Host(Protocol):
    """One place that stores objects."""

    async def prepare(self) -> None:
        """Make the place ready to take objects: folders, marker. Idempotent; called when a host joins a vault, never
        later, so that a place that vanished is noticed and not silently begun anew."""

    async def put(self, name: str, data: Bytes) -> None:
        """Store a whole object, durably as far as the host can promise. Idempotent. A failed or cancelled put
        leaves either no object or the whole one under ``name``, never a part."""

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start <= i < stop`` (to the end: None). A range past the end is cut to what is there, as HTTP
        does. Raises ObjectMissing."""

    async def head(self, name: str) -> int:
        """The object's size in bytes. Raises ObjectMissing."""

    async def delete(self, name: str) -> None:
        """Remove the object; no error if it is not there."""

    def list(self) -> AsyncIterator[tuple[str, int]]:
        """Every object as (name, bytes), in no order; for accounting only. What is put or deleted meanwhile may
        or may not be seen."""

    async def usage(self) -> Usage:
        """Free and used bytes as far as the host says."""

    async def aclose(self) -> None:
        """Release connections; the host is not used afterwards."""


def checked_name(name: str) -> str:
    """The name itself; names come from our own derivation, so a wrong one is our mistake."""
    assert NAME.fullmatch(name), f"not an object name: {name!r}"
    return name


def checked_range(start: int, stop: int | None) -> None:
    """Asserts that a range is one."""
    assert start >= 0
    assert stop is None or start <= stop
