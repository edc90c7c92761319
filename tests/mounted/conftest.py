"""Fixtures: one vault mounted for the whole session, a plain directory beside it, and ``both``, which compares them."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.both import Both, tally
from tests.mounted.vault import Vault, mounted

PLAIN_TYPES = {"ext4", "xfs", "btrfs"}  # the suite was written against ext4
AS_ROOT = ("--allow-other", "--flags", "suid,dev")  # as a plain mount has them
vault_key = pytest.StashKey[Vault]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test here drives a mount; those that become other users or make devices are left out without root."""
    left_out = []
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.mounted)
            if os.geteuid() != 0 and item.get_closest_marker("needs_root"):
                left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory that other users may enter, on a real disk."""
    base = Path(tempfile.mkdtemp(prefix="megafs-mounted-", dir=os.environ.get("MEGAFS_TEST_DIR")))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def stand_in(request: pytest.FixtureRequest) -> bool:
    """``--stand-in``: compare plain with plain, which must be equal in every case: this checks the suite itself."""
    return bool(request.config.getoption("--stand-in", default=False))


@pytest.fixture(scope="session")
def vault(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Vault]:
    """The session's vault, mounted."""
    base = scratch / "vault"
    base.mkdir(mode=0o755)
    with mounted(base, *(AS_ROOT if os.geteuid() == 0 else ())) as vault:
        request.config.stash[vault_key] = vault
        yield vault


@pytest.fixture(scope="session")
def mount_root(request: pytest.FixtureRequest, scratch: Path, stand_in: bool) -> Path:
    """The directory that is tested: the mount, or its stand-in."""
    if stand_in:
        root = scratch / "standing-in"
        root.mkdir()
    else:
        root = request.getfixturevalue("vault").mountpoint
    return root


@pytest.fixture(scope="session")
def plain_root(scratch: Path) -> Path:
    """The directory that is believed."""
    root = scratch / "plain"
    root.mkdir()
    assert file_system_of(root) in PLAIN_TYPES, f"{root} must be on one of {PLAIN_TYPES}: set MEGAFS_TEST_DIR"
    return root


@pytest.fixture
def both(request: pytest.FixtureRequest, mount_root: Path, plain_root: Path, stand_in: bool) -> Iterator[Both]:
    """Fresh directories for one test, compared by calling ``both(operation)``."""
    name = request.node.name.replace("/", "_")[:80] + f"-{os.getpid()}-{time.monotonic_ns()}"
    depth = len(str(mount_root / name))  # absolute targets of symlinks must have one length
    roots = (mount_root / name, plain_root / name.ljust(depth - len(str(plain_root)) - 1, "_"))
    for root in roots:
        root.mkdir()
        root.chmod(0o755)
    yield Both(mount=roots[0], plain=roots[1], tally=tally, stand_in=stand_in)
    for root in roots:
        shutil.rmtree(root)


@pytest.fixture(autouse=True)
def quiet_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """A WARNING in the daemon's log needs a human, so an unexpected one fails the test that caused it."""
    yield
    vault = request.config.stash.get(vault_key, None)
    if vault is not None:
        vault.check_quiet()


def file_system_of(path: Path) -> str:
    """The type of the mounted file system that holds ``path``."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        if str(path).startswith(point) and len(point) >= len(best):
            best, kind = point, found
    return kind
