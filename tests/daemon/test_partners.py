"""contrib/partners: the files that it offers, started as they are but for paths, ports, names and secrets. Ordinary
credentials put, read and delete; append-only ones put and read, and are refused when they delete."""

import getpass
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
import pytest

from megafs.errors import HostFull, HostRefused
from megafs.hosts import open_host, stacked
from tests import servers
from tests.contracts.host import NAME

pytestmark = pytest.mark.servers
PARTNERS = Path(__file__).parent.parent.parent / "contrib" / "partners"
OWNER_SECRET, ADMIN_SECRET = "CHANGE-THIS-LONG-RANDOM-SECRET", "CHANGE-THIS-OTHER-LONG-SECRET"  # as the files have them
CONTENT = bytes(range(256)) * 1000


def here(text: str, changes: dict[str, str]) -> str:
    """The text of a file with what only holds for this machine; every change must find something to change."""
    for before, after in changes.items():
        assert before in text, f"{before} is not in the file"
        text = text.replace(before, after)
    return text


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of its own authority for 127.0.0.1, and its key."""
    pem, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", pem], check=True, capture_output=True)
    return pem, key


async def used(url: str, secrets: dict[str, str], *, deletes: bool) -> None:
    """What a vault does there."""
    host = open_host(url, secrets=secrets, label="partner")
    try:
        await host.prepare()
        await host.put(NAME, CONTENT)
        assert await host.get(NAME, 100, 300) == CONTENT[100:300]
        assert [entry async for entry in host.list()] == [(NAME, len(CONTENT))]
        if deletes:
            await host.delete(NAME)
            assert [entry async for entry in host.list()] == []
        else:
            with pytest.raises(HostRefused):
                await host.delete(NAME)
            assert await host.get(NAME) == CONTENT, "it is still there"
    finally:
        await host.aclose()


@contextmanager
def nginx(folder: Path, place: Path | None = None):
    port, root = servers.free_port(), place or folder / "vault"
    folder.mkdir(exist_ok=True)
    (root / ".incoming").mkdir(parents=True)
    pem, key = certificate(folder)
    (folder / "htpasswd").write_text(f"owner:{{PLAIN}}{servers.SECRET}\n")
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/dav.pem": str(pem),
        "/etc/ssl/dav.key": str(key),
        "/etc/nginx/vault.htpasswd": f"{folder}/htpasswd",
        "/srv/vault": str(root),
    }
    (folder / "vault.conf").write_text(here((PARTNERS / "nginx" / "vault.conf").read_text(), changes))
    others = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/log;\n"
        "load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;\nevents {}\n"
        f"http {{\naccess_log off;\n{others}include {folder}/vault.conf;\n}}\n"
    )
    command = ("nginx", "-c", f"{folder}/nginx.conf", "-p", str(folder), "-e", f"{folder}/log")
    with servers.started(folder, *command, ready=lambda: servers._answers(port)):
        yield f"webdavs://owner@127.0.0.1:{port}/{{place}}?ca={pem}"


@pytest.mark.skipif(not servers.has("nginx"), reason="a machine without nginx")
async def test_webdav_by_nginx(tmp_path):
    with nginx(tmp_path / "nginx") as url:
        secrets = {"password": servers.SECRET}
        await used(url.format(place="ordinary"), secrets, deletes=True)
        await used(url.format(place="append"), secrets, deletes=False)
        with pytest.raises(HostRefused):
            await used(url.format(place="ordinary"), {"password": "wrong"}, deletes=True)
        with pytest.raises(HostRefused):
            await used(url.format(place=".incoming"), secrets, deletes=True)


@contextmanager
def limited(folder: Path, mebibytes: int):
    """A folder with the quota that a partner sets."""
    made = Path(tempfile.mkdtemp(dir="/srv", prefix="megafs-test-"))
    place, script = made / "place", folder / "quota"
    folder.mkdir()
    changes = {"/var/lib/megafs-partner": str(folder / "images"), "/etc/fstab": str(folder / "fstab"), "65536": "1024"}
    script.write_text(here((PARTNERS / "quota").read_text(), changes))
    subprocess.run(["/bin/sh", script, place, f"{mebibytes}M", getpass.getuser()], check=True)
    try:
        assert f"{place} ext4 loop" in (folder / "fstab").read_text()
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        shutil.rmtree(made)


async def filled(url: str, secrets: dict[str, str]) -> int:
    """How many MiB it takes before it is full."""
    stack = stacked(open_host(url, secrets=secrets, label="partner"), label="partner", reply_s=20, patience_s=30)
    try:
        await stack.patient.prepare()
        for number in range(100):
            try:
                await stack.patient.put(NAME[:-2] + f"{chr(97 + number // 26)}{chr(97 + number % 26)}", bytes(1 << 20))
            except HostFull:
                assert stack.measured.full
                return number
    finally:
        await stack.aclose()
    return 100


@pytest.mark.needs_root
@pytest.mark.skipif(not servers.has("nginx"), reason="a machine without nginx")
async def test_a_quota_holds_for_webdav(tmp_path):
    with limited(tmp_path / "quota", 32) as place, nginx(tmp_path / "nginx", place) as url:
        assert 15 < await filled(url.format(place="ordinary"), {"password": servers.SECRET}) <= 32


@pytest.mark.needs_root
@pytest.mark.skipif(not servers.has("sshd"), reason="a machine without an SSH server")
async def test_a_quota_holds_for_sftp(tmp_path):
    with limited(tmp_path / "quota", 32) as place, openssh(tmp_path / "vault", place) as (port, url):
        (place / "objects").mkdir()
        command = ("sshd", "-D", "-e", "-f", f"{tmp_path}/vault/vault")
        with servers.started(tmp_path / "log", *command, ready=lambda: servers._answers(port)):
            assert 15 < await filled(url, {}) <= 32


@contextmanager
def openssh(folder: Path, root: Path):
    """Both accounts are the one that runs the tests: useradd is not for a test to run."""
    port, user = servers.free_port(), getpass.getuser()
    folder.mkdir()
    for name in ("host_key", "client_key"):
        servers.key_pair(folder / name)
    Path("/run/sshd").mkdir(exist_ok=True)
    text = (PARTNERS / "openssh" / "vault.conf").read_text()
    base = f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\nPidFile {folder}/pid\nUsePAM no\n"
    for name, kept, dropped in (("vault", 0, 1), ("vault-append", 1, 0)):
        blocks = ["Match User " + block for block in text.split("Match User ")[1:]]
        assert f"Match User {'vault-append' if dropped == 0 else 'vault'}\n" in blocks[kept]
        changes = {
            f"Match User {name}\n": f"Match User {user}\n",
            f"/srv/{name}\n": f"{root}\n",
            f"/etc/ssh/authorized_keys.d/{name}\n": f"{folder}/client_key.pub\n",
        }
        (folder / name).write_text(
            base + "StrictModes no\nSubsystem sftp internal-sftp\n" + here(blocks[kept], changes)
        )
    known = servers._known_hosts(folder, folder / "host_key.pub", port)
    yield port, f"sftp://{user}@127.0.0.1:{port}/objects?key={folder}/client_key&known_hosts={known}"


@pytest.mark.needs_root
@pytest.mark.skipif(not servers.has("sshd"), reason="a machine without an SSH server")
@pytest.mark.skipif(os.geteuid() != 0, reason="a chroot belongs to root")
async def test_sftp_by_openssh(tmp_path):
    with ExitStack() as opened:
        for name, deletes in (("vault", True), ("vault-append", False)):
            root = Path(tempfile.mkdtemp(dir="/srv", prefix="megafs-test-"))
            opened.callback(shutil.rmtree, root)
            root.chmod(0o755)
            (root / "objects").mkdir()
            port, url = opened.enter_context(openssh(tmp_path / name, root))
            command = ("sshd", "-D", "-e", "-f", f"{tmp_path}/{name}/{name}")
            with servers.started(tmp_path / f"log {name}", *command, ready=lambda port=port: servers._answers(port)):
                await used(url, {}, deletes=deletes)
                shell = [
                    "ssh",
                    "-i",
                    f"{tmp_path}/{name}/client_key",
                    "-p",
                    str(port),
                    "-o",
                    "StrictHostKeyChecking=no",
                ]
                shell += ["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", f"{getpass.getuser()}@127.0.0.1"]
                done = subprocess.run(
                    [*shell, "echo", "a shell"], capture_output=True, text=True, check=False, timeout=30
                )
                assert "a shell" not in done.stdout, "no shell"


@contextmanager
def seaweedfs(folder: Path):
    folder.mkdir()
    (folder / "srv").mkdir()
    pem, key = certificate(folder)
    secrets = {OWNER_SECRET: servers.SECRET, ADMIN_SECRET: "admin" + servers.SECRET}
    (folder / "s3.json").write_text(here((PARTNERS / "seaweedfs" / "s3.json").read_text(), secrets))
    ports = {port: str(servers.free_port()) for port in ("9333", "9340", "8888", "8333")}
    changes = {
        "weed server": f"{servers.program('weed')} server",
        "/srv/seaweed": f"{folder}/srv",
        "/etc/megafs-partner/s3.json": f"{folder}/s3.json",
        "/etc/megafs-partner/cert.pem": str(pem),
        "/etc/megafs-partner/key.pem": str(key),
        "-volume.max 0": "-volume.max 8",
        "-master.volumeSizeLimitMB 1024": "-master.volumeSizeLimitMB 64",
        **{f"port {port}": f"port {mine}" for port, mine in ports.items()},
    }
    script = folder / "serve"
    serve = (PARTNERS / "seaweedfs" / "serve").read_text()
    script.write_text(here(serve, changes).replace("(8333)", f"({ports['8333']})"))
    quota = {"weed shell": f"{servers.program('weed')} shell", "9333": ports["9333"]}
    (folder / "quota").write_text(here((PARTNERS / "seaweedfs" / "quota").read_text(), quota))
    s3 = int(ports["8333"])
    with servers.started(folder / "log", "/bin/sh", str(script), ready=lambda: servers._answers(s3)):
        yield s3, pem, folder / "quota"


async def test_s3_by_seaweedfs(tmp_path):
    with seaweedfs(tmp_path / "weed") as (port, pem, quota):
        done = subprocess.run(["/bin/sh", str(quota)], capture_output=True, text=True, check=False, timeout=60)
        assert "vault" in done.stdout + done.stderr
        url = f"s3://OWNER@127.0.0.1:{port}/vault/{{place}}?ca={pem}"
        secrets = {"secret_key": servers.SECRET}
        await used(url.format(place="ordinary"), secrets, deletes=True)
        admin = boto3.client(
            "s3",
            endpoint_url=f"https://127.0.0.1:{port}",
            aws_access_key_id="ADMIN",
            aws_secret_access_key="admin" + servers.SECRET,
            region_name="us-east-1",
            verify=str(pem),
        )
        policy = (PARTNERS / "seaweedfs" / "append-only.json").read_text()
        admin.put_bucket_policy(Bucket="vault", Policy=policy)
        await used(url.format(place="append"), secrets, deletes=False)
        with pytest.raises(HostRefused):
            await used(url.format(place="x"), {"secret_key": "wrong"}, deletes=True)
