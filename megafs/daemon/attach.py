"""Another machine: index from the hosts, files on demand."""

from collections.abc import Callable, Sequence

from megafs.config import Settings, VaultPaths
from megafs.crypto.recovery import RecoveryKey
from megafs.errors import NoVault


def attach_vault(
    paths: VaultPaths,
    *,
    hosts: Sequence[str],
    recovery: RecoveryKey,
    passphrase: str,
    settings: Settings,
    confirm: Callable[[str], bool],
) -> None:
    raise NoVault("attach is not there yet")
