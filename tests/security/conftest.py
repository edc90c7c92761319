"""Fixtures: a vault with a passphrase that can be searched for, on a real mount."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.vault import Vault
from tests.security.canary import canary


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without root, what needs it is left out."""
    if os.geteuid() != 0:
        here = Path(__file__).parent
        left_out = [item for item in items if here in item.path.parents and item.get_closest_marker("needs_root")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


class Guarded(Vault):
    """A vault whose passphrase is a canary and whose daemon has a directory for temporary files of its own."""

    __slots__ = ("phrase",)

    def create(self) -> None:
        self.phrase = canary(32)
        (self.base / "tmp").mkdir()
        Vault.create(self)

    def megafs(self, *arguments: str, timeout_s: float = 60.0) -> str:
        self.passphrase.write_text(self.phrase + "\n")
        return Vault.megafs(self, *arguments, timeout_s=timeout_s)

    def places(self) -> list[Path]:
        """Everything that MegaFS wrote: state, temporary files, hosts."""
        return [self.state, self.base / "tmp", *sorted(self.base.glob("host?"))]


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    """Created, not mounted."""
    base = Path(tempfile.mkdtemp(prefix="megafs-security-", dir=os.environ.get("MEGAFS_TEST_DIR")))
    monkeypatch.setenv("TMPDIR", str(base / "tmp"))
    vault = Guarded(base=base, state=base / "state")
    try:
        vault.create()
        yield vault
        vault.check_quiet()
    finally:
        vault.abandon()
        shutil.rmtree(base)
