"""The slot file on this device's disk: opened, changed under a lock, replaced as a whole, the former bytes overwritten.

Whoever changes it reads it anew under the lock: the CLI changes slots while a daemon may change the body. A file of
format 1 becomes one of format 2 when it is opened.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from megafs.config import VaultPaths
from megafs.crypto.opened import Opened
from megafs.crypto.passphrase import Cost, usual_cost
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.slot import (
    FILE_BYTES,
    Secret,
    body_of,
    new_file,
    new_slot,
    open_slots,
    slots_of,
    with_body,
    with_slots,
)
from megafs.errors import Usage
from megafs.wiping import own

PASSPHRASE, KEY, RECOVERY, KEYRING = (
    "passphrase",
    "key",
    "recovery",
    "keyring",
)  # labels of the slots that we make ourselves


def unlock(paths: VaultPaths, secret: Secret) -> Opened:
    """What the file holds. Blocks for a good part of a second. Raises DamagedSlot, WrongKey."""
    opened = open_slots(secret, read(paths))
    if opened.key:
        return opened
    with locked(paths):
        data = read(paths)
        opened = open_slots(secret, data)
        if not opened.key:
            replace_private(paths.slot, new_file(opened.body, {PASSPHRASE: secret}, cost=affordable()))
            opened = open_slots(secret, read(paths))
    return opened


def new_slots(body: bytes, secret: Secret, recovery: RecoveryKey | None) -> bytes:
    """The file of a device that is made now. Blocks for a good part of a second."""
    first = PASSPHRASE if isinstance(secret, str) else KEY
    secrets: dict[str, Secret] = {first: secret}
    if recovery is not None:  # a device that came in by a ticket has not seen it
        secrets[RECOVERY] = recovery
    return new_file(body, secrets, cost=affordable())


def put_slot(paths: VaultPaths, opened: Opened, label: str, secret: Secret, cost: Cost | None = None) -> None:
    """A slot for ``secret``, in the place of the one with this label if there is one. Blocks as ``unlock``. Raises
    Usage, and DamagedSlot if the file was made anew meanwhile."""
    made = new_slot(secret, opened.key, label, cost=cost or affordable())

    def changed(data: bytes) -> bytes:
        former = slots_of(data)
        kept = [made if slot.label == label else slot for slot in former]
        return with_slots(data, opened, kept if made in kept else [*kept, made])

    change(paths, changed)


def put_recovery(paths: VaultPaths, key: bytes, recovery: RecoveryKey) -> None:
    """The slot of the recovery key, by who has the body key. Raises DamagedSlot if the file was made anew meanwhile."""
    opened = Opened(body=body_of(read(paths), key), key=own(key))
    try:
        put_slot(paths, opened, RECOVERY, recovery)
    finally:
        opened.forget()


def remove_slot(paths: VaultPaths, opened: Opened, label: str) -> None:
    """Raises Usage if there is no such slot, or no other."""

    def changed(data: bytes) -> bytes:
        former = slots_of(data)
        left = [slot for slot in former if slot.label != label]
        if len(left) == len(former):
            raise Usage(f"there is no slot {label}")
        return with_slots(data, opened, left)

    change(paths, changed)


def only_slot(paths: VaultPaths, opened: Opened, label: str, secret: Secret, cost: Cost | None = None) -> None:
    """One slot, and the body under a new key: nothing that opened an earlier file opens this one or a later one. The
    caller has the vault: a daemon would go on with the former key. Blocks as ``unlock``."""

    def changed(data: bytes) -> bytes:
        return new_file(body_of(data, opened.key), {label: secret}, cost=cost or affordable())

    change(paths, changed)


def store_body(paths: VaultPaths, key: bytes, body: bytes) -> None:
    """Another body under the slots that there are. Atomic and durable. Raises DamagedSlot if they wrap another key."""
    change(paths, lambda data: with_body(data, key, body))


def change(paths: VaultPaths, changed: Callable[[bytes], bytes]) -> None:
    """Replace the file by what ``changed`` makes of it; a power cut leaves the one or the other."""
    with locked(paths):
        replace_private(paths.slot, changed(read(paths)))


def read(paths: VaultPaths) -> bytes:
    """The file, or so much of it that it is seen to be too long."""
    with open(paths.slot, "rb") as file:
        return file.read(FILE_BYTES + 1)


def affordable() -> Cost:
    """The cost of a new passphrase slot on this machine, as it is now."""
    with open("/proc/meminfo") as file:
        found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in file)}
    return usual_cost(found.get("MemAvailable", 0))


@contextmanager
def locked(paths: VaultPaths) -> Iterator[None]:
    """One at a time changes the file. The lock is the vault's directory's own, and held for moments."""
    descriptor = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, data: bytes) -> None:
    """A file that is whole or absent after a power cut, mode 0600."""
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(partial, path)
    sync_directory(path.parent)


def replace_private(path: Path, data: bytes) -> None:
    """write_private, and then the former file's bytes are overwritten: what it held shall not be found on the disk. A
    file system that writes elsewhere (btrfs, a log, flash) may keep them all the same."""
    with open(path, "r+b", buffering=0) as former:
        size = os.fstat(former.fileno()).st_size
        write_private(path, data)
        former.write(os.urandom(size))
        os.fsync(former.fileno())


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
