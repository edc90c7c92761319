"""Attacks of ATTACKS.md's list that need no host: forged with a key that was handed out, weak keys, telling errors,
settings, snapshots (A03, A04, A06, A23, A24, A28)."""

import json
import os
import random
import re
import subprocess
import sys
import time
from bisect import bisect_right
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from megafs.config import CHUNK_BYTES, Settings
from megafs.crypto import keys as crypto_keys
from megafs.crypto import seal as sealing
from megafs.crypto.keys import Keyring, ident_head
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.seal import NO_VAULT, context, expand, open_sealed, seal
from megafs.errors import MegaFSError, Unauthentic
from megafs.model import Kind
from megafs.wiping import own
from tests.security.rig import Rig
from tests.security.test_evil_contents import outcome, spoil

CORRUPTIONS = 10_000
ROOT = Path(__file__).parent.parent.parent


async def test_who_has_the_key_of_a_chunk_cannot_change_it(tmp_path, monkeypatch):
    """A03: the key of one chunk was handed out (a share would), and all hosts help: other bytes sealed under this very
    key, for this very place, are refused, because the index names the digest of the sealed bytes."""
    rig = Rig(tmp_path, 1)
    data = os.urandom(CHUNK_BYTES)
    async with rig.running() as drive:
        ino = await drive.write(b"shared", data)
        await drive.sync()
        drive.forget()
        (place,) = drive.places(ino)
        key = expand(rig.keyring._keys[1].chunk, place.chunk)
        where = rig.keyring._chunk_context(1, place.chunk, place.plain_bytes, place.codec)
        forged = seal(key, where, bytes(CHUNK_BYTES))
        assert len(forged) == place.sealed_bytes
        rig.evil.deed = spoil(place, lambda sealed: forged)
        assert await outcome(drive, ino, data) == "refused"
        # The control: without the digest the forgery opens.
        monkeypatch.setattr(crypto_keys, "same", lambda one, other: True)
        drive.forget()
        assert await drive.read(ino) == bytes(CHUNK_BYTES)


WEAK = {
    "zeros": lambda salt: bytes(32),
    "ones": lambda salt: b"\xff" * 32,
    "one byte again and again": lambda salt: b"A" * 32,
    "the salt": lambda salt: (salt * 2)[:32],
    "counting": lambda salt: bytes(range(32)),
}


@pytest.mark.parametrize("weak", WEAK)
def test_nothing_opens_that_was_sealed_under_a_key_anybody_knows(weak):
    """A04: no object may bring its key along, and none is ever one of these."""
    keyring, recovery = Keyring.create(b"r" * 32), RecoveryKey.generate()
    for kind in Kind:
        for fields_of in ([], [ident_head(1, 1)], [bytes(16)]):
            for epoch in (0, 1):
                key = WEAK[weak](os.urandom(24))
                sealed = seal(key, context(kind, epoch, keyring.vault, *fields_of), b"body")
                with pytest.raises(Unauthentic):
                    keyring.open(kind, fields_of, sealed)
    sealed = seal(WEAK[weak](os.urandom(24)), context(Kind.BOOT, 0, NO_VAULT), b"body")
    with pytest.raises(Unauthentic):
        recovery.open_boot(sealed)
    assert recovery.open_boot(recovery.seal_boot(b"body")) == b"body"  # the control: under its own key it does


def failures(sealed, key, where, changed):
    """What opening said to each change: (class, message)."""
    said = set()
    for data in changed:
        try:
            open_sealed(key, where, data)
        except MegaFSError as error:
            said.add((type(error), str(error)))
        else:
            said.add((None, ""))
    return said


def corruptions(sealed, count):
    chance = random.Random(6)
    for number in range(count):
        data = bytearray(sealed)
        match number % 4:
            case 0:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 1:
                del data[chance.randrange(len(data)) :]
            case 2:
                data[chance.randrange(len(data)) : chance.randrange(len(data))] = chance.randbytes(chance.randrange(40))
            case 3:
                data += chance.randbytes(1 + chance.randrange(40))
        if bytes(data) != sealed:
            yield bytes(data)


def test_ten_thousand_corruptions_have_one_answer():
    """A06: whatever is wrong, one class and one message: nothing tells which check failed."""
    key, where = os.urandom(32), context(Kind.HEAD, 1, bytes(32), b"here")
    sealed = seal(key, where, os.urandom(700))
    said = failures(sealed, key, where, corruptions(sealed, CORRUPTIONS))
    ((kind, message),) = said
    assert kind is Unauthentic
    assert message
    assert failures(sealed, key, where, [sealed]) == {(None, "")}, "the control: the rig sees a difference"


def distance(left, right):
    """Of two samples' distributions, at most (Kolmogorov and Smirnov): 0 alike, 1 apart."""
    left, right = sorted(left), sorted(right)
    return max(abs(bisect_right(left, at) / len(left) - bisect_right(right, at) / len(right)) for at in left + right)


def told_apart(check, one, other):
    """The distance of the times that ``check`` takes for two inputs, of this thread alone, in an order without order;
    the least of three: a machine that is busy only ever adds. The same input twice: 0.04 of 1."""
    chance = random.Random(6)

    def sample():
        times = ([], [])
        for _ in range(1200):
            side = chance.randrange(2)
            began = time.thread_time_ns()
            check((one, other)[side])
            times[side].append(time.thread_time_ns() - began)
        return distance(*times)

    return min(sample() for _ in range(3))


def test_the_time_of_a_refusal_does_not_tell_how_much_was_right():
    """A06: of commitment, ciphertext and tag a changed first byte is refused as late as a changed last one. Which of
    the three was changed may show; who changed it knows."""
    key, where = os.urandom(32), context(Kind.HEAD, 1, bytes(32), b"here")
    sealed = seal(key, where, os.urandom(700))

    def changed(at):
        return sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]

    def check(data):
        with suppress(Unauthentic):
            open_sealed(key, where, data)

    def naive(data):
        return all(mine == theirs for mine, theirs in zip(sealed[24:56], data[24:56], strict=True))

    for first, last in ((24, 55), (56, 755), (756, 771)):
        assert told_apart(check, changed(first), changed(last)) < 0.2
    assert told_apart(naive, changed(24), changed(55)) > 0.4, "the control: a comparison that stops is seen"


ABOUT_CHECKS = re.compile(r"verif|check|auth|trust|sign|seal|cipher|crypt|mac\b|insecure|epoch|key")


def test_no_setting_switches_a_check_off():
    """A23: vault.toml is not sealed. Who edits it on the unmounted disk makes the drive slow, or talkative about
    sizes; no setting is about what is checked."""
    names = {field.name for field in fields(Settings)}
    assert not {name for name in names if ABOUT_CHECKS.search(name)}
    assert ABOUT_CHECKS.search("verify_chunks"), "the control"


@pytest.mark.needs_root
def test_a_machine_brought_back_from_a_snapshot_draws_other_salts():
    """A23, A24, A28: one memory goes on twice, and seals other bytes for the same place under the same key."""
    command = ["unshare", "--pid", "--fork", sys.executable, "-m", "tests.security.snapshot"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    (one, (ours, library)), (other, (ours_again, library_again)) = json.loads(said)
    assert one == other == 1, "no library can tell by the process"
    assert ours != ours_again
    assert library == library_again, "the control: a generator in memory repeats itself"


class Noted:
    """AES-GCM that remembers every pair of key and nonce."""

    def __init__(self, pairs, key):
        self.pairs, self.key, self.cipher = pairs, own(key), AESGCM(key)

    def encrypt(self, nonce, plain, more):
        self.pairs.append(self.key + nonce)
        return self.cipher.encrypt(nonce, plain, more)

    def encrypt_into(self, nonce, plain, more, into):
        self.pairs.append(self.key + nonce)
        return self.cipher.encrypt_into(nonce, plain, more, into)


def pairs_of(monkeypatch, count):
    """Of so many seals of one place under one key, a few of them with several segments."""
    pairs = []
    monkeypatch.setattr(sealing, "AESGCM", partial(Noted, pairs))
    key, where, long = os.urandom(32), context(Kind.HEAD, 1, bytes(32), b"here"), bytes(40_000)
    for number in range(count):
        seal(key, where, long if number % 1000 == 0 else b"x")
    assert len(pairs) == count + 2 * (count // 1000)
    return pairs


@pytest.mark.fuzz
def test_a_million_seals(monkeypatch):
    """A23: no key meets a nonce twice."""
    pairs = pairs_of(monkeypatch, 1_000_000)
    assert len(set(pairs)) == len(pairs)


def test_control_a_salt_that_is_not_random_repeats_both(monkeypatch):
    """A23."""
    monkeypatch.setattr(sealing, "urandom", bytes)
    pairs = pairs_of(monkeypatch, 1000)
    assert len(set(pairs)) == 3, "one for each segment"
