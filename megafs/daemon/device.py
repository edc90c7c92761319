"""This device: what its key slot holds, its lock, its files. Everything here is made once, at create or attach."""

import fcntl
import glob
import os
import re
import shutil
import time
from binascii import unhexlify
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from megafs import canonical
from megafs.canonical import Size
from megafs.config import Settings, VaultPaths, settings_text
from megafs.crypto.identity import DeviceCertificate, DeviceKey, EpochCertificate
from megafs.crypto.keys import Keyring, KeyringFields
from megafs.crypto.opened import Opened
from megafs.errors import Busy, Corrupt, VaultExists
from megafs.index.database import Database
from megafs.index.vault import Vault
from megafs.model import DeviceId
from megafs.slotfile import store_body, sync_directory, write_private
from megafs.sync.statements import Signer, Trust
from megafs.wiping import own, wipe

LABEL_CHARACTERS = 64
HIDDEN = re.compile(rb'"(?:secret|seed)":"([0-9a-f]{64})"')  # of a DeviceBody: those of the epochs, then the seed


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBody:
    """The body of the slot file: all secrets of this device, and the vault identity that they are pinned to."""

    keyring: KeyringFields
    device: Annotated[bytes, Size(16)]
    seed: Annotated[bytes, Size(32)]  # of the device's signing key
    certificate: DeviceCertificate
    root_public: Annotated[bytes, Size(32)]
    epochs: tuple[EpochCertificate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNote:
    """What the vault remembers of a device beside its certificate."""

    label: Annotated[str, Size(0, LABEL_CHARACTERS)]
    enrolled_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An opened slot file."""

    id: DeviceId
    number: int
    keyring: Keyring
    signer: Signer
    trust: Trust
    root_public: bytes
    epochs: tuple[EpochCertificate, ...]
    slot_key: bytes = field(default=b"", repr=False)  # seals the body in the slot file; empty: it is in none yet

    @classmethod
    def of(cls, opened: Opened) -> "Device":
        """Raises Corrupt or Unauthentic for a body that no version of ours wrote."""
        public, secrets = _apart(opened.body)
        body = canonical.parse(DeviceBody, public)
        if len(secrets) != len(body.keyring.secrets) + 1:
            raise Corrupt("DeviceBody: not the canonical spelling")
        entries = zip(body.keyring.secrets, secrets[:-1], strict=True)
        keyring = Keyring.from_fields(
            replace(body.keyring, secrets=tuple(replace(entry, secret=secret) for entry, secret in entries))
        )
        return cls(
            id=DeviceId(body.device),
            number=body.certificate.claims.number,
            keyring=keyring,
            signer=Signer(vault=keyring.vault, key=DeviceKey(secrets[-1]), certificate=body.certificate),
            trust=Trust.of(keyring.vault, body.root_public, body.epochs),
            root_public=body.root_public,
            epochs=body.epochs,
            slot_key=own(opened.key),  # whoever opened the file wipes theirs
        )

    def keys(self) -> list[bytes]:
        """Copies of every key here that opens or signs something, the index's last."""
        return [*self.keyring.keys(), own(self.signer.key.seed), own(self.slot_key), self.keyring.index_key(self.id)]

    def forget(self) -> None:
        """Let go of every secret, whoever still refers to this device."""
        self.keyring.forget()
        self.signer.key.forget()
        wipe(self.slot_key)
        object.__setattr__(self, "slot_key", b"")

    def store(self, paths: VaultPaths) -> None:
        """Put this body into the slot file in place of the one that is there, whatever opens the slots. Blocks."""
        store_body(paths, self.slot_key, self.body())

    def body(self) -> bytes:
        """For the slot."""
        return canonical.encode(
            DeviceBody(
                keyring=self.keyring.to_fields(),
                device=self.id,
                seed=self.signer.key.seed,
                certificate=self.signer.certificate,
                root_public=self.root_public,
                epochs=self.epochs,
            )
        )


def _apart(body: bytes) -> tuple[bytes, list[bytes]]:
    """The body with zeros in the place of its secrets, and these in their order. Parsing JSON leaves copies of every
    string in memory, which nobody could overwrite when the vault is locked."""
    public, secrets = bytearray(body), []
    for found in HIDDEN.finditer(body):
        digits = slice(*found.span(1))
        secrets.append(unhexlify(memoryview(body)[digits]))
        public[digits] = b"0" * len(public[digits])
    return bytes(public), secrets


def note_device(database: Database, number: int) -> None:
    """What the list of devices calls this one: as its machine is called."""
    note = DeviceNote(label=os.uname().nodename[:LABEL_CHARACTERS], enrolled_s=int(time.time()))
    Vault(database).set_setting(note_key(number), canonical.encode(note))


def note_key(number: int) -> str:
    """Where the vault's settings say it."""
    return f"device.{number}"


@contextmanager
def new_state(paths: VaultPaths, settings: Settings) -> Iterator[VaultPaths]:
    """A state directory that appears under its name only when the body succeeded; else nothing is left."""
    for left in paths.root.parent.glob(f".{glob.escape(paths.root.name)}.new-*"):
        if not Path("/proc", left.name.rpartition("-")[2]).exists():  # killed half way: it never had a name
            shutil.rmtree(left, ignore_errors=True)
    building = VaultPaths(root=paths.root.with_name(f".{paths.root.name}.new-{os.getpid()}"))
    building.packs.mkdir(mode=0o700, parents=True)
    os.chmod(building.root, 0o700)
    try:
        write_private(building.settings, settings_text(settings).encode())
        yield building
        sync_directory(building.root)
        try:
            os.rename(building.root, paths.root)
        except OSError as error:
            raise VaultExists(f"there is something at {paths.root} already") from error
        sync_directory(paths.root.parent)
    except BaseException:
        shutil.rmtree(building.root, ignore_errors=True)
        raise


@contextmanager
def locked(paths: VaultPaths) -> Iterator[None]:
    """Only one process has the vault. The lock ends with the process, whatever happens to it."""
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"the vault {paths.root.name} is in use by another process") from error
        yield
    finally:
        os.close(descriptor)
