"""Boot objects: what the 24 words alone find on a host. One per host, under a random one of 64 names.

The recovery key and a bare Host in (no keyring yet), a Boot statement out. A newer generation is a new object; of those
that open the highest one with the most epochs counts. Nothing on the device can open or renew one without the words.
"""

import secrets
from collections.abc import Sequence

import trio

from megafs.canonical import encode, parse
from megafs.crypto.identity import EpochCertificate, RootKey, vault_id
from megafs.crypto.keys import Keyring
from megafs.crypto.recovery import BOOT_NAMES, RecoveryKey
from megafs.errors import Corrupt, HostError, ObjectMissing, Unauthentic, Unavailable
from megafs.hosts.protocol import Host
from megafs.model import HostSpec
from megafs.sync.statements import Boot, BootHost

PROBES = 8  # at a time


async def put(
    host: Host,
    spec: HostSpec,
    specs: Sequence[HostSpec],
    *,
    generation: int,
    keyring: Keyring,
    epochs: Sequence[EpochCertificate],
    recovery: RecoveryKey,
    root: RootKey,
) -> tuple[str, bytes]:
    """Put the boot object of ``generation`` on the host that ``spec`` describes and read it back. Returns its name and
    sealed bytes (index.vault remembers them). Raises HostError, or Unavailable if all 64 names are taken."""
    boot = Boot(
        generation=generation,
        host=spec.id,
        hosts=tuple(BootHost(id=each.id, url=each.url, label=each.label) for each in specs if each.state != "gone"),
        keyring=keyring.to_fields(),
        root_seed=root.seed,
        root_public=root.public,
        epochs=tuple(epochs),
    )
    sealed = recovery.seal_boot(encode(boot))
    names = recovery.boot_names()
    first = secrets.randbelow(BOOT_NAMES)
    for name in names[first:] + names[:first]:
        try:
            await host.head(name)
        except ObjectMissing:
            await host.put(name, sealed)
            if await host.get(name) != sealed:
                raise Unavailable(f"{spec.label}: does not give back what was put") from None
            return name, sealed
    raise Unavailable(f"{spec.label}: all names of boot objects are taken")


async def find(host: Host, recovery: RecoveryKey) -> Boot | None:
    """The newest boot object on a host; None if it has none of this recovery key. Raises HostError."""
    found: list[Boot] = []
    failed: list[HostError] = []
    names = recovery.boot_names()

    async def probe() -> None:
        while names and not failed:
            try:
                sealed = await host.get(names.pop())
                found.append(opened(recovery, sealed))
            except ObjectMissing:
                continue
            except (Corrupt, Unauthentic):
                continue  # another one may be good; who has none that is good is told so
            except HostError as error:
                failed.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(PROBES):
            nursery.start_soon(probe)
    if failed and not found:
        raise failed[0]
    return max(found, key=lambda boot: boot.rank, default=None)


async def retire(host: Host, recovery: RecoveryKey) -> int:
    """Delete every boot object of these words on a host and look that they are gone; how many there were. Raises
    HostError, or Unavailable if the host shows one all the same."""
    gone = 0
    for name in recovery.boot_names():
        try:
            await host.head(name)
        except ObjectMissing:
            continue
        await host.delete(name)
        try:
            await host.head(name)
        except ObjectMissing:
            gone += 1
        else:
            raise Unavailable("a boot object of the old words is still there")
    return gone


def opened(recovery: RecoveryKey, sealed: bytes) -> Boot:
    """The body, consistent in itself: vault, root key and epochs belong together. Raises Corrupt or Unauthentic."""
    boot = parse(Boot, recovery.open_boot(sealed))
    if RootKey(boot.root_seed).public != boot.root_public or vault_id(boot.root_public) != boot.keyring.vault:
        raise Corrupt("boot: keys that do not belong together")
    return boot
