"""Drives and folders as in tests/daemon."""

from tests.daemon.conftest import drives, folders

__all__ = ["drives", "folders"]
