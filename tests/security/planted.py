"""Canaries planted through a mount, and every secret that the opened slot and the recovery words hold."""

import os
from dataclasses import fields, is_dataclass
from pathlib import Path

from megafs import canonical
from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.seal import expand
from megafs.crypto.slot import open_slots
from megafs.daemon.device import Device, DeviceBody
from tests.security.canary import canary

CONTENT_KINDS = ("raw", "text", "small", "overwritten", "deleted", "sparse", "appended")


def plant(root: Path) -> dict[str, bytes]:
    """Files, names, xattrs and links full of canaries below ``root``; the canaries by what they are in."""
    told = {kind: canary() for kind in CONTENT_KINDS}
    told |= {kind: canary() for kind in ("file name", "folder name", "xattr name", "xattr value", "target", "old name")}
    folder = root / told["folder name"]
    folder.mkdir()
    (folder / "raw").write_bytes(os.urandom(90_000) + told["raw"].encode() + os.urandom(90_000))
    (folder / "text").write_text(f"a line with {told['text']} in it\n" * 20_000)  # compresses well
    (folder / told["file name"]).write_text(told["small"])
    changing = folder / "changing"
    changing.write_text(told["overwritten"] * 1000)
    with changing.open("r+b") as file:
        os.fsync(file)
        file.write(os.urandom(24_000))
        os.fsync(file)
    with (folder / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(told["sparse"].encode())
    with (folder / "log").open("ab", buffering=0) as file:
        for _ in range(50):
            file.write(told["appended"].encode() + b"\n")
            os.fsync(file)
    gone = folder / "gone"
    gone.write_text(told["deleted"] * 100)
    os.sync()
    gone.unlink()
    os.setxattr(folder / "text", f"user.{told['xattr name']}", told["xattr value"].encode())
    (folder / "link").symlink_to(f"/nowhere/{told['target']}")
    renamed = folder / told["old name"]
    renamed.touch()
    renamed.rename(folder / "renamed")
    return {kind: text.encode() for kind, text in told.items()}


def secrets_in(value: object, label: str = "slot") -> dict[str, bytes]:
    """Every private ``bytes`` field of a statement and the statements in it."""
    found: dict[str, bytes] = {}
    if isinstance(value, tuple):
        for number, item in enumerate(value):
            found |= secrets_in(item, f"{label}[{number}]")
    elif is_dataclass(value):
        for field in fields(value):
            inner = getattr(value, field.name)
            if field.name in ("secret", "seed") and isinstance(inner, bytes):
                found[f"{label}.{field.name}"] = inner
            else:
                found |= secrets_in(inner, f"{label}.{field.name}")
    return found


def keys_of(passphrase: str, slot: bytes, words: str) -> dict[str, bytes]:
    """Every key there is: what the slot holds, what is derived from it, the recovery key and its words."""
    opened = open_slots(passphrase, slot)
    found = secrets_in(canonical.parse(DeviceBody, opened.body))
    assert len(found) >= 2, "the slot holds a vault secret and the device's signing key"
    device = Device.of(opened)
    for epoch, secret in device.keyring.secrets.items():
        for purpose in ("meta", "chunk", "name", "local-index", "epoch-signing"):
            found[f"{purpose} {epoch}"] = expand(secret, b"MegaFS/1 " + purpose.encode())
        found[f"signing {epoch}"] = device.keyring.signing_seed(epoch)
    found["slot key"] = opened.key
    found["recovery slot key"] = expand(RecoveryKey.from_text(words).secret, b"MegaFS/1 slot")
    found["index key"] = device.keyring.index_key(device.id)
    recovery = RecoveryKey.from_text(words)
    found["recovery key"] = recovery.secret
    found["boot key"] = expand(recovery.secret, b"MegaFS/1 boot")
    listed = recovery.words()
    for start in range(0, len(listed), 4):  # four words in a row are no accident
        found[f"recovery words {start}"] = " ".join(listed[start : start + 4]).encode()
    return found
