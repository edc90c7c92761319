"""URLs of hosts: what is understood, what is refused and how, and that no secret is ever printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.errors import Usage
from megafs.hosts import KINDS, checked_url, display_url, open_host
from megafs.hosts.url import RULES

GOOD = [rules.example for rules in RULES.values()] + [
    "s3://KEY@127.0.0.1:9000/bucket?tls=off",
    "s3://KEY@[::1]:9000/bucket/a/b?region=eu-1&style=host",
    "sftp://me@example.org:2222/~/vault?key=~/.ssh/id_ed25519",
    "webdav://example.org",
    "file:///mnt/a%20disk/vault",
    "b2://id@CamelBucket?bucket_id=77",
]
BAD = {
    "": "KIND",
    "/mnt/disk": "KIND",
    "ftp://example.org/": "KIND",
    "file://mnt/disk": "three slashes",
    "file:///": "too short",
    "file:///mnt/../etc": "'..'",
    "file:///mnt/a%2Fb": "'..'",
    "file:///mnt/a b": "spaces",
    "file:///mnt/a\nb": "control",
    "file:///mnt/a%0Ab": "hidden",
    "s3://example.org/bucket": "before the @",
    "s3://KEY@example.org": "too short",
    "s3://KEY@example.org/bucket?tls=maybe": "on, off",
    "s3://KEY@example.org/bucket?colour=red": "no option 'colour'",
    "s3://KEY@example.org/bucket?tls=on&tls=off": "twice",
    "s3://KEY@example.org/bucket#part": "%23",
    "s3://KEY@example.org:99999/bucket": "cannot be read",
    "s3://KEY@[::1/bucket": "cannot be read",
    "s3://KEY:hunter2@example.org/bucket": "out of the URL",
    "webdav:///folder": "server",
    "webdav://example.org/?x=1": "no option 'x'",
    "sftp://example.org/folder": "before the @",
    "b2://id@bucket": "bucket_id",
}


@pytest.mark.parametrize("text", GOOD)
def test_a_url_has_one_spelling(text) -> None:
    url = checked_url(text)
    assert checked_url(url.text) == url
    assert url.kind in KINDS


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_meant_is_refused_in_one_sentence(text) -> None:
    with pytest.raises(Usage, match=BAD[text]) as raised:
        checked_url(text)
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_case_of_buckets_is_kept_and_options_are_read() -> None:
    url = checked_url("b2://id@CamelBucket/a/b?bucket_id=77")
    assert (url.place, url.user, url.folders, url.options["bucket_id"]) == ("CamelBucket", "id", ("a", "b"), "77")
    assert checked_url("s3://K%2FEY@h:1/b").user == "K/EY"


@given(st.text(max_size=40))
def test_any_text_is_an_url_or_a_usage_error(text) -> None:
    try:
        url = checked_url(text)
    except Usage:
        return
    assert checked_url(url.text).text == url.text


@given(kind=st.sampled_from(sorted(RULES)), rest=st.text(max_size=40))
def test_any_text_after_a_kind_is_an_url_or_a_usage_error(kind, rest) -> None:
    try:
        url = checked_url(f"{kind}://{rest}")
    except Usage:
        return
    assert checked_url(url.text) == url


@pytest.mark.parametrize("text", ["s3://KEY:hunter2@h/b", "s3://KEY:hun@ter2@h/b", "://a:hunter2@h", "x://a:hunter2@"])
def test_passwords_are_not_displayed(text) -> None:
    assert "ter2" not in display_url(text)
    assert display_url("sftp://me@h:22/a?key=k") == "sftp://me@h:22/a?key=k"
    assert display_url("file:///a\x1b[31m") == "file:///a?[31m"


def test_secrets_are_checked_when_a_host_is_opened() -> None:
    with pytest.raises(Usage, match="secret key"):
        open_host("s3://KEY@example.org/bucket", secrets={})
    with pytest.raises(Usage, match="no secret called 'token'"):
        open_host("s3://KEY@example.org/bucket", secrets={"secret_key": "x", "token": "y"})
    with pytest.raises(Usage, match="certificate authorities"):
        open_host("webdavs://example.org/?ca=/nonexistent", secrets={})


def test_a_malformed_secret_is_told_without_showing_it() -> None:
    with pytest.raises(Usage, match="form") as raised:
        open_host(RULES["azblob"].example, secrets={"account_key": "hunter2!"})
    assert "hunter2" not in str(raised.value)


async def test_every_kind_opens_without_a_request() -> None:
    for rules in RULES.values():
        host = open_host(rules.example, secrets=dict.fromkeys(rules.secrets, "e30="))  # base64 of an empty JSON object
        await host.aclose()
