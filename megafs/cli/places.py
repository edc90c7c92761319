"""Where vaults live: the state directory, the names in it, the paths of one. Reads directories, opens nothing."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from megafs.config import VaultPaths
from megafs.errors import NoVault, Usage

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def state_directory(chosen: Path | None) -> Path:
    """``chosen``, or where XDG says; absolute."""
    if chosen is None:
        from platformdirs import user_data_path

        chosen = user_data_path("megafs")
    return Path(os.path.abspath(chosen))


def new_vault(chosen: Path | None, name: str) -> VaultPaths:
    """The paths that a vault of this name has. Raises Usage for a name that cannot be one."""
    if not NAME.fullmatch(name):
        raise Usage(f"a vault's name has 1 to 64 letters, digits, '.', '_' or '-', unlike {name!r}")
    return VaultPaths(root=state_directory(chosen) / name)


def vault(chosen: Path | None, name: str) -> VaultPaths:
    """The paths of an existing vault. Raises NoVault."""
    paths = new_vault(chosen, name)
    if not paths.slot.exists():
        raise NoVault(f"there is no vault {name} in {paths.root.parent}")
    return paths


def vaults(chosen: Path | None) -> list[VaultPaths]:
    """Every vault in the state directory, by name."""
    state = state_directory(chosen)
    names = sorted(os.listdir(state)) if state.is_dir() else []
    found = [VaultPaths(root=state / name) for name in names if NAME.fullmatch(name)]
    return [paths for paths in found if paths.slot.exists()]


def missing_folders(urls: Sequence[str]) -> list[Path]:
    """Those of the hosts that are folders and are not there yet: they are made, which the user should know."""
    from megafs.hosts.url import checked_url  # brings trio, which most commands do without

    found = [checked_url(url) for url in urls]
    folders = [Path("/" + "/".join(url.folders)) for url in found if url.kind == "file"]
    return [folder for folder in folders if not folder.exists()]


def vault_names() -> list[str]:
    """For shell completion."""
    return [paths.root.name for paths in vaults(None)]
