"""Secrets on their way from an opened slot file to whoever works with them, and how they end.

Imports nothing heavy: the messages between the command line and the daemon name ``Opened``.
"""

import ctypes
from dataclasses import dataclass, field

SECRET_BYTES = 32


def wipe(*secrets: bytes) -> None:
    """Overwrite the bytes of objects that nobody will use again. As far as CPython allows: a copy that something else
    made (a conversion, a slice, a library) is not reached."""
    for secret in secrets:
        if len(secret) >= SECRET_BYTES:  # shorter ones may be shared constants
            ctypes.memset(id(secret) + bytes.__basicsize__ - 1, 0, len(secret))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What an opened slot file gives."""

    body: bytes = field(repr=False)
    key: bytes = field(default=b"", repr=False)  # that seals the body; empty: format 1, which has none
    label: str = ""  # of the slot that opened

    def forget(self) -> None:
        """Let go of the secrets, whoever still refers to this."""
        wipe(self.body, self.key)
        object.__setattr__(self, "body", b"")
        object.__setattr__(self, "key", b"")
