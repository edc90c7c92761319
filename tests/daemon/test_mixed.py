"""One vault over S3, WebDAV, SFTP and a folder, 2+2: create, fill, lose two of the servers, attach, compare."""

import random

import pytest

from tests import servers

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.servers,
    pytest.mark.skipif(not servers.has("sshd"), reason="a machine without an SSH server"),
]
CONTENT = {f"file {number}": random.Random(number).randbytes(100 * 7**number) for number in range(5)}


def test_two_plus_two_over_four_kinds_of_hosts(drives, tmp_path):
    with (
        servers.rclone(tmp_path / "webdav", "webdav") as webdav,
        servers.openssh(tmp_path / "sftp") as sftp,
    ):
        with servers.moto(tmp_path / "moto") as s3:
            urls = [s3.place("vault"), webdav.place("vault"), sftp.place("vault"), (tmp_path / "folder").as_uri()]
            secrets = tmp_path / "secrets.toml"
            secrets.write_text(
                f'["{urls[0]}"]\nsecret_key = "{servers.SECRET}"\n["{urls[1]}"]\npassword = "{servers.SECRET}"\n'
            )
            secrets.chmod(0o600)
            drive = drives("first", urls)
            drive.create("--shards", "2+2", "--secrets-file", secrets)
            drive.mount()
            for name, content in CONTENT.items():
                (drive.mountpoint / name).write_bytes(content)
            drive.sync()
            assert {host["state"] for host in drive.told("hosts", "v")} == {"ok"}
            tested = {host["label"]: host["error"] for host in drive.told("hosts", "v", "test")}
            assert tested == dict.fromkeys(("s3-1", "webdav-2", "sftp-3", "file-4"), "")
            drive.unmount()
        (tmp_path / "folder").rename(tmp_path / "elsewhere")  # S3 and the folder are gone
        other = drives("second", urls)
        other.attach(drive.words, "--secrets-file", secrets, urls=urls[1:3])
        other.mount()
        for name, content in CONTENT.items():
            assert (other.mountpoint / name).read_bytes() == content
        (other.mountpoint / "new").write_bytes(b"written with two hosts of four")
        other.unmount()
