"""Real servers on 127.0.0.1 for tests: each a context manager that yields a Server once it answers, and ends it.

rclone, moto_server, wsgidav and weed are test dependencies beside the interpreter; sshd and nginx are the system's.
"""

import hmac
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

START_S = 60.0
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMIK7MDENG"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """``url`` has a ``{folder}`` for a place of one's own; ``root`` is where the server keeps it, if it is files."""

    url: str
    secrets: Mapping[str, str]
    port: int
    root: Path | None = None
    process: subprocess.Popen[bytes] = field(repr=False)

    def place(self, folder: str) -> str:
        return self.url.format(folder=folder, port=self.port)

    def place_through(self, folder: str, port: int) -> str:
        """The same place behind a proxy on another port."""
        return self.url.format(folder=folder, port=port)


def program(name: str) -> str:
    """A program of the test environment, else of the system."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, f"{name} is not installed: pip install 'megafs[test]', or the package of the system"
    return found


def has(name: str) -> bool:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is not None


def free_port() -> int:
    """A port of which the one 10,000 above exists as well: weed takes that for itself."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        if port < 55_000:
            return port


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@contextmanager
def started(folder: Path, *command: str, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the block ends; its output is in ``folder/log``, and in the error of a failed start."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program(command[0]), *command[1:]], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder
        )
    try:
        deadline = time.monotonic() + START_S
        while not ready():
            assert process.poll() is None, f"{command[0]} ended: {log.read_text(errors='replace')[-2000:]}"
            assert time.monotonic() < deadline, f"{command[0]} is silent: {log.read_text(errors='replace')[-2000:]}"
            time.sleep(0.02)  # waits for a foreign process, which no event tells
        yield process
    finally:
        process.terminate()
        try:
            process.wait(3)  # weed takes its time to say goodbye to itself
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def moto(folder: Path) -> Iterator[Server]:
    port = free_port()
    command = ("moto_server", "-H", "127.0.0.1", "-p", str(port))
    with started(folder, *command, ready=lambda: _answers(port)) as process:
        with urlopen(Request(f"http://127.0.0.1:{port}/bucket", method="PUT")) as answer:
            assert answer.status == 200
        url = f"s3://{KEY}@127.0.0.1:{{port}}/bucket/{{folder}}?tls=off"
        yield Server(url=url, secrets={"secret_key": SECRET}, port=port, process=process)


@contextmanager
def rclone(folder: Path, kind: str, *more: str) -> Iterator[Server]:
    """``rclone serve s3|webdav|sftp``, with ``more`` options."""
    port, root = free_port(), folder / "root"
    (root / "bucket").mkdir(parents=True)
    place = ("--addr", f"127.0.0.1:{port}", "--config", "/dev/null")
    extra: tuple[str, ...] = ("--user", "user", "--pass", SECRET)
    secrets, url = {"password": SECRET}, f"{kind}://user@127.0.0.1:{{port}}/{{folder}}"
    if kind == "s3":
        extra = ("--auth-key", f"{KEY},{SECRET}")
        secrets, url = {"secret_key": SECRET}, f"s3://{KEY}@127.0.0.1:{{port}}/bucket/{{folder}}?tls=off"
    elif kind == "sftp":
        key_pair(folder / "host_key")
        known = _known_hosts(folder, folder / "host_key.pub", port)
        extra = (*extra, "--key", str(folder / "host_key"))
        url += f"?known_hosts={known}"
    command = ("rclone", "serve", kind, *place, *extra, *more, str(root))
    with started(folder, *command, ready=lambda: _answers(port)) as process:
        yield Server(url=url, secrets=secrets, port=port, root=root, process=process)


NEWLINES = "\n" * 12
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # the emulator's


@contextmanager
def azurite(folder: Path) -> Iterator[Server]:
    """Microsoft's emulator of Azure Blob Storage (npm install azurite); it checks signatures."""
    port, account = free_port(), "devstoreaccount1"
    command = ("azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder))
    with started(folder, *command, "--skipApiVersionCheck", "--silent", ready=lambda: _answers(port)) as process:
        stamp = formatdate(usegmt=True)
        signed = (
            f"PUT{NEWLINES}x-ms-date:{stamp}\nx-ms-version:2021-08-06\n/{account}/{account}/bucket\nrestype:container"
        )
        signature = hmac.digest(b64decode(AZURE_KEY), signed.encode(), "sha256")
        headers = {"x-ms-date": stamp, "x-ms-version": "2021-08-06"}
        headers["Authorization"] = f"SharedKey {account}:{b64encode(signature).decode()}"
        url = f"http://127.0.0.1:{port}/{account}/bucket?restype=container"
        with urlopen(Request(url, method="PUT", headers=headers)) as answer:
            assert answer.status == 201
        url = f"azblob://{account}@127.0.0.1:{{port}}/bucket/{{folder}}?tls=off&style=path"
        yield Server(url=url, secrets={"account_key": AZURE_KEY}, port=port, process=process)


@contextmanager
def openssh(folder: Path) -> Iterator[Server]:
    """sshd for the user who runs the tests, with a key of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    port, root = free_port(), folder / "root"
    root.mkdir()
    for name in ("host_key", "client_key"):
        key_pair(folder / name)
    shutil.copy(folder / "client_key.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile {folder}/pid\nUsePAM no\n"
        "StrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "MaxStartups 100\nMaxSessions 100\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    known = _known_hosts(folder, folder / "host_key.pub", port)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    url = f"sftp://{user}@127.0.0.1:{{port}}{root}/{{folder}}?key={folder}/client_key&known_hosts={known}"
    command = ("sshd", "-D", "-e", "-f", str(folder / "sshd_config"))
    with started(folder, *command, ready=lambda: _answers(port)) as process:
        yield Server(url=url, secrets={}, port=port, root=root, process=process)


@contextmanager
def wsgidav(folder: Path) -> Iterator[Server]:
    port, root = free_port(), folder / "root"
    root.mkdir(parents=True)
    (folder / "users.yaml").write_text(
        f"simple_dc:\n  user_mapping:\n    '*':\n      user:\n        password: {SECRET}\n"
        f"http_authenticator:\n  accept_digest: false\n  default_to_digest: false\n  accept_basic: true\n"
    )
    command = ("wsgidav", "-H", "127.0.0.1", "-p", str(port), "-r", str(root), "-c", str(folder / "users.yaml"))
    with started(folder, *command, "--server", "cheroot", ready=lambda: _answers(port)) as process:
        url = "webdav://user@127.0.0.1:{port}/{folder}"
        yield Server(url=url, secrets={"password": SECRET}, port=port, root=root, process=process)


@contextmanager
def nginx(folder: Path) -> Iterator[Server]:
    """nginx with its WebDAV modules, one worker, as the user who runs the tests."""
    folder.mkdir(parents=True, exist_ok=True)
    port, root = free_port(), folder / "root"
    root.mkdir()
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "password").write_text(f"user:{{PLAIN}}{SECRET}\n")
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/log;\n"
        "load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;\nevents {}\nhttp {\naccess_log off;\n"
        f"{temporary}server {{\nlisten 127.0.0.1:{port};\nroot {root};\nclient_max_body_size 64m;\n"
        f"auth_basic megafs;\nauth_basic_user_file {folder}/password;\nlocation / {{\n"
        "dav_methods PUT DELETE MKCOL COPY MOVE;\ndav_ext_methods PROPFIND OPTIONS;\n}}}\n"
    )
    command = ("nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "log"))
    with started(folder, *command, ready=lambda: _answers(port)) as process:
        url = "webdav://user@127.0.0.1:{port}/{folder}"
        yield Server(url=url, secrets={"password": SECRET}, port=port, root=root, process=process)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """Master, volume server, filer and S3 gateway in one process; checks signatures."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = [free_port() for _ in range(4)]
    master, volume, filer, s3 = map(str, ports)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = ["weed", "server", "-dir", str(folder), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"]
    command += ["-master.port", master, "-volume.port", volume, "-filer", "-filer.port", filer, "-s3", "-s3.port", s3]
    command += ["-s3.config", str(folder / "s3.json"), "-master.volumeSizeLimitMB", "256", "-volume.max", "8"]
    command += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]  # or they take fixed ports
    with started(folder, *command, ready=lambda: _has_bucket(int(s3), int(filer))) as process:
        url = f"s3://{KEY}@127.0.0.1:{{port}}/bucket/{{folder}}?tls=off"
        yield Server(url=url, secrets={"secret_key": SECRET}, port=int(s3), process=process)


def _has_bucket(s3: int, filer: int) -> bool:
    """Buckets of SeaweedFS are folders of its filer, which needs no signature."""
    try:
        with urlopen(Request(f"http://127.0.0.1:{filer}/buckets/bucket/", method="POST"), timeout=2) as answer:
            return answer.status < 300 and _answers(s3)
    except HTTPError as error:
        return error.code == 409 and _answers(s3)  # it is there since the last question
    except OSError:
        return False


def key_pair(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _known_hosts(folder: Path, public_key: Path, port: int) -> Path:
    kind, key = public_key.read_text().split()[:2]
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    return known
