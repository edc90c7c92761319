"""MegaFS: a drive that encrypts itself and lives on hosts that its owner chooses."""

__version__ = "0.1.0"
