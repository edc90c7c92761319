"""The contract on real servers, and what each kind does when it is refused or finds nothing."""

import secrets
from contextlib import aclosing

import opendal
import pytest

from megafs.errors import HostRefused, HostUnreachable, ObjectMissing
from megafs.hosts import open_host, s3
from megafs.hosts.objectstore import ObjectStoreHost
from tests import servers
from tests.contracts.host import NAME, HostContract, listed

QUICK = ["moto", "rclone s3", "rclone webdav", "rclone sftp"]
QUICK += ["openssh"] if servers.has("sshd") else []
SLOW = [pytest.param(name, marks=pytest.mark.servers) for name in ("seaweedfs", "wsgidav", "nginx")]
SLOW += [pytest.param("azurite", marks=pytest.mark.servers)] if servers.has("azurite-blob") else []
ALL = [*QUICK, *SLOW]
WITH_FOLDERS = [name for name in QUICK if "s3" not in name and name != "moto"]


@pytest.fixture
async def opened(server_of):
    """``opened(name, folder, secrets)``: a host on that server, closed after the test."""
    hosts = []

    def make(name: str, folder: str = "", **changed: str):
        server = server_of(name)
        url = server.place(folder or secrets.token_hex(4))
        hosts.append(open_host(url, secrets={**server.secrets, **changed}, label=name))
        return hosts[-1]

    yield make
    for host in hosts:
        await host.aclose()


class TestServers(HostContract):
    @pytest.fixture(params=ALL)
    async def host(self, request, opened):
        host = opened(request.param)
        await host.prepare()
        return host


class TestOpendal(HostContract):
    """The adapter of the kinds for which no server runs here, on a service of opendal itself and on S3."""

    @pytest.fixture(params=["memory", "s3"])
    async def host(self, request, server_of):
        if request.param == "memory":
            operator = opendal.AsyncOperator("memory", root="/")
        else:
            server = server_of("moto")
            operator = opendal.AsyncOperator(
                "s3",
                endpoint=f"http://127.0.0.1:{server.port}",
                bucket="bucket",
                root=f"/{secrets.token_hex(4)}",
                region="us-east-1",
                access_key_id=servers.KEY,
                secret_access_key=servers.SECRET,
                disable_config_load="true",
            )
        async with aclosing(ObjectStoreHost(operator, label="opendal")) as host:
            await host.prepare()
            yield host


@pytest.mark.parametrize("name", ALL)
async def test_objects_outlive_the_connection(name, opened) -> None:
    folder = secrets.token_hex(4)
    first = opened(name, folder)
    await first.prepare()
    await first.put(NAME, b"kept")
    assert await opened(name, folder).get(NAME) == b"kept"


@pytest.mark.parametrize("name", ["rclone s3", "rclone webdav", "rclone sftp", SLOW[0]])
async def test_a_wrong_secret_is_refused(name, opened) -> None:
    wrong = {"secret_key": "wrong"} if name in {"rclone s3", "seaweedfs"} else {"password": "wrong"}
    host = opened(name, **wrong)
    for request in (host.prepare(), host.put(NAME, b"x"), host.get(NAME)):
        with pytest.raises(HostRefused) as raised:
            await request
        assert "wrong" not in str(raised.value)


@pytest.mark.parametrize("name", WITH_FOLDERS)
async def test_a_folder_that_was_never_prepared_is_unreachable_and_stays_away(name, opened, server_of) -> None:
    folder = secrets.token_hex(4)
    host = opened(name, folder)
    for request in (host.put(NAME, b"x"), host.get(NAME), host.head(NAME), host.delete(NAME)):
        with pytest.raises(HostUnreachable):
            await request
    assert not (server_of(name).root / folder).exists()


async def test_an_unknown_or_changed_server_key_is_refused(server_of, tmp_path) -> None:
    server = server_of("rclone sftp")
    url = server.place("keys").partition("?")[0]
    other = tmp_path / "other"
    servers.key_pair(other)
    changed = tmp_path / "changed"
    changed.write_text(f"[127.0.0.1]:{server.port} " + " ".join(other.with_suffix(".pub").read_text().split()[:2]))
    (tmp_path / "empty").write_text("")
    for known_hosts in ("changed", "empty", "absent"):
        host = open_host(f"{url}?known_hosts={tmp_path / known_hosts}", secrets=server.secrets)
        with pytest.raises(HostRefused):
            await host.prepare()
        await host.aclose()


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    port = servers.free_port()
    urls = [
        (f"s3://KEY@127.0.0.1:{port}/bucket?tls=off", {"secret_key": "x"}),
        (f"webdav://user@127.0.0.1:{port}/folder", {"password": "x"}),
        (f"sftp://user@127.0.0.1:{port}/folder?known_hosts=/dev/null", {"password": "x"}),
    ]
    for url, given in urls:
        host = open_host(url, secrets=given)
        with pytest.raises((HostUnreachable, HostRefused)):
            await host.put(NAME, b"x")
        with pytest.raises((HostUnreachable, HostRefused)):
            await host.get(NAME)
        with pytest.raises(
            (HostUnreachable, HostRefused)
        ):  # S3 says nothing of space, and that it is there would be a lie
            await host.usage()
        await host.aclose()


async def test_a_bucket_that_is_not_there_is_refused(server_of) -> None:
    server = server_of("rclone s3")
    host = open_host(server.place("x").replace("/bucket/", "/nobucket/"), secrets=server.secrets)
    async with aclosing(host):
        for request in (host.prepare(), host.put(NAME, b"x")):
            with pytest.raises(HostRefused):
                await request
        with pytest.raises((HostRefused, ObjectMissing)):
            await host.get(NAME)


async def test_a_long_listing_comes_in_pages(opened, monkeypatch) -> None:
    monkeypatch.setattr(s3, "PAGE", 10)
    host = opened("rclone s3")
    names = {NAME[:-2] + first + second for first in "abcdef" for second in "2345"}
    for name in names:
        await host.put(name, b"x")
    assert await listed(host) == dict.fromkeys(names, 1)
