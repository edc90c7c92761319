"""contrib/audit against an index of our own: what it finds, what it cannot ask; silence is taken for neither."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HOLE = {
    "id": "PYSEC-2099-1",
    "aliases": ["CVE-2099-1"],
    "fixed_in": ["9.9"],
    "summary": "reads\nwhat it\tshould not",
    "withdrawn": None,
}


@pytest.fixture
def index():
    """``(url, answers, paths asked for)``; answers by library, a list of vulnerabilities or raw bytes; None is 404."""
    answers, paths = {}, []

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            said = answers.get(self.path.split("/")[2], [])
            self.send_response(404 if said is None else 200)
            self.end_headers()
            body = said if isinstance(said, bytes) else json.dumps({"vulnerabilities": said, "info": {}}).encode()
            self.wfile.write(b"" if said is None else body)

        def log_message(self, *given):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/pypi", answers, paths
    server.shutdown()
    thread.join()
    server.server_close()


def audit(index, *more):
    command = [sys.executable, str(ROOT / "contrib" / "audit"), "--venv", sys.prefix, "--index", index, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_nothing_known(index):
    url, _, paths = index
    done = audit(url)
    assert (done.returncode, done.stdout) == (0, "")
    asked = {path.split("/")[2] for path in paths}
    assert {"trio", "cryptography", "apsw-sqlite3mc", "pyfuse3", "httpx", "h11"} <= asked, "and what those need"
    assert "megafs" not in asked
    assert "ruff" not in asked
    paths.clear()
    assert audit(url, "--all").returncode == 0
    assert "pytest" in {path.split("/")[2] for path in paths}


def test_what_is_known_is_told(index):
    url, answers, _ = index
    answers["trio"] = [HOLE, {**HOLE, "id": "PYSEC-2099-2", "withdrawn": "2099-01-01"}]
    done = audit(url)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert "PYSEC-2099-1, CVE-2099-1 (fixed in 9.9) reads what it should not" in line


@pytest.mark.parametrize("said", [None, b"<html>", b"[]", b'{"vulnerabilities": 7}', b"{}"])
def test_what_cannot_be_asked_is_no_good_news(index, said):
    url, answers, _ = index
    answers["trio"] = said
    done = audit(url)
    assert done.returncode == 3
    assert "1 of " in done.stderr
    assert "trio " in done.stderr


def test_offline():
    done = audit("http://127.0.0.1:9/pypi")
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("audit: nothing is known: http://127.0.0.1:9/pypi told of none of ")
