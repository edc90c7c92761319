"""The secrets of hosts on this device: in the desktop keyring, or in the vault's directory as a file of mode 0600.

What was typed goes into the keyring if there is one; what came from a file goes into a file, because then nobody is
there to unlock a keyring. Read back when a host is opened: the file first. Never in the index, an URL or a log.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from megafs.config import VaultPaths
from megafs.hosts import HostSecrets
from megafs.hosts.secretfile import store_secrets, stored_secrets
from megafs.hosts.url import checked_url
from megafs.model import GivenSecrets

log = logging.getLogger(__name__)

SERVICE = "megafs host"  # in the keyring; the user name there is the vault's directory and the URL


def finder(given: GivenSecrets) -> Callable[[str], HostSecrets]:
    """What was given for a URL, {} if nothing was; for a command that has no state directory yet."""
    by_text = {checked_url(url).text: row for url, row in given.by_url.items()}
    return lambda url: by_text.get(checked_url(url).text, {})


def read(paths: VaultPaths, url: str) -> HostSecrets:
    """Blocks: a keyring may ask its owner. {} if there is none. Raises Usage for a file that is damaged or open."""
    checked = checked_url(url)
    if not checked.rules.secrets:
        return {}
    found = stored_secrets(paths.secrets, checked.text)
    return found or _from_keyring(paths.root, checked.text)


def keep(paths: VaultPaths, root: Path, given: GivenSecrets) -> None:
    """Blocks. Keep secrets by URL for the vault whose directory is, or will be, ``root``."""
    for url, row in given.by_url.items():
        if row and not (given.typed and _into_keyring(root, checked_url(url).text, row)):
            store_secrets(paths.secrets, url, row)


def forget(paths: VaultPaths, url: str) -> None:
    """Blocks. The host left the vault."""
    checked = checked_url(url)
    if checked.rules.secrets:
        store_secrets(paths.secrets, checked.text, {})


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
