"""Word of a new epoch, on every host: what tells a device that it was left behind, or revoked.

An announcement is the epoch's certificate, so it holds no secret, and the root key's signature says whose word it is:
anybody who was ever enrolled could seal one. It is sealed under the first epoch, which every device has. A device asks
for the epoch after its newest one wherever it looks for claims. Announcements are never deleted.
"""

import logging
from collections.abc import Sequence

from megafs.canonical import encode, parse
from megafs.crypto.identity import EpochCertificate, EpochClaims, verify_epoch
from megafs.crypto.keys import FIRST_EPOCH, Keyring, ident_epoch
from megafs.errors import Corrupt, ObjectMissing, Unauthentic
from megafs.model import DeviceId, HostId, Kind
from megafs.sync.objects import Answers, Objects
from megafs.sync.statements import Trust

log = logging.getLogger(__name__)


def sealed(keyring: Keyring, certificate: EpochCertificate) -> bytes:
    """The announcement of one epoch."""
    ident = ident_epoch(certificate.claims.epoch)
    return keyring.seal(Kind.EPOCH, [ident], encode(certificate), epoch=FIRST_EPOCH)


def understood(keyring: Keyring, trust: Trust, epoch: int, found: bytes) -> EpochClaims:
    """What the root key says about ``epoch``. Raises Corrupt or Unauthentic."""
    body = keyring.open(Kind.EPOCH, [ident_epoch(epoch)], found, FIRST_EPOCH)
    claims = verify_epoch(trust.root_public, trust.vault, parse(EpochCertificate, body))
    if claims.epoch != epoch:
        raise Corrupt("epoch: speaks of another one")
    return claims


async def look_on(objects: Objects, trust: Trust, host: HostId) -> EpochClaims | None:
    """The epoch after the newest that ``trust`` knows, if this host tells of it. Raises HostError."""
    epoch = trust.newest.epoch + 1
    try:
        return understood(objects.keyring, trust, epoch, await objects.get(host, Kind.EPOCH, ident_epoch(epoch)))
    except ObjectMissing:
        return None
    except (Corrupt, Unauthentic):
        log.warning("host %s tells of an epoch %d that the root key did not sign: ignored", host.hex()[:8], epoch)
        return None


async def look(objects: Objects, trust: Trust) -> EpochClaims | None:
    """The same of all hosts that answer."""
    answers = await objects.everywhere(lambda host: look_on(objects, trust, host))
    return next((found for found in answers.said.values() if found is not None), None)


async def announce(objects: Objects, certificates: Sequence[EpochCertificate]) -> Answers[None]:
    """Put what hosts lack of the announcements of these epochs; there is none of the first."""

    async def one(host: HostId) -> None:
        for certificate in certificates:
            ident = ident_epoch(certificate.claims.epoch)
            if certificate.claims.epoch > FIRST_EPOCH and not await objects.has(host, Kind.EPOCH, ident):
                await objects.put(host, Kind.EPOCH, ident, sealed(objects.keyring, certificate))

    return await objects.everywhere(one)


def told(newer: EpochClaims, device: DeviceId) -> str:
    """What an epoch that this device has no secret of means for it."""
    if any(entry.device == device for entry in newer.revoked):
        return (
            f"this device was revoked (epoch {newer.epoch}): what was not shipped is kept here, copy it from this mount"
        )
    return (
        f"the vault has a new epoch {newer.epoch} that this device has no secret of: make a ticket on one that has "
        "(megafs devices NAME enrol), then here: megafs attach NAME --repair --ticket-file F --host URL"
    )
