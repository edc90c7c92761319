"""Search bytes for secrets in every spelling in which they could lie there: raw, UTF-16, hex, base64, base32, in zstd.

A secret is cut into aligned pieces of 8 bytes, and each piece is searched for. Any 16 bytes of a secret that lie
somewhere hold a whole piece, so "no 16-byte window of a key" is what a clean scan says, for the price of few needles.
By chance a piece turns up in random bytes once in 2**64 places.
"""

import base64
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import zstandard

PIECE_BYTES = 8
ZSTD_MAGIC = bytes.fromhex("28b52ffd")
FRAME_BYTES = 64 << 20  # of what one frame may become
LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"


def canary(characters: int = 24) -> str:
    """A new secret that may stand in a name: five random bits a character."""
    return "".join(secrets.choice(LETTERS) for _ in range(characters))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A piece of the secret called ``label`` was in ``where``, spelled as ``spelling``."""

    label: str
    where: str
    spelling: str


class Scan:
    """Looks for labelled secrets."""

    def __init__(self, wanted: Mapping[str, bytes]) -> None:
        """Secrets that hold a space are text that could stand in a log by chance: they are not cut."""
        self._needles: dict[int, list[tuple[bytes, str, str]]] = {}
        self._clean: set[bytes] = set()  # digests of files that were looked at before: most hosts' objects never change
        for label, secret in wanted.items():
            assert len(secret) >= 2 * PIECE_BYTES, f"{label} is too short to be found for certain"
            pieces = [secret[at : at + PIECE_BYTES] for at in range(0, len(secret) - PIECE_BYTES + 1, PIECE_BYTES)]
            for piece in [secret] if b" " in secret else pieces:
                for spelling, needle in spellings(piece):
                    first = int.from_bytes(needle[:PIECE_BYTES], sys.byteorder)
                    self._needles.setdefault(first, []).append((needle, label, spelling))

    def bytes(self, data: bytes, where: str) -> list[Finding]:
        """What is in ``data``, as it stands and in every zstd frame that begins somewhere in it."""
        found = set(self._in(data))
        for plain in frames(data):
            found |= {(label, f"zstd, {spelling}") for label, spelling in self._in(plain)}
        return [Finding(label=label, where=where, spelling=spelling) for label, spelling in sorted(found)]

    def _in(self, data: bytes) -> Iterator[tuple[str, str]]:
        """Eight passes over all words of eight bytes: 40 ms a MiB, however many needles there are."""
        for shift in range(PIECE_BYTES):
            words = (len(data) - shift) // PIECE_BYTES
            if words > 0:
                view = memoryview(data)[shift : shift + words * PIECE_BYTES].cast("Q")
                for first in self._needles.keys() & set(view):
                    for needle, label, spelling in self._needles[first]:
                        if needle in data:
                            yield label, spelling

    def files(self, roots: Iterable[Path]) -> tuple[list[Finding], int]:
        """What is in all files below the roots and in their names, and how many bytes were looked at."""
        found: list[Finding] = []
        looked = 0
        for root in roots:
            for path in sorted(root.rglob("*")):
                found += self.bytes(str(path.relative_to(root)).encode(errors="surrogateescape"), f"name of {path}")
                if path.is_symlink():
                    found += self.bytes(str(path.readlink()).encode(), f"target of {path}")
                elif path.is_file():
                    data = path.read_bytes()
                    looked += len(data)
                    digest = sha256(data).digest()
                    if digest not in self._clean:
                        here = self.bytes(data, str(path))
                        found += here
                        self._clean |= set() if here else {digest}
        return found, looked


def spellings(piece: bytes) -> Iterator[tuple[str, bytes]]:
    """Every spelling of some bytes; of base64 and base32 what does not depend on the neighbours, at each alignment."""
    yield "raw", piece
    yield "UTF-16-LE", b"".join(bytes((byte, 0)) for byte in piece)
    yield "UTF-16-BE", b"".join(bytes((0, byte)) for byte in piece)
    yield "hex", piece.hex().encode()
    yield "HEX", piece.hex().upper().encode()
    for shift in range(3):
        last = (shift + len(piece)) // 3 * 4  # characters made of whole groups
        first = -(-shift * 8 // 6)
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            yield f"{name}+{shift}", encode(bytes(shift) + piece)[first:last]
    for shift in range(5):
        first, last = -(-shift * 8 // 5), (shift + len(piece)) * 8 // 5
        text = base64.b32encode(bytes(shift) + piece)[first:last]
        yield f"base32+{shift}", text
        yield f"base32+{shift} lower", text.lower()


def frames(data: bytes) -> Iterator[bytes]:
    """What decompresses at every place where a zstd frame may begin."""
    at = data.find(ZSTD_MAGIC)
    while at >= 0:
        try:
            reader = zstandard.ZstdDecompressor().stream_reader(data[at:])
            yield reader.read(FRAME_BYTES)
        except zstandard.ZstdError:
            pass
        at = data.find(ZSTD_MAGIC, at + 1)
