"""The kernel hands over what programs wrote, and says so where it cannot."""

import pytest

from megafs.fuse.handover import hand_over


def test_everything_is_handed_over_and_an_error_is_told(vault):
    (vault.mountpoint / "handed over").write_bytes(b"x" * 300_000)
    hand_over(vault.mountpoint)
    (vault.mountpoint / "handed over").unlink()
    with pytest.raises(OSError, match="nothing"):
        hand_over(vault.mountpoint / "nothing")
