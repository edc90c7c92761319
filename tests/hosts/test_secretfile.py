"""The file of secrets: kept, replaced, refused when others can read it, never quoted in an error."""

import os

import pytest

from megafs.errors import Usage
from megafs.hosts.secretfile import store_secrets, stored_secrets

URL = "s3://KEY@example.org/bucket"
OTHER = "webdavs://me@example.org/folder"


def test_secrets_are_kept_by_url_and_forgotten(tmp_path) -> None:
    path = tmp_path / "secrets"
    assert stored_secrets(path, URL) == {}
    store_secrets(path, URL, {"secret_key": "one"})
    store_secrets(path, OTHER, {"password": "two"})
    store_secrets(path, URL, {"secret_key": "three"})
    assert stored_secrets(path, URL) == {"secret_key": "three"}
    assert stored_secrets(path, OTHER.replace("/folder", "//folder/")) == {"password": "two"}
    store_secrets(path, URL, {})
    assert stored_secrets(path, URL) == {}
    assert "three" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_does_not_depend_on_the_umask(tmp_path) -> None:
    before = os.umask(0)
    try:
        store_secrets(tmp_path / "secrets", URL, {"secret_key": "one"})
    finally:
        os.umask(before)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_open_to_others_is_refused(tmp_path, mode) -> None:
    path = tmp_path / "secrets"
    store_secrets(path, URL, {"secret_key": "hunter2"})
    path.chmod(mode)
    for use in (lambda: stored_secrets(path, URL), lambda: store_secrets(path, OTHER, {"password": "x"})):
        with pytest.raises(Usage, match="0600") as raised:
            use()
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"b": 1}}', '"hunter2"', "\udcff"])
def test_a_damaged_file_is_told_and_not_overwritten(tmp_path, text) -> None:
    path = tmp_path / "secrets"
    path.touch(mode=0o600)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Usage, match="damaged") as raised:
        store_secrets(path, URL, {"secret_key": "x"})
    assert "hunter2" not in str(raised.value)
    assert path.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_links_and_unknown_secrets_are_refused(tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Usage):
        store_secrets(tmp_path / "link", URL, {"secret_key": "x"})
    with pytest.raises(Usage, match="token"):
        store_secrets(tmp_path / "secrets", URL, {"secret_key": "x", "token": "y"})
