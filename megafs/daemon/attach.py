"""Another machine: the 24 words or a ticket, and hosts in; an index and a key slot out. Contents stay on the hosts.

Everything that can fail is done before the claim that makes this device the writing one; nothing is left on this device
if it fails. The former device finds the claim before its next commit and goes read-only (sync.claims).
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from os import urandom

import trio

from megafs import canonical, process
from megafs.config import Settings, VaultPaths
from megafs.crypto.identity import DeviceKey, issue_device
from megafs.crypto.keys import Keyring
from megafs.crypto.phrase import Phrase
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.slot import secret_from
from megafs.crypto.ticket import TicketCode
from megafs.daemon import memory
from megafs.daemon.device import Device, new_state, note_device
from megafs.daemon.epochs import note_epoch
from megafs.daemon.hosts import Opener, connected
from megafs.daemon.secrets import finder, keep
from megafs.errors import HostError, Incomplete, RolledBack, Unauthentic, Usage, WrongKey
from megafs.hosts import Stack, checked_url
from megafs.hosts.protocol import Host
from megafs.index.database import Database
from megafs.index.inodes import Inodes
from megafs.index.vault import Vault
from megafs.model import NO_SECRETS, ROOT_INO, DeviceId, GivenSecrets, HostId, HostSpec
from megafs.slotfile import new_slots, write_private
from megafs.sync import boot as boots
from megafs.sync import epochs, recover, tickets
from megafs.sync.claims import Claims
from megafs.sync.objects import Objects
from megafs.sync.statements import Boot, Signer, Ticket, Trust
from megafs.sync.survey import Survey, check_expected, survey

log = logging.getLogger(__name__)

UNTRIED_REPLY_S = 5.0  # hosts that the user did not name are asked too, but not waited for
# One is enough: all others may have burnt down with the former device. Who attaches is told how many are silent, and
# deleting needs a majority in any case.
LEAST_HOSTS = 1
Confirm = Callable[[str], bool]
Key = RecoveryKey | TicketCode
WayIn = Boot | Ticket


def attach_vault(
    paths: VaultPaths,
    *,
    hosts: Sequence[str],
    key: Key,
    passphrase: str,
    settings: Settings,
    confirm: Confirm,
    secrets: GivenSecrets = NO_SECRETS,
    expected: Phrase | None = None,
) -> None:
    """Bring the vault here; with ``expected`` only if the hosts show that commit or a later one.

    Raises WrongKey, Usage, HostError, RolledBack, Unavailable; then nothing is left here."""
    process.harden()
    memory.keep_apart()
    with new_state(paths, settings) as building:
        keyring = trio.run(bring, building, hosts, key, passphrase, settings, confirm, secrets, expected)
        keep(building, paths.root, keyring, secrets)


async def bring(
    building: VaultPaths,
    urls: Sequence[str],
    key: Key,
    passphrase: str,
    settings: Settings,
    confirm: Confirm,
    secrets: GivenSecrets,
    expected: Phrase | None,
) -> Keyring:
    """Fill a new state directory from the hosts and become the writing device; returns the vault's keys."""
    way, named = await find_way(urls, key, settings, secrets)
    keyring = Keyring.from_fields(way.keyring)
    trust = Trust.of(keyring.vault, way.root_public, way.epochs)
    async with AsyncExitStack() as opened:
        stacks = dict(await opened.enter_async_context(connected(named, Opener(settings, finder(secrets)))))
        others = [_spec(each.id, each.url, each.label) for each in way.hosts if each.id not in stacks]
        hurried = replace(settings, host_reply_s=min(settings.host_reply_s, UNTRIED_REPLY_S))
        stacks |= await opened.enter_async_context(connected(others, Opener(hurried, finder(secrets))))
        objects = Objects(keyring, {host: stack.prompt for host, stack in stacks.items()})
        if await epochs.look(objects, trust) is not None:
            raise RolledBack(f"the vault has a newer epoch than {what_it_is(key)} tells of here: name other hosts, too")
        found = await survey(objects, trust)
        if expected is not None:
            await check_expected(objects, trust, found, expected)
        if not await trio.to_thread.run_sync(confirm, question(found, trust)):
            raise Usage("not attached: the question was answered with no")
        device_id = DeviceId(urandom(16))
        database = Database(building.index, keyring.index_key(device_id), create=True)
        try:
            done = await recover.rebuild(database, objects, trust, found)
            if Inodes(database).get(ROOT_INO) is None:
                raise Incomplete("these hosts have no commit of the vault yet: there is nothing to attach to")
            device = _device(keyring, way, trust, device_id, recover.next_number(database, found))
            _keep_urls(Vault(database), named)
            recovery = key if isinstance(key, RecoveryKey) else None
            database.connection.execute("PRAGMA shrink_memory")  # stretching the passphrase takes 256 MiB of its own
            await trio.to_thread.run_sync(memory.give_back)
            slot = await trio.to_thread.run_sync(new_slots, device.body(), secret_from(passphrase), recovery)
            write_private(building.slot, slot)
            await epochs.announce(objects, way.epochs)  # before the claim: devices of former epochs cannot read it
            claims = Claims(objects, trust, None, time.time)
            claimed = await claims.claim(device.signer, done.step, int(time.time()), least=LEAST_HOSTS)
            certificate = canonical.encode(device.signer.certificate)
            recover.enrol(database, device.signer, certificate, term=claimed.claim.term, done=done, survey=found)
            note_device(database, device.number)
            note_epoch(database, device)
            database.commit(0)
            database.sync_wal()
        finally:
            database.close()
        if isinstance(key, TicketCode):
            await use_up(objects, key)
    for damage in objects.damages:
        log.warning("host %s: %s: %s", stacks[damage.host].label, damage.kind, damage.what)
    return keyring


def question(found: Survey, trust: Trust) -> str:
    """What the user agrees to, with what there is to compare."""
    device, seq = found.newest
    what = f"commit {seq} of device {device}" if seq else "no commit yet"
    if found.head is not None:
        step = found.head.step
        what += f"; checkpoint phrase: {Phrase.of(trust.vault, step.device, step.seq, step.hash).text()}"
    silent = f" {len(found.silent)} hosts do not answer: what only they have is left out." if found.silent else ""
    return (
        f"The newest state on the hosts is {what}.{silent} Attaching makes this device the one that writes; "
        "the former one goes read-only. Go on?"
    )


def what_it_is(key: Key) -> str:
    """The key in a sentence."""
    return "this ticket" if isinstance(key, TicketCode) else "this recovery key"


async def look(host: Host, key: Key) -> WayIn | None:
    """What the key opens on a host. Raises HostError."""
    return await (tickets.find(host, key) if isinstance(key, TicketCode) else boots.find(host, key))


async def use_up(objects: Objects, code: TicketCode) -> None:
    """The ticket was good for this device only. Hosts that do not answer are left to who made it."""

    async def one(host: HostId) -> None:
        await tickets.take_back(objects.hosts[host], code.name())

    await objects.everywhere(one)


async def find_way(
    urls: Sequence[str], key: Key, settings: Settings, secrets: GivenSecrets
) -> tuple[WayIn, list[HostSpec]]:
    """The newest that the key opens, and the named hosts that belong to its vault. Raises WrongKey or HostError."""
    texts = [checked_url(url).text for url in urls]
    given = [_spec(HostId(urandom(16)), text, text) for text in texts]
    found: dict[HostId, WayIn] = {}
    silent: list[HostError] = []

    async def one(spec: HostSpec, stack: Stack) -> None:
        try:
            way = await look(stack.prompt, key)
        except HostError as error:
            silent.append(error)
            return
        if way is not None:
            found[spec.id] = way

    async with connected(given, Opener(settings, finder(secrets))) as stacks, trio.open_nursery() as nursery:
        for spec in given:
            nursery.start_soon(one, spec, stacks[spec.id])
    if not found:
        if silent:
            raise silent[0]
        if isinstance(key, TicketCode):
            raise WrongKey("this ticket opens nothing on these hosts: was it used, is its time over, other hosts?")
        raise WrongKey(
            "this recovery key opens nothing on these hosts: is it of another vault, or are they other hosts?"
        )
    newest = max(found.values(), key=lambda way: way.rank if isinstance(way, Boot) else (0, 0))
    if isinstance(newest, Ticket) and time.time() > newest.expires_s:
        raise WrongKey("this ticket's time is over: make another one (megafs devices NAME enrol)")
    if any(way.keyring.vault != newest.keyring.vault for way in found.values()):
        raise Unauthentic(f"the hosts named hold different vaults of {what_it_is(key)}")
    labels = {each.id: each.label for each in newest.hosts}
    named = [
        replace(spec, id=HostId(found[spec.id].host), label=labels.get(HostId(found[spec.id].host), spec.label))
        for spec in given
        if spec.id in found
    ]
    return newest, named


def _spec(ident: HostId | bytes, url: str, label: str) -> HostSpec:
    return HostSpec(id=HostId(ident), url=url, label=label)


def _device(keyring: Keyring, way: WayIn, trust: Trust, ident: DeviceId, number: int) -> Device:
    key = DeviceKey.generate()
    certificate = issue_device(keyring, device=ident, number=number, public_key=key.public, first_seq=1)
    return Device(
        id=ident,
        number=number,
        keyring=keyring,
        signer=Signer(vault=keyring.vault, key=key, certificate=certificate),
        trust=trust,
        root_public=way.root_public,
        epochs=tuple(way.epochs),
    )


def _keep_urls(vault: Vault, named: Sequence[HostSpec]) -> None:
    """A host may have moved: the URL that was just used counts."""
    urls = {spec.id: spec.url for spec in named}
    for spec in vault.hosts():
        if urls.get(spec.id, spec.url) != spec.url:
            vault.put_host(replace(spec, url=urls[spec.id]))
