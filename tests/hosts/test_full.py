"""Servers whose disk is full: SFTP servers and folders say so at once; these web servers say 500 or 405, and are taken
for full after a few of them, since they answer everything else. No part of an object stays, and with room all is well.
"""

import os
import subprocess
from contextlib import aclosing, contextmanager

import pytest

from megafs.errors import HostFull, ObjectMissing
from megafs.hosts import open_host, stacked
from tests import servers
from tests.contracts.host import NAME

pytestmark = [pytest.mark.servers, pytest.mark.needs_root]
PACK = os.urandom(1 << 20)
DISK_BYTES = 6 << 20


@contextmanager
def small_disk(folder, size=DISK_BYTES):
    """A disk of so many bytes."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


STARTERS = {
    "rclone s3": lambda folder: servers.rclone(folder, "s3"),
    "rclone webdav": lambda folder: servers.rclone(folder, "webdav"),
    "rclone sftp": lambda folder: servers.rclone(folder, "sftp"),
    "openssh": servers.openssh,
    "nginx": servers.nginx,
    "wsgidav": servers.wsgidav,
    "file": None,
}


def name(number):
    return NAME[:-1] + "abcdefghijklmnop"[number]


@pytest.mark.parametrize("kind", STARTERS)
async def test_a_full_disk_is_a_full_host(kind, tmp_path) -> None:
    with small_disk(tmp_path / "disk"):
        starter = STARTERS[kind]
        if starter is None:
            await fill((tmp_path / "disk" / "place").as_uri(), {})
        else:
            with starter(tmp_path / "disk" / "server") as server:
                await fill(server.place("place"), server.secrets)


async def fill(url, secrets) -> None:
    bare = open_host(url, secrets=secrets, label="host")
    async with aclosing(stacked(bare, label="host", reply_s=20, patience_s=30)) as stack:
        host = stack.patient
        await host.prepare()
        number = 0
        with pytest.raises(HostFull):
            for number in range(10):
                await host.put(name(number), PACK)
        assert number >= 3
        assert stack.measured.full
        assert stack.measured.answers, "full, not away"
        with pytest.raises(ObjectMissing):
            await host.head(name(number))
        for kept in range(number):
            assert await host.get(name(kept)) == PACK
        await host.delete(name(0))
        await host.delete(name(1))
        await host.put(name(number), PACK)
        assert not stack.measured.full
        assert await host.get(name(number)) == PACK
