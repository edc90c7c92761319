"""Distributed engines on 127.0.0.1 whose servers can be killed one by one: SeaweedFS, Ceph. Shapes as in servers."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import boto3

from tests.servers import KEY, SECRET, Server, _answers, _has_bucket, free_port, has, program, started

REPLICATED = "001"  # SeaweedFS: one more copy, on another server of the rack


@contextmanager
def seaweedfs_cluster(folder: Path) -> Iterator[tuple[Server, list[subprocess.Popen[bytes]]]]:
    """A master, three volume servers, a filer with its S3 gateway; every object on two of the volume servers."""
    master, filer, s3 = free_port(), free_port(), free_port()
    here = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1")
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    for name in ("m", "f"):
        (folder / name).mkdir()
    with ExitStack() as running:
        command = ("weed", "master", *here, f"-port={master}", f"-mdir={folder}/m", f"-defaultReplication={REPLICATED}")
        limits = ("-volumeSizeLimitMB=64", "-telemetry=false")
        running.enter_context(started(folder / "m", *command, *limits, ready=lambda: _answers(master)))
        volumes = []
        for number in range(3):
            place, port = folder / f"v{number}", free_port()
            place.mkdir()
            command = (
                "weed",
                "volume",
                *here,
                f"-port={port}",
                f"-dir={place}",
                "-max=20",
                f"-mserver=127.0.0.1:{master}",
            )
            volumes.append(
                running.enter_context(started(place, *command, "-max=20", ready=lambda port=port: _answers(port)))
            )
        command = ("weed", "filer", *here, f"-port={filer}", f"-master=127.0.0.1:{master}", "-s3", f"-s3.port={s3}")
        command = (*command, "-s3.port.iceberg=0", "-s3.port.lance=0")  # or they take fixed ports
        keys = (f"-s3.config={folder}/s3.json", f"-defaultReplicaPlacement={REPLICATED}")
        process = running.enter_context(started(folder / "f", *command, *keys, ready=lambda: _has_bucket(s3, filer)))
        url = f"s3://{KEY}@127.0.0.1:{{port}}/bucket/{{folder}}?tls=off"
        yield Server(url=url, secrets={"secret_key": SECRET}, port=s3, process=process), volumes


CEPH = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}/0]
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
osd pool default size = 2
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
bluestore block size = 2147483648
osd memory target = 939524096
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
mon data = {folder}/mon.$id
mgr data = {folder}/mgr.$id
osd data = {folder}/osd.$id
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
"""


def has_ceph() -> bool:
    return all(has(name) for name in ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "ceph"))


class Ceph:
    """Commands of one cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.configuration = folder, folder / "ceph.conf"
        self.keyring = str(folder / "keyring")

    def run(self, name: str, *arguments: str) -> str:
        command = [program(name), "--conf", str(self.configuration), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=self.folder, check=False)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def key(self, name: str, **caps: str) -> None:
        given = [word for daemon, cap in caps.items() for word in ("--cap", daemon, cap)]
        subprocess.run(
            [program("ceph-authtool"), self.keyring, "--gen-key", "-n", name, *given], check=True, capture_output=True
        )

    def daemon(self, name: str, *arguments: str, ready) -> "ExitStack":
        command = (name, "-f", "--conf", str(self.configuration), *arguments)
        return started(self.folder / f"run.{'.'.join(arguments[1:2])}.{name}", *command, ready=ready)


@contextmanager
def ceph() -> Iterator[tuple[Server, list[subprocess.Popen[bytes]]]]:
    """A monitor, a manager, three OSDs and a RADOS gateway of the system's Ceph; every object on two OSDs."""
    folder = Path("/tmp") / f"megafs-ceph-{uuid4().hex[:8]}"  # a socket's path may have 107 bytes, a test's is long
    folder.mkdir(mode=0o755)
    mon, s3 = free_port(), free_port()
    cluster = Ceph(folder)
    fsid = str(uuid4())
    cluster.configuration.write_text(CEPH.format(fsid=fsid, mon=mon, folder=folder))
    try:
        with ExitStack() as running:
            subprocess.run(
                [program("ceph-authtool"), "--create-keyring", cluster.keyring], check=True, capture_output=True
            )
            cluster.key("mon.", mon="allow *")
            cluster.key("client.admin", mon="allow *", osd="allow *", mgr="allow *", mds="allow *")
            address = f"[v2:127.0.0.1:{mon}]"
            cluster.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, f"{folder}/monmap")
            cluster.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", f"{folder}/monmap", "--keyring", cluster.keyring)
            running.enter_context(cluster.daemon("ceph-mon", "-i", "a", ready=lambda: _answers(mon)))
            cluster.key("mgr.x", mon="allow profile mgr", osd="allow *", mds="allow *")
            cluster.run("ceph", "auth", "add", "mgr.x", "-i", cluster.keyring)
            (folder / "mgr.x").mkdir()
            running.enter_context(cluster.daemon("ceph-mgr", "-i", "x", ready=lambda: True))
            osds = [_osd(cluster, running) for _ in range(3)]
            cluster.key("client.rgw.r", mon="allow rw", osd="allow rwx")
            cluster.run("ceph", "auth", "add", "client.rgw.r", "-i", cluster.keyring)
            gateway = (
                "-n",
                "client.rgw.r",
                "--rgw-frontends",
                f"beast endpoint=127.0.0.1:{s3}",
                "--rgw-zone",
                "default",
            )
            process = running.enter_context(cluster.daemon("radosgw", *gateway, ready=lambda: _answers(s3)))
            user = ("--uid=test", "--display-name=test", f"--access-key={KEY}", f"--secret-key={SECRET}")
            cluster.run("radosgw-admin", "user", "create", *user)
            endpoint = f"http://127.0.0.1:{s3}"
            client = boto3.client(
                "s3",
                endpoint_url=endpoint,
                aws_access_key_id=KEY,
                aws_secret_access_key=SECRET,
                region_name="us-east-1",
            )
            client.create_bucket(Bucket="bucket")
            url = f"s3://{KEY}@127.0.0.1:{{port}}/bucket/{{folder}}?tls=off"
            yield Server(url=url, secrets={"secret_key": SECRET}, port=s3, process=process), osds
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _osd(cluster: Ceph, running: ExitStack) -> subprocess.Popen[bytes]:
    number = cluster.run("ceph", "osd", "create").strip()
    (cluster.folder / f"osd.{number}").mkdir()
    cluster.key(f"osd.{number}", mon="allow profile osd", mgr="allow profile osd", osd="allow *")
    cluster.run("ceph", "auth", "add", f"osd.{number}", "-i", cluster.keyring)
    cluster.run("ceph-osd", "-i", number, "--mkfs")

    def is_up() -> bool:
        osds = json.loads(cluster.run("ceph", "osd", "dump", "--format", "json"))["osds"]
        return any(osd["osd"] == int(number) and osd["up"] for osd in osds)

    return running.enter_context(cluster.daemon("ceph-osd", "-i", number, ready=is_up))
