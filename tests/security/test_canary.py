"""The scan itself: it finds a secret however it is spelled, and nothing where nothing is."""

import base64
import os

import pytest
import zstandard

from tests.security.canary import Scan, canary

SPELLINGS = {
    "raw": lambda secret: secret,
    "utf-16-le": lambda secret: secret.decode().encode("utf-16-le"),
    "utf-16-be": lambda secret: secret.decode().encode("utf-16-be"),
    "hex": lambda secret: secret.hex().encode(),
    "HEX": lambda secret: secret.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64 behind one byte": lambda secret: base64.b64encode(b"x" + secret),
    "base64 behind two bytes": lambda secret: base64.urlsafe_b64encode(b"xy" + secret),
    "base32": lambda secret: base64.b32encode(b"xyz" + secret).lower(),
    "zstd": lambda secret: zstandard.compress(b"some text " * 40 + secret * 3 + b"more text " * 40),
    "a cut frame": lambda secret: zstandard.compress(os.urandom(300_000) + secret)[:-1] + b"rest",
    "16 bytes of it": lambda secret: secret[5:21],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_found(spelling):
    """A40."""
    secret = canary(32).encode()
    data = os.urandom(5000) + SPELLINGS[spelling](secret) + os.urandom(5000)
    assert {finding.label for finding in Scan({"it": secret, "other": canary().encode()}).bytes(data, "here")} == {"it"}


def test_nothing_found_in_noise():
    assert Scan({"it": canary().encode()}).bytes(os.urandom(1 << 20), "here") == []


def test_names_and_targets_count(tmp_path):
    (one, two), root = (canary(), canary()), tmp_path / "root"
    root.mkdir()
    (root / f"a{one}").touch()
    (root / "link").symlink_to(two)
    found, _ = Scan({"one": one.encode(), "two": two.encode()}).files([root])
    assert {finding.label for finding in found} == {"one", "two"}
