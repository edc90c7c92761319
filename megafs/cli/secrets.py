"""The secrets of hosts that a command line names: from a file, else asked on the terminal. Never an argument.

The file is TOML, a table for each host's URL: ``["s3://KEY@s3.example.org/bucket"]`` and below it ``secret_key = "…"``.
"""

import os
import stat
import tomllib
from collections.abc import Mapping, Sequence
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from megafs.cli.terminal import note
from megafs.errors import Usage
from megafs.model import GivenSecrets

if TYPE_CHECKING:
    from megafs.hosts.url import HostUrl

FILE_BYTES = 1 << 20
USUAL = frozenset({"webdav", "webdavs"})  # need none, but have one if there is a user name


def gathered(urls: Sequence[str], file: Path | None) -> GivenSecrets:
    """What there is for these hosts. Raises Usage for a secret that is missing or unknown."""
    from megafs.hosts.url import checked_secrets, checked_url  # brings trio, which most commands do without

    found = from_file(file) if file is not None else {}  # it may speak of more hosts than are named: attach meets them
    typed = False
    for url in map(checked_url, urls):
        if url.text not in found and _is_asked_for(url):
            found[url.text] = {url.rules.secrets[0]: _asked(url)}
            typed = True
        checked_secrets(url, found.get(url.text, {}))
    return GivenSecrets(by_url=found, typed=typed)


def from_file(file: Path) -> dict[str, dict[str, str]]:
    """What the file says, by URL in its one spelling. Raises Usage."""
    from megafs.hosts.url import checked_url

    try:
        with open(file, "rb") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                note(f"others can read {file}; chmod 600 makes it yours")
            table = tomllib.loads(opened.read(FILE_BYTES).decode())
    except OSError as error:
        raise Usage(f"the secrets file cannot be read: {error.strerror}: {file}") from error
    except ValueError as error:
        raise Usage(f"the secrets file is not valid TOML: {file}") from error  # not the text around it
    return {checked_url(url).text: _row(row) for url, row in table.items()}


def _row(row: object) -> dict[str, str]:
    if not isinstance(row, Mapping) or not all(isinstance(value, str) for value in row.values()):
        raise Usage("the secrets file has a table for each host's URL, and text in it")
    return {str(name): str(value) for name, value in row.items()}


def _is_asked_for(url: "HostUrl") -> bool:
    return url.rules.wants_secret or (url.kind in USUAL and bool(url.user))


def _asked(url: "HostUrl") -> str:
    what = url.rules.secrets[0].replace("_", " ")
    try:
        with open("/dev/tty"):
            pass
    except OSError as error:
        raise Usage(f"{url.text} needs its {what}, and there is no terminal to ask on: use --secrets-file") from error
    try:
        found = getpass(f"{what} of {url.text}: ")
    except EOFError as error:
        raise Usage(f"no {what} was given") from error
    if not found:
        raise Usage(f"the {what} is empty")
    return found
