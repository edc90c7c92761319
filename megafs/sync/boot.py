"""Boot objects: what the 24 words alone find on any host. Written at create, attach and when the hosts change.

One object on each host, under one of 64 names that the words give, sealed under the words. A newer generation is a new
object under another name; the highest that opens wins, so a host can hide a generation but not invent one.
"""

import secrets
from collections.abc import Sequence

import trio

from megafs.canonical import encode, parse
from megafs.crypto.identity import EpochCertificate, RootKey
from megafs.crypto.keys import Keyring
from megafs.crypto.recovery import RecoveryKey
from megafs.errors import Corrupt, ObjectMissing, Unauthentic
from megafs.hosts.protocol import Host
from megafs.model import HostSpec
from megafs.sync.statements import Boot, BootHost

PROBES = 8  # requests at a time to one host


async def put(
    host: Host,
    spec: HostSpec,
    specs: Sequence[HostSpec],
    *,
    generation: int,
    keyring: Keyring,
    epochs: tuple[EpochCertificate, ...],
    recovery: RecoveryKey,
    root: RootKey,
) -> None:
    """Put the boot object of ``generation`` on one host, under a name that is free. Raises HostError."""
    body = Boot(
        generation=generation,
        host=spec.id,
        hosts=tuple(BootHost(id=each.id, url=each.url, label=each.label) for each in specs),
        keyring=keyring.to_fields(),
        root_seed=root.seed,
        root_public=root.public,
        epochs=epochs,
    )
    names = recovery.boot_names()
    while names:
        name = names.pop(secrets.randbelow(len(names)))
        try:
            await host.head(name)
        except ObjectMissing:
            await host.put(name, recovery.seal_boot(encode(body)))
            return
    raise Corrupt("a host has no free name for a boot object")


async def find(host: Host, recovery: RecoveryKey) -> Boot | None:
    """The newest boot object on a host, or None if the words open none there. Raises HostError."""
    found: list[Boot] = []
    slots = trio.CapacityLimiter(PROBES)

    async def probe(name: str) -> None:
        async with slots:
            try:
                sealed = await host.get(name)
                found.append(parse(Boot, recovery.open_boot(sealed)))
            except (ObjectMissing, Unauthentic, Corrupt):
                return

    async with trio.open_nursery() as nursery:
        for name in recovery.boot_names():
            nursery.start_soon(probe, name)
    return max(found, key=lambda boot: boot.generation, default=None)
