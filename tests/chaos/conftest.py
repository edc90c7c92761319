"""Drives as in tests/daemon."""

from tests.daemon.conftest import drives

__all__ = ["drives"]
