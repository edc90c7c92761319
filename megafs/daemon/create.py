"""A new vault: keys, identity, an empty index, boot objects on every host. All or nothing on this device."""

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import replace
from os import urandom

import trio

from megafs import canonical, process
from megafs.config import Settings, VaultPaths
from megafs.crypto.identity import DeviceKey, RootKey, issue_device, issue_epoch
from megafs.crypto.keys import Keyring
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.slot import secret_from
from megafs.daemon.device import Device, new_state, note_device
from megafs.daemon.hosts import Opener, connected
from megafs.daemon.secrets import finder, keep
from megafs.hosts import Stack, checked_url
from megafs.index.database import Database
from megafs.index.inodes import Inodes
from megafs.index.vault import Vault
from megafs.model import NO_SECRETS, DeviceId, GivenSecrets, HostId, HostSpec, Policy
from megafs.slotfile import new_slots, write_private
from megafs.sync import boot, stream
from megafs.sync.statements import Signer, Trust


def create_vault(
    paths: VaultPaths,
    *,
    hosts: Sequence[str],
    policy: Policy,
    passphrase: str,
    settings: Settings,
    secrets: GivenSecrets = NO_SECRETS,
) -> list[str]:
    """Make it; returns the 24 words of its recovery key. Raises Usage, VaultExists, HostError; nothing is left then."""
    process.harden()
    specs = host_specs(hosts)
    recovery, root = RecoveryKey.generate(), RootKey.generate()
    keyring = Keyring.create(root.public)
    device = first_device(keyring, root)
    with new_state(paths, settings) as building:
        write_private(building.slot, new_slots(device.body(), secret_from(passphrase), recovery))
        keep(building, paths.root, keyring, secrets)
        database = Database(building.index, keyring.index_key(device.id), create=True)
        try:
            fill(database, device, specs, policy)
            for host, given in trio.run(_introduce, specs, settings, secrets, device, recovery, root).items():
                Vault(database).set_boot(host, *given)
            database.commit(0)
            database.sync_wal()
        finally:
            database.close()
    return recovery.words()


def host_specs(urls: Sequence[str]) -> list[HostSpec]:
    """The hosts of a new vault, labelled by what they are and where they stand in the list."""
    checked = [checked_url(url) for url in urls]
    return [
        HostSpec(id=HostId(urandom(16)), url=url.text, label=f"{url.kind}-{number}")
        for number, url in enumerate(checked, 1)
    ]


def first_device(keyring: Keyring, root: RootKey) -> Device:
    """Device number 1, certified in the first epoch."""
    key, ident = DeviceKey.generate(), DeviceId(urandom(16))
    certificate = issue_device(keyring, device=ident, number=1, public_key=key.public, first_seq=1)
    epochs = (issue_epoch(root, keyring),)
    return Device(
        id=ident,
        number=1,
        keyring=keyring,
        signer=Signer(vault=keyring.vault, key=key, certificate=certificate),
        trust=Trust.of(keyring.vault, root.public, epochs),
        root_public=root.public,
        epochs=epochs,
    )


def fill(database: Database, device: Device, specs: Sequence[HostSpec], policy: Policy) -> None:
    """The rows of an empty vault, owned by who made it."""
    vault = Vault(database)
    vault.add_device(device.number, device.id, device.signer.key.public, canonical.encode(device.signer.certificate))
    database.adopt(device.number)
    Inodes(database).insert_root(stat.S_IFDIR | 0o755, os.geteuid(), os.getegid(), time.time_ns())
    for spec in specs:
        vault.put_host(spec)
    vault.set_policy(policy)
    note_device(database, device.number)
    vault.set_setting("created_s", str(int(time.time())).encode())
    stream.begin(database, device.number, term=1)


async def _introduce(
    specs: Sequence[HostSpec],
    settings: Settings,
    secrets: GivenSecrets,
    device: Device,
    recovery: RecoveryKey,
    root: RootKey,
) -> dict[HostId, tuple[str, bytes]]:
    """Prepare every host and put a boot object on each; which. Raises HostError for the first that fails."""
    given: dict[HostId, tuple[str, bytes]] = {}

    async def introduce(spec: HostSpec, stack: Stack) -> None:
        await stack.prompt.prepare()
        given[spec.id] = await boot.put(
            stack.patient,
            spec,
            specs,
            generation=1,
            keyring=device.keyring,
            epochs=device.epochs,
            recovery=recovery,
            root=root,
        )

    told = [replace(spec, label=spec.url) for spec in specs]  # the user has not met the labels yet
    async with connected(told, Opener(settings, finder(secrets))) as stacks:
        for spec in specs:
            await introduce(spec, stacks[spec.id])
    return given
