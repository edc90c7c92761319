"""The devices of a vault: who they are, and how another one is let in (``megafs devices``).

A ticket is put by the process that was given the passphrase, not by the daemon: no secret crosses the control socket.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import trio

from megafs import canonical, process
from megafs.config import VaultPaths, settings_from
from megafs.control.messages import DeviceReport, Devices, KnownHost
from megafs.crypto.opened import Opened
from megafs.crypto.ticket import TicketCode
from megafs.daemon import secrets
from megafs.daemon.device import Device, DeviceNote, locked, note_key
from megafs.daemon.epochs import open_index
from megafs.daemon.hosts import Opener, connected
from megafs.errors import HostError, Unauthentic, Unavailable
from megafs.hosts import Stack
from megafs.index.database import Database
from megafs.index.ledger import Ledger
from megafs.index.vault import Vault
from megafs.model import HostId, HostSpec, Kind
from megafs.slotfile import write_private
from megafs.sync import stream, tickets

POLL_S = 1.0  # how soon the issuer notices that the ticket was used
END_S = 10.0  # to take it back from hosts, when it was used, its time is over or Ctrl-C was pressed
LEFT, LEFT_BYTES = (b"left over",), 1024  # of the file that names a ticket
UNKNOWN = DeviceNote(label="", enrolled_s=0)  # of devices made before there were notes


def listed(database: Database, device: Device, *, is_writing: bool) -> Devices:
    """What the rows say."""
    vault, ledger = Vault(database), Ledger(database.connection)
    heads = {head.device: head for head in ledger.heads()}
    ends = {number: last for number, _, last in ledger.stretches()}
    ends[device.number] = stream.load(database).next_seq - 1
    revoked = {entry.device for entry in device.trust.newest.revoked}
    reports = []
    for number, ident, _, _ in vault.devices():
        stored = vault.setting(note_key(number))
        note = canonical.parse(DeviceNote, stored) if stored is not None else UNKNOWN
        head = heads.get(number)
        reports.append(
            DeviceReport(
                number=number,
                label=note.label,
                enrolled_s=note.enrolled_s,
                last_seq=ends.get(number, 0),
                seen_s=head.seen_s if head is not None else 0,
                is_this=ident == device.id,
                is_revoked=ident in revoked,
                is_writing=ident == device.id and is_writing,
            )
        )
    hosts = tuple(
        KnownHost(id=spec.id, url=spec.url, label=spec.label) for spec in vault.hosts() if spec.state != "gone"
    )
    return Devices(epoch=device.keyring.epoch, devices=tuple(reports), hosts=hosts)


def devices_of(paths: VaultPaths, *, opened: Opened) -> Devices:
    """Of a vault that is not mounted: whether this device may still write is not known then. Raises Busy if it is."""
    device = Device.of(opened)
    with locked(paths):
        database = open_index(paths, device)
        try:
            return listed(database, device, is_writing=False)
        finally:
            database.close()


def enrol(
    paths: VaultPaths,
    *,
    opened: Opened,
    hosts: Sequence[KnownHost],
    tell: Callable[[list[str]], None],
    lives_s: float,
) -> bool:
    """Put a ticket on the hosts, ``tell`` its words, wait until it is used (True) or its time is over (False). Then,
    and whatever else ends this, it is taken back. Blocks. Raises Unavailable if no host takes it."""
    process.harden()
    return trio.run(_enrol, paths, Device.of(opened), hosts, tell, lives_s)


async def _enrol(
    paths: VaultPaths,
    device: Device,
    hosts: Sequence[KnownHost],
    tell: Callable[[list[str]], None],
    lives_s: float,
) -> bool:
    specs = [HostSpec(id=HostId(host.id), url=host.url, label=host.label) for host in hosts]
    opener = Opener(settings_from(paths.settings.read_text()), partial(secrets.read, paths, device.keyring))
    code = TicketCode.generate()
    async with connected(specs, opener) as stacks:
        await _take_back(stacks, _left_over(paths, device))
        write_private(paths.ticket, device.keyring.seal(Kind.TICKET, LEFT, code.name().encode()))
        try:
            taken = await _put(device, specs, stacks, code, lives_s)
            tell(code.words())
            end = trio.current_time() + lives_s
            while await _is_waiting(taken, code):
                if trio.current_time() >= end:
                    return False
                await trio.sleep(POLL_S)
            return True
        finally:
            with trio.move_on_after(END_S, shield=True):
                await _take_back(stacks, code.name())
                paths.ticket.unlink(missing_ok=True)


async def _put(
    device: Device, specs: Sequence[HostSpec], stacks: dict[HostId, Stack], code: TicketCode, lives_s: float
) -> list[Stack]:
    """The hosts that took it. Raises Unavailable if none did."""
    taken: list[Stack] = []
    errors: list[str] = []

    async def one(spec: HostSpec) -> None:
        try:
            await tickets.put(
                stacks[spec.id].prompt,
                spec,
                specs,
                code=code,
                keyring=device.keyring,
                root_public=device.root_public,
                epochs=device.epochs,
                expires_s=int(time.time() + lives_s),
            )
        except (HostError, Unavailable) as error:
            errors.append(str(error))
        else:
            taken.append(stacks[spec.id])

    async with trio.open_nursery() as nursery:
        for spec in specs:
            nursery.start_soon(one, spec)
    if not taken:
        raise Unavailable(f"no host takes the ticket: {errors[0] if errors else 'there is none'}")
    return taken


async def _is_waiting(taken: Sequence[Stack], code: TicketCode) -> bool:
    """Whether the ticket is still on every host that took it and answers: who uses it deletes it."""
    for stack in taken:
        try:
            if not await tickets.is_there(stack.prompt, code):
                return False
        except HostError:
            continue
    return True


def _left_over(paths: VaultPaths, device: Device) -> str:
    """The name of a ticket whose issuer was killed; empty for none. Sealed: what it names is deleted on hosts."""
    try:
        return device.keyring.open(Kind.TICKET, LEFT, paths.ticket.read_bytes()[:LEFT_BYTES]).decode()
    except (FileNotFoundError, Unauthentic):
        return ""


async def _take_back(stacks: dict[HostId, Stack], name: str) -> None:
    if not name:
        return

    async def one(stack: Stack) -> None:
        try:
            await tickets.take_back(stack.prompt, name)
        except HostError:
            return  # its time is over soon, and the words are in no one else's hands

    async with trio.open_nursery() as nursery:
        for stack in stacks.values():
            nursery.start_soon(one, stack)
