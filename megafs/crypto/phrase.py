"""Checkpoint phrases: six words by which two people, or two days, compare how far a vault was.

``device.seq word word word word word word``: the words are the first 66 bits of SHA-256 over what they stand for, so a
phrase says nothing to whoever finds it, and nobody can make another commit that has the same.
"""

import re
import struct
from dataclasses import dataclass
from typing import Self

from megafs.crypto.recovery import NUMBERS, WORD_BITS, WORDS
from megafs.crypto.seal import digest
from megafs.errors import Usage
from megafs.model import VaultId

PLACE = struct.Struct(">QQ")  # device, seq
PHRASE_WORDS = 6
SPELLED = re.compile(rf"(\d{{1,7}})\.(\d{{1,18}})((?:[\s,]+[a-z]+){{{PHRASE_WORDS}}})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """Which commit, and the words that its hash makes."""

    device: int
    seq: int
    words: tuple[str, ...]

    @classmethod
    def of(cls, vault: VaultId, device: int, seq: int, commit_hash: bytes) -> Self:
        """Of one commit of one vault."""
        spoken = digest(b"MegaFS/1 checkpoint-phrase" + vault + PLACE.pack(device, seq) + commit_hash)
        number = int.from_bytes(spoken, "big") >> 8 * len(spoken) - WORD_BITS * PHRASE_WORDS
        places = reversed(range(PHRASE_WORDS))
        return cls(device=device, seq=seq, words=tuple(WORDS[number >> WORD_BITS * place & 0x7FF] for place in places))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """As it was written down. Raises Usage."""
        found = SPELLED.fullmatch(text.strip().lower())
        words = tuple(re.findall("[a-z]+", found[3])) if found else ()
        if found is None or any(word not in NUMBERS for word in words):
            raise Usage(f"a checkpoint phrase is DEVICE.NUMBER and {PHRASE_WORDS} words of the list")
        return cls(device=int(found[1]), seq=int(found[2]), words=words)

    def text(self) -> str:
        return f"{self.device}.{self.seq} {' '.join(self.words)}"
