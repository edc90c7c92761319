"""Secrets of hosts as one JSON file of mode 0600, URL -> name -> secret. The caller says where it is.

For what is given while the vault is locked; who can unlock it seals them (daemon.secrets). A file that others can read
is refused, not used with a warning: it would stay that way.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from megafs.errors import Usage
from megafs.hosts.url import checked_secrets, checked_url

FILE_BYTES = 1 << 20
Table = dict[str, dict[str, str]]


def stored_secrets(path: Path, url: str) -> Mapping[str, str]:
    """What is stored for this URL, {} if nothing is. Raises Usage for a file that is damaged or open to others."""
    return all_secrets(path).get(checked_url(url).text, {})


def store_secrets(path: Path, url: str, secrets: Mapping[str, str]) -> None:
    """Keep the secrets of this URL ({}: forget them); the others stay. The file is replaced as a whole."""
    checked = checked_url(url)
    if secrets:
        checked_secrets(checked, secrets)
    text = table_text({**all_secrets(path), checked.text: dict(secrets)})
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(descriptor)
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def table_text(table: Table) -> str:
    """A table as JSON, without the hosts that have no secrets."""
    return json.dumps({key: value for key, value in table.items() if value}, indent=1, sort_keys=True)


def table_from(text: bytes) -> Table:
    """The table that such a text holds. Raises ValueError."""
    try:
        table = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not _is_table(table):
        raise ValueError("not a table of tables")
    return table  # type: ignore[no-any-return]  # checked one line above


def all_secrets(path: Path) -> Table:
    """Everything in the file; {} if there is none. Raises Usage."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Usage(f"{path} with the secrets of hosts cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_mode & 0o077 or status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
            raise Usage(f"{path} holds secrets and must be a file of yours with mode 0600 (chmod 600)")
        text = file.read(FILE_BYTES)
    try:
        return table_from(text)
    except ValueError as error:
        raise Usage(f"{path} with the secrets of hosts is damaged") from error


def _is_table(table: object) -> bool:
    return isinstance(table, dict) and all(
        isinstance(row, dict) and all(isinstance(value, str) for value in row.values()) for row in table.values()
    )
