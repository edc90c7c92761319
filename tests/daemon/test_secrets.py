"""Secrets of hosts: sealed under the vault's keys, plain only while nobody has unlocked them."""

import pytest

from megafs.config import VaultPaths
from megafs.crypto.keys import Keyring
from megafs.daemon import secrets
from megafs.model import GivenSecrets

S3, DAV = "s3://K@s3.example.org/b", "webdavs://u@dav.example.org/f"
GIVEN = GivenSecrets(by_url={S3: {"secret_key": "hunter2-of-s3"}})


@pytest.fixture
def place(tmp_path):
    return VaultPaths(root=tmp_path), Keyring.create(b"r" * 32)


def test_a_new_epoch_seals_them_anew_with_the_next_mount(place):
    """Who has the secrets of former epochs and this disk afterwards has not these."""
    paths, keyring = place
    secrets.keep(paths, paths.root, keyring, GIVEN)
    rotated = keyring.rotated()
    secrets.seal_up(paths, rotated)
    assert secrets.read(paths, rotated, S3) == {"secret_key": "hunter2-of-s3"}
    assert secrets.read(paths, keyring, S3) == {}
    before = paths.sealed_secrets.read_bytes()
    secrets.seal_up(paths, rotated)
    assert paths.sealed_secrets.read_bytes() == before, "once is enough"


def everything(paths):
    return b"".join(path.read_bytes() for path in paths.root.iterdir())


def test_what_is_kept_is_sealed_and_comes_back(place):
    paths, keyring = place
    secrets.keep(paths, paths.root, keyring, GIVEN)
    assert b"hunter2" not in everything(paths)
    assert secrets.read(paths, keyring, S3) == {"secret_key": "hunter2-of-s3"}
    secrets.keep(paths, paths.root, keyring, GivenSecrets(by_url={DAV: {"password": "hunter2-of-dav"}}))
    secrets.forget(paths, keyring, S3)
    assert secrets.read(paths, keyring, S3) == {}
    assert secrets.read(paths, keyring, DAV) == {"password": "hunter2-of-dav"}
    assert [path.name for path in paths.root.iterdir()] == ["secrets.sealed"]


def test_what_was_given_while_locked_is_sealed_by_the_next_mount(place):
    paths, keyring = place
    secrets.keep_locked(paths, GIVEN)
    assert b"hunter2" in everything(paths), "the control: nobody could seal it"
    assert secrets.read(paths, keyring, S3) == {"secret_key": "hunter2-of-s3"}
    secrets.seal_up(paths, keyring)
    assert b"hunter2" not in everything(paths)
    assert secrets.read(paths, keyring, S3) == {"secret_key": "hunter2-of-s3"}
    secrets.seal_up(paths, keyring)  # nothing to do


def test_what_was_given_since_the_last_mount_goes_with_its_host(place):
    paths, keyring = place
    secrets.keep_locked(paths, GIVEN)
    secrets.keep_locked(paths, GivenSecrets(by_url={DAV: {"password": "hunter2-of-dav"}}))
    secrets.forget(paths, keyring, S3)
    assert secrets.read(paths, keyring, S3) == {}
    assert b"hunter2-of-s3" not in everything(paths)
    assert secrets.read(paths, keyring, DAV) == {"password": "hunter2-of-dav"}, "the control: the others stay"


def test_keys_of_another_vault_and_changed_bytes_open_nothing(place, caplog):
    paths, keyring = place
    secrets.keep(paths, paths.root, keyring, GIVEN)
    assert secrets.read(paths, Keyring.create(b"x" * 32), S3) == {}
    whole = paths.sealed_secrets.read_bytes()
    paths.sealed_secrets.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert secrets.read(paths, keyring, S3) == {}
    assert "megafs hosts NAME secrets" in caplog.text
    secrets.keep(paths, paths.root, keyring, GIVEN)  # and giving them again is the cure
    assert secrets.read(paths, keyring, S3) == {"secret_key": "hunter2-of-s3"}
