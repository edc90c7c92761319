"""What is said is exactly what is understood; anything else is refused, and nobody speaks for another."""

from dataclasses import replace
from hashlib import sha256
from os import urandom

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from megafs.crypto.identity import DeviceKey, Pinned, Revoked, issue_device, issue_epoch
from megafs.errors import Corrupt, Unauthentic
from megafs.index.schema import VERSION
from megafs.packs import sizes
from megafs.sync.statements import (
    FRAME,
    NOTHING,
    CheckpointList,
    Claim,
    CommitHeader,
    CopyFact,
    Head,
    ListedPart,
    PackFact,
    Signer,
    Step,
    Trust,
    commit_body,
    framed,
    packed,
    padded,
    parse_commit,
    unframed,
    unpacked,
)
from tests.sync.rig import Identity

IDENTITY = Identity()
SIGNER = IDENTITY.signer(3)
STEP = Step(device=3, seq=7, hash=bytes(range(32)))


def header(changeset: bytes, signer: Signer = SIGNER) -> CommitHeader:
    return CommitHeader(
        schema=VERSION,
        device=signer.device,
        seq=8,
        previous=STEP,
        term=2,
        first=10,
        last=12,
        made_s=1_700_000_000,
        changes=3,
        changeset_bytes=len(changeset),
        digest=sha256(packed(changeset)).digest(),
        packs=(PackFact(number=5, copies=(CopyFact(host=bytes(16), shard=-1, root=bytes(32)),)),),
        certificate=signer.certificate,
    )


def said() -> list[Head | Claim | CheckpointList]:
    part = ListedPart(
        id=bytes(16), table="inode", low=b"", high=b"\xff", digest=bytes(32), bytes=1, rows=1, changeset_bytes=1
    )
    certificate = SIGNER.certificate
    return [
        Head(step=STEP, term=2, made_s=1, checkpoint=NOTHING, seen=(NOTHING,), certificate=certificate),
        Claim(term=2, number=3, base=STEP, made_s=1, certificate=certificate),
        CheckpointList(schema=1, step=STEP, term=2, made_s=1, parts=(part, part), packs=(), certificate=certificate),
    ]


@given(st.binary(max_size=5000))
def test_a_commit_comes_back(changeset: bytes) -> None:
    body = commit_body(SIGNER, header(changeset), packed(changeset))
    assert parse_commit(body, IDENTITY.trust) == (header(changeset), changeset)


@pytest.mark.parametrize("statement", said(), ids=lambda each: type(each).__name__)
def test_statements_come_back_and_only_whole(statement: Head | Claim | CheckpointList) -> None:
    body = framed(SIGNER, statement)
    assert unframed(type(statement), body, IDENTITY.trust)[0] == statement
    for length in range(len(body)):
        with pytest.raises((Corrupt, Unauthentic)):
            unframed(type(statement), body[:length], IDENTITY.trust)
    with pytest.raises(Corrupt):
        unframed(type(statement), body + b"x", IDENTITY.trust)
    for other in {Head, Claim, CheckpointList, CommitHeader} - {type(statement)}:
        with pytest.raises((Corrupt, Unauthentic)):
            unframed(other, body, IDENTITY.trust)


def test_every_bit_counts() -> None:
    changeset = b"some rows" * 10
    body = bytearray(commit_body(SIGNER, header(changeset), packed(changeset)))
    for place in range(len(body)):
        body[place] ^= 1
        with pytest.raises((Corrupt, Unauthentic)):
            parse_commit(bytes(body), IDENTITY.trust)
        body[place] ^= 1
    assert parse_commit(bytes(body), IDENTITY.trust)[1] == changeset


def test_nobody_speaks_for_another_device() -> None:
    other = IDENTITY.signer(4)
    changeset = b"rows"
    forged = replace(header(changeset), device=4)
    with pytest.raises(Unauthentic):
        parse_commit(commit_body(SIGNER, forged, packed(changeset)), IDENTITY.trust)
    borrowed = replace(header(changeset), certificate=other.certificate, device=4)
    with pytest.raises(Unauthentic):
        parse_commit(commit_body(SIGNER, borrowed, packed(changeset)), IDENTITY.trust)


def test_another_vault_counts_for_nothing() -> None:
    stranger = Identity()
    signer = stranger.signer(3)
    body = commit_body(signer, header(b"rows", signer), packed(b"rows"))
    assert parse_commit(body, stranger.trust)[1] == b"rows"
    with pytest.raises(Unauthentic):
        parse_commit(body, IDENTITY.trust)
    with pytest.raises(Unauthentic):
        Trust.of(IDENTITY.keyring.vault, stranger.root.public, stranger.epochs)


def pinned(signer):
    claims = signer.certificate.claims
    return Pinned(device=claims.device, number=claims.number, public_key=claims.public_key)


def rotated_trust(*, revoked=(), devices=()):
    rotated = IDENTITY.keyring.rotated()
    newer = issue_epoch(IDENTITY.root, rotated, revoked, devices)
    return Trust.of(rotated.vault, IDENTITY.root.public, (*IDENTITY.epochs, newer))


def is_heard(read, body, trust):
    try:
        read(body, trust)
    except Unauthentic:
        return False
    return True


def test_a_revoked_device_is_heard_no_more() -> None:
    device = urandom(16)
    signer = IDENTITY.signer(5, device)
    body = commit_body(signer, header(b"rows", signer), packed(b"rows"))
    assert parse_commit(body, IDENTITY.trust)[1] == b"rows"
    for last_seq, heard in ((8, True), (7, False)):
        trust = rotated_trust(revoked=(Revoked(device=device, last_seq=last_seq),), devices=(pinned(signer),))
        assert is_heard(parse_commit, body, trust) is heard


def test_its_claims_end_with_a_term_and_its_checkpoints_at_once() -> None:
    """A18."""
    device = urandom(16)
    signer = IDENTITY.signer(5, device)
    certificate = signer.certificate
    claim = framed(signer, Claim(term=4, number=5, base=NOTHING, made_s=0, certificate=certificate))
    listed = CheckpointList(
        schema=VERSION, step=Step(device=5, seq=3, hash=bytes(32)), term=1, made_s=0, parts=(), packs=(),
        certificate=certificate,
    )  # fmt: skip
    checkpoint = framed(signer, listed)

    def heard(trust):
        claimed = is_heard(lambda body, trust: unframed(Claim, body, trust), claim, trust)
        return claimed, is_heard(lambda body, trust: unframed(CheckpointList, body, trust), checkpoint, trust)

    def ended(last_term):
        return (Revoked(device=device, last_seq=9, last_term=last_term),)

    assert heard(IDENTITY.trust) == (True, True)
    assert heard(rotated_trust(devices=(pinned(signer),))) == (True, True), "the control: not revoked, only rotated"
    assert heard(rotated_trust(devices=(pinned(signer),), revoked=ended(4))) == (True, False)
    assert heard(rotated_trust(devices=(pinned(signer),), revoked=ended(3))) == (False, False)


def test_who_knows_the_secrets_of_a_former_epoch_enrols_nobody_in_it() -> None:
    """A18: the revoked device can derive the signing key of every epoch that it was in."""
    theirs = IDENTITY.signer(5)
    claims, key = theirs.certificate.claims, DeviceKey.generate()

    def made_up(**fields) -> Signer:
        wanted = {"device": claims.device, "number": 5, "public_key": key.public, "first_seq": 1, **fields}
        return Signer(vault=theirs.vault, key=key, certificate=issue_device(IDENTITY.keyring, **wanted))

    other_number = issue_device(
        IDENTITY.keyring, device=claims.device, number=6, public_key=claims.public_key, first_seq=1
    )
    trust = rotated_trust(devices=(pinned(theirs),))
    for signer in (made_up(), made_up(device=urandom(16)), replace(theirs, certificate=other_number)):
        body = commit_body(signer, replace(header(b"rows", signer), device=signer.device), packed(b"rows"))
        assert is_heard(parse_commit, body, IDENTITY.trust), "the control: without the list it counts"
        assert not is_heard(parse_commit, body, trust)


def test_bombs_and_lies_about_sizes_are_refused() -> None:
    bomb = packed(bytes(10 << 20))
    for size in (0, 1, (10 << 20) - 1, (10 << 20) + 1, 1 << 40):
        with pytest.raises(Corrupt):
            unpacked(bomb, size)
    with pytest.raises(Corrupt):
        unpacked(b"", 0)
    with pytest.raises(Corrupt):
        unpacked(bomb + b"x", 10 << 20)
    for padding in (b"\1", bytes(50) + b"\1", bomb):
        with pytest.raises(Corrupt):
            unpacked(bomb + padding, 10 << 20)
    assert unpacked(packed(b""), 0) == b""
    assert FRAME.size == 68


@pytest.mark.parametrize("size", [0, 1, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 1 << 20])
@pytest.mark.parametrize("coarse", [False, True])
def test_padded_changesets_come_back_and_show_little(size: int, coarse: bool) -> None:
    data = urandom(size // 2) + bytes(size - size // 2)
    frame = packed(data, coarse=coarse)
    sent = padded(frame, 100, coarse=coarse)
    assert unpacked(sent, size) == unpacked(frame, size) == data
    assert zstandard.ZstdDecompressor().decompress(sent) == data
    whole = len(sent) + 100
    assert whole & (whole - 1) == 0 if coarse else whole == sizes.padme(max(4096, len(frame) + 100))
    if coarse:  # nothing about the content shows
        assert len(packed(bytes(size), coarse=True)) == len(packed(urandom(size), coarse=True))
