"""The composition root: makes vaults, attaches them, runs one mount. The only place that picks a real clock, disk, hosts."""

from megafs.daemon.attach import attach_vault
from megafs.daemon.create import create_vault
from megafs.daemon.run import run

__all__ = ["attach_vault", "create_vault", "run"]
