"""The recovery key: 256 random bits as 24 words (BIP39 coding), and the boot objects that it alone finds and opens.

Boot objects lie on every host under one of 64 names; the index is picked at random per host, and who has the words
tries them all. They hold what a new device needs: vault secrets, root key, hosts. The vault is not known before one is
open, so their context has 32 zero bytes in its place, and epoch 0.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from importlib.resources import files
from os import urandom
from typing import Self

from megafs.crypto.keys import object_name
from megafs.crypto.seal import NO_VAULT, Random, context, digest, expand, open_sealed, seal
from megafs.errors import WrongKey
from megafs.model import Bytes, Kind
from megafs.wiping import KEY_BYTES

WORDS = tuple(files("megafs.crypto").joinpath("words.txt").read_text("ascii").split())
assert len(WORDS) == 2048
NUMBERS = {word: number for number, word in enumerate(WORDS)}
KEY_WORDS = 24  # of 11 bits: 256 of the key, 8 of a checksum
WORD_BITS = 11
BOOT_NAMES = 64

_BOOT_CONTEXT = context(Kind.BOOT, 0, NO_VAULT)


@dataclass(frozen=True, slots=True, eq=False)
class RecoveryKey:
    """What the owner writes down. Whoever has it has the vault."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.secret) == KEY_BYTES

    @classmethod
    def generate(cls, random: Random = urandom) -> Self:
        """A new one."""
        return cls(random(KEY_BYTES))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From words in any layout. WrongKey does not repeat a word."""
        return cls(secret_of(text, KEY_WORDS, "A recovery key"))

    def words(self) -> list[str]:
        """The 24 words: key and checksum, 11 bits a word, the highest first."""
        return words_of(self.secret)

    def boot_names(self) -> list[str]:
        """Where boot objects may be, on any host."""
        name_key = expand(self.secret, b"MegaFS/1 boot-name")
        return [object_name(name_key, Kind.BOOT, bytes((index,))) for index in range(BOOT_NAMES)]

    def seal_boot(self, body: Bytes) -> bytes:
        """A boot object, to be put under one of ``boot_names``."""
        return seal(expand(self.secret, b"MegaFS/1 boot"), _BOOT_CONTEXT, body)

    def open_boot(self, sealed: Bytes) -> bytes:
        """The body of a boot object; Unauthentic if it is not one of this recovery key."""
        return open_sealed(expand(self.secret, b"MegaFS/1 boot"), _BOOT_CONTEXT, sealed)


def words_of(secret: bytes) -> list[str]:
    """Random bits as BIP39 writes them: a checksum of one bit for each 32 behind them, 11 bits a word."""
    checksum_bits = len(secret) // 4
    number = int.from_bytes(secret, "big") << checksum_bits | digest(secret)[0] >> 8 - checksum_bits
    count = (len(secret) * 8 + checksum_bits) // WORD_BITS
    return [WORDS[number >> WORD_BITS * place & 0x7FF] for place in reversed(range(count))]


def secret_of(text: str, count: int, what: str) -> bytes:
    """The bits of ``count`` words in any layout: spaces, lines, numbers, commas, capitals. Runs of letters are words,
    everything else separates them. WrongKey begins with ``what`` and does not repeat a word."""
    words = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFKC", text).lower())
    if len(words) != count:
        raise WrongKey(f"{what} has {count} words, these are {len(words)}.")
    unknown = [str(place) for place, word in enumerate(words, 1) if word not in NUMBERS]
    if unknown:
        which = f"Word {unknown[0]} is" if len(unknown) == 1 else f"Words {', '.join(unknown)} are"
        raise WrongKey(f"{which} not in the list of recovery words; look for a misspelling.")
    number = 0
    for word in words:
        number = number << WORD_BITS | NUMBERS[word]
    checksum_bits = count * WORD_BITS // 33
    secret = (number >> checksum_bits).to_bytes(count * WORD_BITS // 33 * 4, "big")
    if digest(secret)[0] >> 8 - checksum_bits != number & (1 << checksum_bits) - 1:
        raise WrongKey("These words do not belong together: one is wrong, or two have changed places.")
    return secret
