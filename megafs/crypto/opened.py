"""Secrets on their way from an opened slot file to whoever works with them, and how they end.

Between processes they travel as raw bytes behind a line of JSON, never inside it: text that is parsed leaves copies of
its parts all over the memory. Imports nothing heavy: the messages between command line and daemon name ``Opened``.
"""

from dataclasses import dataclass, field
from typing import Self

from megafs.wiping import KEY_BYTES, wipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What an opened slot file gives."""

    body: bytes = field(repr=False)
    key: bytes = field(default=b"", repr=False)  # that seals the body; empty: format 1, which has none
    label: str = ""  # of the slot that opened

    def packed(self) -> bytes:
        """For the daemon's process: the key, then the body."""
        assert len(self.key) == KEY_BYTES, "a slot file that was unlocked is of a format that has one"
        return self.key + self.body

    @classmethod
    def unpacked(cls, packed: memoryview) -> Self:
        return cls(key=bytes(packed[:KEY_BYTES]), body=bytes(packed[KEY_BYTES:]))

    def forget(self) -> None:
        """Let go of the secrets, whoever still refers to this."""
        wipe(self.body, self.key)
        object.__setattr__(self, "body", b"")
        object.__setattr__(self, "key", b"")
