"""The composition root: makes vaults, attaches them, runs a mount. Only here are real clocks, disks and hosts
picked."""

from megafs.daemon.attach import attach_vault
from megafs.daemon.create import create_vault
from megafs.daemon.rebuild import repair_vault
from megafs.daemon.run import run

__all__ = ["attach_vault", "create_vault", "repair_vault", "run"]
