"""A39: one ciphertext that two keys accept is easy to make for AES-GCM; sealed objects have only one key.

The attacker knows both keys, picks the salt, and solves one block of ciphertext so that the tag holds under both.
"""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from megafs.crypto.partial import open_range
from megafs.crypto.passphrase import argon2id
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.seal import ALGORITHM, NO_VAULT, context, expand, open_sealed
from megafs.crypto.slot import Slot, SlotKey, SlotKind, open_slots, slot_file
from megafs.errors import Unauthentic, WrongKey
from megafs.model import Kind

HERE = context(Kind.BOOT, 0, NO_VAULT)
SALT = b"s" * 24
ONE = 1 << 127  # GCM numbers bits from the left


def times(left, right):
    """Multiplication in the field of GHASH (NIST SP 800-38D, algorithm 1)."""
    product = 0
    for bit in range(127, -1, -1):
        if left >> bit & 1:
            product ^= right
        right = right >> 1 ^ (0xE1 << 120 if right & 1 else 0)
    return product


def power(base, exponent):
    result = ONE
    while exponent:
        if exponent & 1:
            result = times(result, base)
        base, exponent = times(base, base), exponent >> 1
    return result


def inverse(number):
    return power(number, 2**128 - 2)


def secrets_of(key, where=HERE):
    """What the attacker computes from a key: all that was derived, the mask of the tag, and the hash key H."""
    derived = expand(key, ALGORITHM + SALT + where, 76)
    cipher, nonce = AESGCM(derived[:32]), derived[32:44]
    mask = int.from_bytes(cipher.encrypt(nonce, b"", None), "big")
    # The tag of 16 zero bytes of additional data is mask + length * H.
    tag = int.from_bytes(cipher.encrypt(nonce, b"", bytes(16)), "big")
    return derived, mask, times(tag ^ mask, inverse(128 << 64))


def two_faced(first, second, where=HERE):
    """Salt, commitment of ``first``, and 32 bytes of ciphertext whose tag holds under both keys."""
    derived, mask, h = secrets_of(first, where)
    _, other_mask, other_h = secrets_of(second, where)
    length = 256  # of the ciphertext, in bits
    block = 7 << 90  # the first block is free
    wanted = mask ^ other_mask ^ times(length, h ^ other_h) ^ times(block, power(h, 3) ^ power(other_h, 3))
    solved = times(wanted, inverse(power(h, 2) ^ power(other_h, 2)))
    tag = mask ^ times(length, h) ^ times(block, power(h, 3)) ^ times(solved, power(h, 2))
    return SALT + derived[44:] + b"".join(part.to_bytes(16, "big") for part in (block, solved, tag))


def test_the_field():
    assert times(ONE, 12345) == 12345
    assert times(inverse(98765), 98765) == ONE


def test_two_keys_one_ciphertext():
    """A39."""
    first, second = b"1" * 32, b"2" * 32
    forged = two_faced(first, second)
    for key in (first, second):
        derived = secrets_of(key)[0]
        AESGCM(derived[:32]).decrypt(derived[32:44], forged[56:], None)  # the control: AES-GCM accepts under both
    assert len(open_sealed(first, HERE, forged)) == 32
    with pytest.raises(Unauthentic):
        open_sealed(second, HERE, forged)
    with pytest.raises(Unauthentic):
        open_range(second, HERE, total_bytes=32, start=0, stop=9, header=forged[:56], part=forged[56:])


def test_as_a_boot_object():
    """Offered to the holders of two recovery keys, it opens for one at most: no partitioning oracle (A39)."""
    keys = [RecoveryKey(bytes([n]) * 32) for n in (1, 2)]
    forged = two_faced(*(expand(key.secret, b"MegaFS/1 boot") for key in keys))
    assert len(keys[0].open_boot(forged)) == 32
    with pytest.raises(Unauthentic):
        keys[1].open_boot(forged)


def test_as_a_slot_file():
    """A whole file, check sum and body right for the first key: to the holder of the second it is a wrong key. One
    answer for half of all keys would make a guess worth half of all guesses (A39)."""
    keys = [SlotKey(bytes([n]) * 32) for n in (1, 2)]
    slot = Slot(kind=SlotKind.KEY, label="key")
    wrapping = [slot.wrapping_key(key, argon2id) for key in keys]
    forged = two_faced(*wrapping, slot.context())
    for key in wrapping:
        derived = secrets_of(key, slot.context())[0]
        AESGCM(derived[:32]).decrypt(derived[32:44], forged[56:], None)  # the control: AES-GCM accepts under both
    body_key = open_sealed(wrapping[0], slot.context(), forged)
    file = slot_file([replace(slot, wrapped=forged)], body_key, b"the body")
    assert open_slots(keys[0], file).body == b"the body"
    with pytest.raises(WrongKey):
        open_slots(keys[1], file)
