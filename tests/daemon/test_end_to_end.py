"""A vault on every kind of real server, by command lines: create, fill, unmount, attach, compare; and on distributed
engines of which one server is killed while files are being written."""

import random
import threading
from pathlib import Path

import pytest

from tests import clusters, servers

pytestmark = [pytest.mark.mounted, pytest.mark.servers]
KINDS = {
    "moto": servers.moto,
    "rclone s3": lambda folder: servers.rclone(folder, "s3"),
    "rclone webdav": lambda folder: servers.rclone(folder, "webdav"),
    "rclone sftp": lambda folder: servers.rclone(folder, "sftp"),
    "wsgidav": servers.wsgidav,
    "seaweedfs": servers.seaweedfs,
}
KINDS |= {"openssh": servers.openssh} if servers.has("sshd") else {}
KINDS |= {"nginx": servers.nginx} if servers.has("nginx") else {}
SIZES = (0, 1, 4096, 70_000, 300_000, 3 << 20)


def filled(root: Path, seed: int) -> dict[str, bytes]:
    """A small tree of all sizes, written there; paths and contents."""
    chance, made = random.Random(seed), {}
    for number in range(40):
        name = f"d{number % 4}/f{seed} {number}"
        made[name] = chance.randbytes(chance.choice(SIZES))
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(made[name])
    return made


def compare(root: Path, wanted: dict[str, bytes]) -> None:
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


def secrets_file(folder: Path, url: str, secrets) -> Path:
    path = folder / "secrets.toml"
    path.write_text(f'["{url}"]\n' + "".join(f'{name} = "{value}"\n' for name, value in secrets.items()))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_create_fill_unmount_attach_compare(kind, drives, tmp_path):
    with KINDS[kind](tmp_path / "server") as server:
        url = server.place("vault")
        given = ["--secrets-file", secrets_file(tmp_path, url, server.secrets)] if server.secrets else []
        drive = drives("first", [url])
        drive.create("--copies", "1", *given)
        drive.mount()
        wanted = filled(drive.mountpoint, 1)
        (drive.mountpoint / "d0" / "f1 0").unlink()
        wanted.pop("d0/f1 0")
        drive.sync()
        drive.unmount()
        other = drives("second", [url])
        other.attach(drive.words, *given)
        other.mount()
        compare(other.mountpoint, wanted)
        wanted |= filled(other.mountpoint, 2)
        other.sync()
        other.unmount()
        other.forget_cache()
        other.mount()
        compare(other.mountpoint, wanted)
        other.unmount()


def one_server_dies(cluster, drives, tmp_path) -> None:
    """The engine is the only host; what it promises with one server less is what the vault has."""
    server, members = cluster
    url = server.place("vault")
    given = ["--secrets-file", secrets_file(tmp_path, url, server.secrets)]
    drive = drives("first", [url])
    drive.create("--copies", "1", *given)
    drive.mount()
    wanted = filled(drive.mountpoint, 0)
    drive.sync()
    shot = threading.Timer(1.0, members[1].kill)
    shot.start()
    for seed in range(1, 8):
        wanted |= filled(drive.mountpoint, seed)
        if seed == 5:
            shot.join()
            assert members[1].wait() < 0, "it was killed"
    drive.sync()
    drive.unmount()
    drive.forget_cache()
    drive.mount()
    compare(drive.mountpoint, wanted)
    drive.unmount()
    other = drives("second", [url])
    other.attach(drive.words, *given)
    other.mount()
    compare(other.mountpoint, wanted)
    other.unmount()


def test_a_volume_server_of_seaweedfs_is_killed_under_load(drives, tmp_path):
    with clusters.seaweedfs_cluster(tmp_path / "weed") as cluster:
        one_server_dies(cluster, drives, tmp_path)


@pytest.mark.ceph
@pytest.mark.skipif(not clusters.has_ceph(), reason="a machine without ceph-mon, ceph-osd, ceph-mgr and radosgw")
def test_an_osd_of_ceph_is_killed_under_load(drives, tmp_path):
    with clusters.ceph() as cluster:
        one_server_dies(cluster, drives, tmp_path)
