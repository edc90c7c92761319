"""The slot file: what this device needs to open the vault, sealed once under a random key that every slot wraps.

So a passphrase changes without touching the body, and the body (after a rotation) without knowing a passphrase. The
file never leaves the device and is always written as a whole. One may hold several people's passphrases, random keys
(a file, the desktop keyring), and the recovery key.

| file | bytes | |
|---|---|---|
| 0 | 8 | ``MegaFSs2`` |
| 8 | 1 | slots n, 1 to 16 |
| 9 | 162 n | the slots |
| 9 + 162 n | m | the body, sealed under the body key; the context holds SHA-256 of everything before |
| end - 8 | 8 | the first 8 bytes of SHA-256 of everything before: tells a damaged file from a wrong passphrase |

| slot | bytes | |
|---|---|---|
| 0 | 1 | kind: 1 passphrase, 2 random key, 3 recovery key |
| 1 | 32 | label, filled up with zeros |
| 33 | 4, 4, 1 | Argon2id memory in KiB, iterations, lanes; zeros if the kind is not 1 |
| 42 | 16 | salt; zeros if the kind is not 1 |
| 58 | 104 | the body key, sealed; the context holds bytes 0 to 58, so changed parameters do not open |

Format 1 (``MegaFSs1``, one passphrase that seals the body itself) is still opened, and written no more.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from os import urandom
from typing import Self

from megafs.crypto.opened import Opened
from megafs.crypto.passphrase import LIMITS, SALT_BYTES, Cost, Derive, Limits, argon2id, passphrase_bytes
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.seal import NO_VAULT, Random, context, digest, expand, open_sealed, same, seal
from megafs.errors import DamagedSlot, Unauthentic, Usage, WrongKey
from megafs.model import Bytes, Kind
from megafs.wiping import KEY_BYTES, wipe

MAGIC, FORMER_MAGIC = b"MegaFSs2", b"MegaFSs1"
FORMER = struct.Struct(">8sIIB16s")  # magic, memory in KiB, iterations, lanes, salt
HEADER = struct.Struct(">8sB")
SLOT = struct.Struct(">B32sIIB16s104s")  # kind, label, memory in KiB, iterations, lanes, salt, sealed body key
OPEN_BYTES = 58  # of a slot, before the sealed body key
CHECK_BYTES = 8
FILE_BYTES = 1 << 20  # longer than any slot file
SLOTS_MOST = 16
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
KEY_TEXT = re.compile(r"megafs-key-1:([0-9a-f]{64})")
assert (FORMER.size, HEADER.size, SLOT.size) == (33, 9, 162)


class SlotKind(IntEnum):
    """What opens a slot."""

    PASSPHRASE = 1
    KEY = 2
    RECOVERY = 3


@dataclass(frozen=True, slots=True)
class SlotKey:
    """256 random bits that open a slot: nothing to stretch, and nothing to guess."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, random: Random = urandom) -> Self:
        return cls(random(KEY_BYTES))

    def text(self) -> str:
        """For a key file or the desktop keyring; ``secret_from`` tells it from a passphrase."""
        return f"megafs-key-1:{self.secret.hex()}"


Secret = str | SlotKey | RecoveryKey  # str: a passphrase


def secret_from(text: str) -> str | SlotKey:
    """What was typed or read from a file: a random key if it is spelled like one, else a passphrase."""
    found = KEY_TEXT.fullmatch(text)
    return SlotKey(bytes.fromhex(found[1])) if found else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One way to open the file."""

    kind: SlotKind
    label: str
    cost: Cost | None = None  # of a passphrase
    salt: bytes = bytes(SALT_BYTES)
    wrapped: bytes = b""

    def packed(self) -> bytes:
        cost = self.cost or Cost(memory_kib=0, iterations=0, lanes=0)
        label = self.label.encode("ascii")
        return SLOT.pack(self.kind, label, cost.memory_kib, cost.iterations, cost.lanes, self.salt, self.wrapped)

    def context(self) -> bytes:
        return context(Kind.SLOT, 0, NO_VAULT, b"key", self.packed()[:OPEN_BYTES])

    def wrapping_key(self, secret: Secret, derive: Derive) -> bytes | None:
        """What ``secret`` makes of this slot; None if it is of another kind."""
        if isinstance(secret, str):
            return derive(passphrase_bytes(secret), self.cost, self.salt) if self.cost is not None else None
        if self.kind is (SlotKind.KEY if isinstance(secret, SlotKey) else SlotKind.RECOVERY):
            return expand(secret.secret, b"MegaFS/1 slot")
        return None


def new_slot(
    secret: Secret,
    key: bytes,
    label: str,
    *,
    cost: Cost | None = None,
    random: Random = urandom,
    limits: Limits = LIMITS,
    derive: Derive = argon2id,
) -> Slot:
    """A slot that wraps the body key ``key``. ``cost`` is of a passphrase (None: the usual). Call it in a thread.
    Raises Usage."""
    if not LABEL.fullmatch(label):
        raise Usage("a slot's label has 1 to 32 letters, digits, '.', '_' or '-'")
    if isinstance(secret, str):
        if KEY_TEXT.fullmatch(secret):
            raise Usage("a passphrase cannot look like a key file")
        passphrase_bytes(secret)
        cost = cost or Cost()
        if not limits.accept(cost):
            raise Usage("these key derivation parameters are out of bounds")
        slot = Slot(kind=SlotKind.PASSPHRASE, label=label, cost=cost, salt=random(SALT_BYTES))
    else:
        slot = Slot(kind=SlotKind.KEY if isinstance(secret, SlotKey) else SlotKind.RECOVERY, label=label)
    wrapping = slot.wrapping_key(secret, derive)
    assert wrapping is not None, "the kind is the secret's own"
    return replace(slot, wrapped=seal(wrapping, slot.context(), key))


def new_file(
    body: Bytes,
    secrets: Mapping[str, Secret],
    *,
    cost: Cost | None = None,
    limits: Limits = LIMITS,
    derive: Derive = argon2id,
) -> bytes:
    """A file under a fresh body key, with one slot for each of ``secrets``, by label. Call it in a thread. Raises
    Usage."""
    key = urandom(KEY_BYTES)
    slots = [new_slot(secret, key, label, cost=cost, limits=limits, derive=derive) for label, secret in secrets.items()]
    return slot_file(slots, key, body)


def slot_file(slots: Sequence[Slot], key: bytes, body: Bytes) -> bytes:
    """The file. Raises Usage if it cannot be."""
    if not 0 < len(slots) <= SLOTS_MOST or len({slot.label for slot in slots}) != len(slots):
        raise Usage(f"a device has 1 to {SLOTS_MOST} key slots, each with a label of its own")
    front = HEADER.pack(MAGIC, len(slots)) + b"".join(slot.packed() for slot in slots)
    whole = front + seal(key, _body_context(front), body)
    if len(whole) + CHECK_BYTES > FILE_BYTES:
        raise Usage("too much for a slot file")
    return whole + digest(whole)[:CHECK_BYTES]


def slots_of(data: Bytes, limits: Limits = LIMITS) -> tuple[Slot, ...]:
    """The slots of a file, unopened; () of format 1. Raises DamagedSlot."""
    return () if _whole(data)[:8] == FORMER_MAGIC else _parsed(_whole(data), limits)[0]


def open_slots(secret: Secret, data: Bytes, *, limits: Limits = LIMITS, derive: Derive = argon2id) -> Opened:
    """DamagedSlot before anything is derived, WrongKey after. Call it in a thread: each passphrase slot costs."""
    whole = _whole(data)
    if whole[:8] == FORMER_MAGIC:
        return _former(secret, whole, limits, derive)
    slots, front, sealed = _parsed(whole, limits)
    for slot in slots:
        try:
            wrapping = slot.wrapping_key(secret, derive)
            key = b"" if wrapping is None else open_sealed(wrapping, slot.context(), slot.wrapped)
        except (Usage, Unauthentic):
            continue
        if key:
            return Opened(key=key, body=_opened_body(key, front, sealed), label=slot.label)
    raise _wrong(secret)


def body_of(data: Bytes, key: bytes) -> bytes:
    """The body that a file has now. Raises DamagedSlot if ``key`` is not what its slots wrap."""
    _, front, sealed = _parsed(_whole(data), LIMITS)
    return _opened_body(key, front, sealed)


def with_body(data: Bytes, key: bytes, body: Bytes) -> bytes:
    """The file with another body under the same slots. Raises DamagedSlot if ``key`` is not what they wrap."""
    slots, front, sealed = _parsed(_whole(data), LIMITS)
    _opened_body(key, front, sealed)
    return slot_file(slots, key, body)


def with_slots(data: Bytes, opened: Opened, slots: Sequence[Slot]) -> bytes:
    """The file with other slots, which wrap the same key, and the body that it has now. Raises DamagedSlot, Usage."""
    _, front, sealed = _parsed(_whole(data), LIMITS)
    body = _opened_body(opened.key, front, sealed)
    try:
        return slot_file(slots, opened.key, body)
    finally:
        wipe(body)


def _whole(data: Bytes) -> bytes:
    """Everything before the check sum, which holds."""
    data = bytes(data[: FILE_BYTES + 1])
    if not FORMER.size < len(data) - CHECK_BYTES <= FILE_BYTES - CHECK_BYTES:
        raise DamagedSlot("The key slot is damaged: its length is wrong.")
    if not same(digest(data[:-CHECK_BYTES])[:CHECK_BYTES], data[-CHECK_BYTES:]):
        raise DamagedSlot("The key slot is damaged: its check sum is wrong.")
    if data[:8] not in (MAGIC, FORMER_MAGIC):
        raise DamagedSlot("The key slot is not of a format that this version knows.")
    return data[:-CHECK_BYTES]


def _parsed(whole: bytes, limits: Limits) -> tuple[tuple[Slot, ...], bytes, bytes]:
    """The slots, the bytes that hold them, and the sealed body."""
    magic, count = HEADER.unpack_from(whole)
    end = HEADER.size + count * SLOT.size
    if magic != MAGIC or not 0 < count <= SLOTS_MOST or end >= len(whole):
        raise DamagedSlot("The key slot is damaged: its length is wrong.")
    slots = tuple(_slot(fields, limits) for fields in SLOT.iter_unpack(whole[HEADER.size : end]))
    if len({slot.label for slot in slots}) != count:
        raise DamagedSlot("The key slot is damaged: a label is there twice.")
    return slots, whole[:end], whole[end:]


def _slot(fields: tuple[int, bytes, int, int, int, bytes, bytes], limits: Limits) -> Slot:
    kind, label, memory_kib, iterations, lanes, salt, wrapped = fields
    try:
        slot = Slot(kind=SlotKind(kind), label=label.rstrip(b"\0").decode("ascii"), salt=salt, wrapped=wrapped)
    except ValueError:
        raise DamagedSlot("The key slot is not of a format that this version knows.") from None
    if not LABEL.fullmatch(slot.label):
        raise DamagedSlot("The key slot is damaged: a label cannot be.")
    if slot.kind is SlotKind.PASSPHRASE:
        return replace(slot, cost=_accepted(Cost(memory_kib=memory_kib, iterations=iterations, lanes=lanes), limits))
    if memory_kib or iterations or lanes or any(salt):
        raise DamagedSlot("The key slot is damaged: a key has parameters.")
    return slot


def _accepted(cost: Cost, limits: Limits) -> Cost:
    if not limits.accept(cost):
        raise DamagedSlot("The key slot asks for key derivation parameters out of bounds.")
    return cost


def _opened_body(key: bytes, front: bytes, sealed: bytes) -> bytes:
    try:
        if len(key) == KEY_BYTES:
            return open_sealed(key, _body_context(front), sealed)
    except Unauthentic:
        pass
    raise DamagedSlot("The key slot file was changed: a slot opens, what it should protect does not.")


def _body_context(front: bytes) -> bytes:
    return context(Kind.SLOT, 0, NO_VAULT, b"body", digest(front))


def _former(secret: Secret, whole: bytes, limits: Limits, derive: Derive) -> Opened:
    """Format 1."""
    header = whole[: FORMER.size]
    _, memory_kib, iterations, lanes, salt = FORMER.unpack(header)
    cost = _accepted(Cost(memory_kib=memory_kib, iterations=iterations, lanes=lanes), limits)
    if not isinstance(secret, str):
        raise _wrong(secret)
    try:
        derived = derive(passphrase_bytes(secret), cost, salt)
        return Opened(body=open_sealed(derived, context(Kind.SLOT, 0, NO_VAULT, header), whole[FORMER.size :]))
    except (Usage, Unauthentic):
        raise _wrong(secret) from None


def _wrong(secret: Secret) -> WrongKey:
    if isinstance(secret, str):
        return WrongKey("The passphrase is wrong.")
    if isinstance(secret, SlotKey):
        return WrongKey("This key opens none of the slots of this device.")
    return WrongKey("This recovery key opens none of the slots of this device.")
