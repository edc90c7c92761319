"""Certificates and signatures: for one purpose, one vault, one epoch, and until revoked."""

import copy
import dataclasses
import pickle
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.canonical import encode, parse
from megafs.crypto.identity import (
    DeviceCertificate,
    DeviceKey,
    EpochCertificate,
    Purpose,
    Revoked,
    RootKey,
    counts,
    issue_device,
    issue_epoch,
    verify,
    verify_device,
    verify_epoch,
)
from megafs.crypto.keys import Keyring
from megafs.errors import Corrupt, Unauthentic
from megafs.model import VaultId

ROOT = RootKey(b"r" * 32)
KEYS = Keyring.create(ROOT.public)
DEVICE = DeviceKey(b"d" * 32)
EPOCH = issue_epoch(ROOT, KEYS)
ENROLLED = issue_device(KEYS, device=b"1" * 16, number=1, public_key=DEVICE.public, first_seq=5)


def test_the_chain_holds():
    epoch = verify_epoch(ROOT.public, KEYS.vault, EPOCH)
    device = verify_device(epoch, ENROLLED)
    signature = DEVICE.sign(Purpose.COMMIT, KEYS.vault, b"commit")
    verify(device.public_key, Purpose.COMMIT, KEYS.vault, b"commit", signature)
    assert ROOT.vault == KEYS.vault


def test_certificates_are_statements():
    assert parse(EpochCertificate, encode(EPOCH)) == EPOCH
    assert parse(DeviceCertificate, encode(ENROLLED)) == ENROLLED
    with pytest.raises(Corrupt):
        parse(EpochCertificate, encode(ENROLLED))


def test_a_complete_vault_of_an_attacker_is_another_vault():
    """A07: everything internally valid, but not the pinned vault."""
    root = RootKey(b"a" * 32)
    keys = Keyring.create(root.public)
    certificate = issue_epoch(root, keys)
    assert verify_epoch(root.public, keys.vault, certificate).vault == keys.vault, "the control: it is valid in itself"
    pretending = Keyring(vault=KEYS.vault, secrets=keys.secrets)
    for public, forged in [
        (root.public, certificate),
        (ROOT.public, certificate),
        (root.public, issue_epoch(root, pretending)),
        (ROOT.public, issue_epoch(root, pretending)),
        (bytes(32), EPOCH),
        (b"", EPOCH),
    ]:
        with pytest.raises(Unauthentic):
            verify_epoch(public, KEYS.vault, forged)


def changed(certificate, **claims):
    return dataclasses.replace(certificate, claims=dataclasses.replace(certificate.claims, **claims))


@pytest.mark.parametrize(
    "claims",
    [
        {"epoch": 2},
        {"public_key": DEVICE.public},
        {"vault": b"w" * 32},
        {"revoked": (Revoked(device=b"1" * 16, last_seq=0),)},
    ],
)
def test_changed_epoch_certificates(claims):
    with pytest.raises(Unauthentic):
        verify_epoch(ROOT.public, KEYS.vault, changed(EPOCH, **claims))


def test_a_revocation_cannot_be_taken_back():
    revoked = issue_epoch(ROOT, KEYS.rotated(), (Revoked(device=b"1" * 16, last_seq=9),))
    assert verify_epoch(ROOT.public, KEYS.vault, revoked).revoked[0].last_seq == 9
    for forged in (
        changed(revoked, revoked=()),
        changed(revoked, revoked=(Revoked(device=b"1" * 16, last_seq=10),)),
        dataclasses.replace(revoked, signature=EPOCH.signature),
    ):
        with pytest.raises(Unauthentic):
            verify_epoch(ROOT.public, KEYS.vault, forged)


@pytest.mark.parametrize(
    "claims",
    [
        {"number": 2},
        {"first_seq": 0},
        {"device": b"2" * 16},
        {"public_key": ROOT.public},
        {"epoch": 2},
        {"vault": b"w" * 32},
    ],
)
def test_changed_device_certificates(claims):
    with pytest.raises(Unauthentic):
        verify_device(verify_epoch(ROOT.public, KEYS.vault, EPOCH), changed(ENROLLED, **claims))


def test_a_certificate_of_another_epoch_does_not_hold():
    """A18: after a rotation a device needs a new certificate, which only the new epoch's secret can sign."""
    rotated = KEYS.rotated()
    newest = verify_epoch(ROOT.public, KEYS.vault, issue_epoch(ROOT, rotated))
    with pytest.raises(Unauthentic):
        verify_device(newest, ENROLLED)
    old_key_new_epoch = Keyring(vault=KEYS.vault, secrets={1: KEYS.secrets[1], 2: KEYS.secrets[1]})
    fields = {"device": b"1" * 16, "number": 1, "public_key": DEVICE.public, "first_seq": 5}
    with pytest.raises(Unauthentic):
        verify_device(newest, issue_device(old_key_new_epoch, **fields))
    assert verify_device(newest, issue_device(rotated, **fields)).epoch == 2


def test_a_device_cannot_enrol_by_its_own_key():
    """A17: without the epoch's secret nobody signs devices."""
    signature = DEVICE.sign(Purpose.DEVICE, KEYS.vault, encode(ENROLLED.claims))
    with pytest.raises(Unauthentic):
        verify_device(EPOCH.claims, dataclasses.replace(ENROLLED, signature=signature))


def accepted_purposes(check):
    """Pairs of purposes where a signature for one is taken for the other."""
    found = []
    for made, read in product(Purpose, Purpose):
        try:
            check(read, DEVICE.sign(made, KEYS.vault, b"body"))
        except Unauthentic:
            continue
        if made is not read:
            found.append((made, read))
    return found


def test_a_signature_is_for_one_purpose_and_vault():
    check = lambda read, signature: verify(DEVICE.public, read, KEYS.vault, b"body", signature)
    assert accepted_purposes(check) == []
    deaf = lambda read, signature: any_purpose(signature)
    assert len(accepted_purposes(deaf)) == len(Purpose) * (len(Purpose) - 1), "the control: purpose not looked at"
    signature = DEVICE.sign(Purpose.HEAD, KEYS.vault, b"body")
    with pytest.raises(Unauthentic):
        verify(DEVICE.public, Purpose.HEAD, VaultId(b"w" * 32), b"body", signature)


def any_purpose(signature):
    for purpose in Purpose:
        try:
            return verify(DEVICE.public, purpose, KEYS.vault, b"body", signature)
        except Unauthentic:
            continue
    raise Unauthentic


def test_every_flipped_bit_of_signature_key_and_body():
    body = b"commit"
    signature = DEVICE.sign(Purpose.COMMIT, KEYS.vault, body)
    whole = signature + DEVICE.public + body
    for bit in range(8 * len(whole)):
        forged = bytearray(whole)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Unauthentic):
            verify(bytes(forged[64:96]), Purpose.COMMIT, KEYS.vault, forged[96:], bytes(forged[:64]))


@given(st.binary(max_size=70), st.binary(max_size=40))
def test_no_bytes_raise_anything_but_unauthentic(signature, public):
    for key in (public, DEVICE.public, bytes(32), b"\xff" * 32):
        with pytest.raises(Unauthentic):
            verify(key, Purpose.HEAD, KEYS.vault, b"body", signature)


def test_which_commits_count():
    device = ENROLLED.claims
    newest = dataclasses.replace(EPOCH.claims, revoked=())
    assert [counts(newest, device, seq) for seq in (4, 5, 6, 10**9)] == [False, True, True, True]
    others = dataclasses.replace(newest, revoked=(Revoked(device=b"2" * 16, last_seq=0),))
    assert counts(others, device, 5)
    revoked = dataclasses.replace(others, revoked=(*others.revoked, Revoked(device=b"1" * 16, last_seq=7)))
    assert [counts(revoked, device, seq) for seq in (4, 5, 7, 8)] == [False, True, True, False]
    twice = dataclasses.replace(revoked, revoked=(*revoked.revoked, Revoked(device=b"1" * 16, last_seq=6)))
    assert not counts(twice, device, 7), "the stricter of two revocations"


def test_private_keys_are_not_shown():
    for key in (ROOT, DEVICE):
        assert key.seed.hex() not in f"{key} {key!r} {[key]}"
        assert repr(key.seed)[2:-1] not in f"{key}"
        for leak in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError):
                leak(key)
    assert DeviceKey.generate().seed != DeviceKey.generate().seed
