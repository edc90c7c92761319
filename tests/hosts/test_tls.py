"""Hosts with a certificate of a private authority: believed with ``?ca=``, and with nothing else."""

import subprocess
from contextlib import aclosing

import pytest

from megafs.errors import HostError
from megafs.hosts import open_host
from tests import servers
from tests.contracts.host import NAME


def authority(folder, name):
    """An authority: its certificate and key."""
    pem, key = folder / f"{name}.pem", folder / f"{name}.key"
    openssl("req", "-x509", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", pem)
    return pem, key


def certificate(folder, name, issuer, place):
    """A server's, made by this authority for this place."""
    pem, key, request, extra = (folder / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
    openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    extra.write_text(f"subjectAltName={place}\nbasicConstraints=CA:FALSE\n")
    signing = ("-CA", issuer[0], "-CAkey", issuer[1], "-CAcreateserial", "-days", "2", "-extfile", extra)
    openssl("x509", "-req", "-in", request, *signing, "-out", pem)
    return pem, key


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["s3", "webdav"])
async def test_only_the_authority_that_is_named_is_believed(kind, tmp_path) -> None:
    ours, other = authority(tmp_path, "ours"), authority(tmp_path, "other")
    right = certificate(tmp_path, "right", ours, "IP:127.0.0.1")
    elsewhere = certificate(tmp_path, "elsewhere", ours, "DNS:elsewhere.example")
    for (pem, key), accepted in ((right, True), (elsewhere, False)):
        with servers.rclone(tmp_path / f"server {accepted}", kind, "--cert", str(pem), "--key", str(key)) as server:
            url = server.place("place").replace("webdav://", "webdavs://").replace("?tls=off", "")
            for given, is_ours in ((f"?ca={ours[0]}", True), (f"?ca={other[0]}", False), ("", False)):
                async with aclosing(open_host(url + given, secrets=server.secrets, label="host")) as host:
                    if accepted and is_ours:
                        await host.prepare()
                        await host.put(NAME, b"over TLS")
                        assert await host.get(NAME) == b"over TLS"
                    else:
                        with pytest.raises(HostError, match=r"(?i)certificate"):
                            await host.get(NAME)
            if not accepted:
                assert not list(server.root.rglob(NAME))
