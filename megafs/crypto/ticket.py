"""A ticket's code: 128 random bits as 12 words, and the object that it alone finds and opens.

Said by one device, typed at another, good for one use within minutes. The object lies on every host under a name
derived from the code; it holds what a boot object does, less the root key. Hosts may keep it for ever, so the code is
as long as a key. Vault and epoch are not known before it is open: their places in the context are zeros.
"""

from dataclasses import dataclass, field
from os import urandom
from typing import Self

from megafs.crypto.keys import object_name
from megafs.crypto.recovery import secret_of, words_of
from megafs.crypto.seal import NO_VAULT, Random, context, expand, open_sealed, seal
from megafs.model import Bytes, Kind

CODE_BYTES = 16
CODE_WORDS = 12  # of 11 bits: 128 of the code, 4 of a checksum

_CONTEXT = context(Kind.TICKET, 0, NO_VAULT)


@dataclass(frozen=True, slots=True, eq=False)
class TicketCode:
    """Whoever has it while the object is there has the vault."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.secret) == CODE_BYTES

    @classmethod
    def generate(cls, random: Random = urandom) -> Self:
        """A new one."""
        return cls(random(CODE_BYTES))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From words in any layout. WrongKey does not repeat a word."""
        return cls(secret_of(text, CODE_WORDS, "A ticket"))

    def words(self) -> list[str]:
        """The 12 words."""
        return words_of(self.secret)

    def name(self) -> str:
        """What the object is called, on any host."""
        return object_name(expand(self.secret, b"MegaFS/1 ticket-name"), Kind.TICKET, b"")

    def seal(self, body: Bytes) -> bytes:
        """The object, to be put under ``name``."""
        return seal(expand(self.secret, b"MegaFS/1 ticket"), _CONTEXT, body)

    def open(self, sealed: Bytes) -> bytes:
        """Its body; Unauthentic if it is not of this code."""
        return open_sealed(expand(self.secret, b"MegaFS/1 ticket"), _CONTEXT, sealed)
