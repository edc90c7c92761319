"""Tickets: what one new device may be enrolled with, on every host for minutes, found and opened by 12 words alone.

A present device puts one (it has the keyring, so it asks nobody), the new one gets it and makes a key pair of its own
and, as the keyring lets it, a certificate. Who is let in is decided by who is told the words; hosts see sealed bytes
under a name of their own. Gone after use and after its time; a host that keeps it has what it cannot open.
"""

from collections.abc import Sequence

from megafs.canonical import encode, parse
from megafs.crypto.identity import EpochCertificate, vault_id
from megafs.crypto.keys import Keyring
from megafs.crypto.ticket import TicketCode
from megafs.errors import Corrupt, ObjectMissing, Unauthentic, Unavailable
from megafs.hosts.protocol import Host
from megafs.model import HostSpec
from megafs.sync.statements import BootHost, Ticket, Trust

LIVES_S = 600  # to walk over to the other machine, install MegaFS there and type 12 words


async def put(
    host: Host,
    spec: HostSpec,
    specs: Sequence[HostSpec],
    *,
    code: TicketCode,
    keyring: Keyring,
    root_public: bytes,
    epochs: Sequence[EpochCertificate],
    expires_s: int,
) -> None:
    """Put the ticket on the host that ``spec`` describes and read it back. Raises HostError or Unavailable."""
    ticket = Ticket(
        expires_s=expires_s,
        host=spec.id,
        hosts=tuple(BootHost(id=each.id, url=each.url, label=each.label) for each in specs if each.state != "gone"),
        keyring=keyring.to_fields(),
        root_public=root_public,
        epochs=tuple(epochs),
    )
    sealed = code.seal(encode(ticket))
    await host.put(code.name(), sealed)
    if await host.get(code.name()) != sealed:
        raise Unavailable(f"{spec.label}: does not give back what was put")


async def find(host: Host, code: TicketCode) -> Ticket | None:
    """The ticket on a host; None if it has none of this code. Raises HostError."""
    try:
        return opened(code, await host.get(code.name()))
    except (ObjectMissing, Corrupt, Unauthentic):
        return None


async def take_back(host: Host, name: str) -> None:
    """Delete the object of that name, if it is there. Raises HostError. A host that never deletes keeps it: it opens
    for nobody who was not told the words, and its time is over soon."""
    try:
        await host.head(name)
    except ObjectMissing:
        return
    await host.delete(name)


def opened(code: TicketCode, sealed: bytes) -> Ticket:
    """The body, consistent in itself: vault, root key and epochs belong together. Raises Corrupt or Unauthentic."""
    ticket = parse(Ticket, code.open(sealed))
    keyring = Keyring.from_fields(ticket.keyring)
    if vault_id(ticket.root_public) != keyring.vault:
        raise Corrupt("ticket: keys that do not belong together")
    if keyring.epoch not in Trust.of(keyring.vault, ticket.root_public, ticket.epochs).epochs:
        raise Corrupt("ticket: an epoch without its certificate")
    return ticket


async def is_there(host: Host, code: TicketCode) -> bool:
    """Whether nobody has used it yet. Raises HostError."""
    try:
        await host.head(code.name())
    except ObjectMissing:
        return False
    return True
