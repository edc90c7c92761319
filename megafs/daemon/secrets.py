"""The secrets of hosts on this device: in the desktop keyring, or in the vault's directory, sealed under its keys.

What was typed goes into the keyring if there is one; what came from a file goes into a file, because then nobody is
there to unlock a keyring. Who gives secrets while the vault is locked leaves them in a plain file of mode 0600, which
the next mount seals and removes. Never in the index, an URL or a log.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from megafs.config import VaultPaths
from megafs.crypto.keys import Keyring
from megafs.errors import Corrupt, Unauthentic
from megafs.hosts import HostSecrets
from megafs.hosts.secretfile import Table, all_secrets, store_secrets, stored_secrets, table_from, table_text
from megafs.hosts.url import checked_url
from megafs.model import GivenSecrets, Kind
from megafs.slotfile import replace_private, write_private

log = logging.getLogger(__name__)

SEALED_BYTES = 2 << 20  # of the file
SERVICE = "megafs host"  # in the keyring; the user name there is the vault's directory and the URL


def finder(given: GivenSecrets) -> Callable[[str], HostSecrets]:
    """What was given for a URL, {} if nothing was; for a command that has no state directory yet."""
    by_text = {checked_url(url).text: row for url, row in given.by_url.items()}
    return lambda url: by_text.get(checked_url(url).text, {})


def read(paths: VaultPaths, keyring: Keyring, url: str) -> HostSecrets:
    """Blocks: a keyring may ask its owner. {} if there is none. Raises Usage for a file that is damaged or open."""
    checked = checked_url(url)
    if not checked.rules.secrets:
        return {}
    found = stored_secrets(paths.secrets, checked.text) or _sealed(paths, keyring).get(checked.text, {})
    return found or _from_keyring(paths.root, checked.text)


def keep(paths: VaultPaths, root: Path, keyring: Keyring, given: GivenSecrets) -> None:
    """Blocks. Keep secrets by URL for the vault whose directory is, or will be, ``root``."""
    rows = {checked_url(url).text: dict(row) for url, row in given.by_url.items() if row}
    left = {url: row for url, row in rows.items() if not (given.typed and _into_keyring(root, url, row))}
    if left:
        _seal(paths, keyring, {**_sealed(paths, keyring), **left})


def keep_locked(paths: VaultPaths, given: GivenSecrets) -> None:
    """Blocks. The same while nobody has unlocked the vault."""
    for url, row in given.by_url.items():
        if row and not (given.typed and _into_keyring(paths.root, checked_url(url).text, row)):
            store_secrets(paths.secrets, url, row)


def seal_up(paths: VaultPaths, keyring: Keyring) -> None:
    """Blocks. What was given while the vault was locked is sealed, and what is sealed in a former epoch is sealed anew;
    the plain file goes. Raises Usage."""
    given, kept = all_secrets(paths.secrets), _sealed(paths, keyring)
    if given or (kept and not _is_new(paths, keyring)):
        _seal(paths, keyring, {**kept, **given})
    paths.secrets.unlink(missing_ok=True)


def forget(paths: VaultPaths, keyring: Keyring, url: str) -> None:
    """Blocks. The host left the vault; also what was given for it since the last mount goes. Raises Usage."""
    if stored_secrets(paths.secrets, url):
        store_secrets(paths.secrets, url, {})
    kept = _sealed(paths, keyring)
    if kept.pop(checked_url(url).text, None) is not None:
        _seal(paths, keyring, kept)


def _seal(paths: VaultPaths, keyring: Keyring, table: Table) -> None:
    write = replace_private if paths.sealed_secrets.exists() else write_private
    write(paths.sealed_secrets, keyring.seal(Kind.SECRETS, [], table_text(table).encode()))


def _is_new(paths: VaultPaths, keyring: Keyring) -> bool:
    try:
        keyring.open(Kind.SECRETS, [], paths.sealed_secrets.read_bytes(), epoch=keyring.epoch)
    except Unauthentic:
        return False
    return True


def _sealed(paths: VaultPaths, keyring: Keyring) -> Table:
    try:
        with open(paths.sealed_secrets, "rb") as file:
            return opened(keyring, file.read(SEALED_BYTES))
    except FileNotFoundError:
        return {}
    except (Corrupt, Unauthentic):
        log.warning("the secrets of hosts do not open: give them again with megafs hosts NAME secrets URL")
        return {}


def opened(keyring: Keyring, sealed: bytes) -> Table:
    """What the sealed file holds. Raises Corrupt or Unauthentic."""
    try:
        return table_from(keyring.open(Kind.SECRETS, [], sealed))
    except ValueError as error:
        raise Corrupt("secrets: not a table") from error


def _from_keyring(root: Path, url: str) -> HostSecrets:
    import keyring
    from keyring.errors import KeyringError

    try:
        text = keyring.get_password(SERVICE, f"{root} {url}")
        found = json.loads(text) if text else {}
    except (KeyringError, ValueError) as error:
        log.info("the keyring does not give the secrets of a host: %s", type(error).__name__)
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _into_keyring(root: Path, url: str, secrets: HostSecrets) -> bool:
    import keyring
    from keyring.errors import KeyringError

    if keyring.get_keyring().priority < 1:  # none, or one that keeps plain text
        return False
    try:
        keyring.set_password(SERVICE, f"{root} {url}", json.dumps(dict(secrets)))
    except KeyringError as error:
        log.info("the keyring does not take the secrets of a host: %s", type(error).__name__)
        return False
    return True
