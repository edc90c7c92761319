"""What a daemon's log takes: our own words from INFO on, of libraries only what needs a human."""

import os
import subprocess
import sys

import pytest

from tests.security.canary import Scan, canary

LOGGING = """
import logging, sys, trio
from pathlib import Path
from megafs.cli import logs
from megafs.hosts import open_host
from megafs.errors import HostError
from tests.support.liar import Liar, Lie

place, secret, level = sys.argv[1:]

async def main():
    words = (("server", secret), ("www-authenticate", "Basic realm=" + secret))
    async with Liar.running(lambda asked: Lie(status=401, headers=words, body=secret.encode())) as liar:
        for url, secrets in (
            (f"webdav://user@127.0.0.1:{liar.port}/{secret}", {"password": secret}),
            (f"s3://KEY@127.0.0.1:{liar.port}/bucket/{secret}?tls=off", {"secret_key": secret}),
        ):
            host = open_host(url, secrets=secrets, label="label")
            for request in (host.put("a" * 32, b"x"), host.get("a" * 32), host.head("a" * 32), host.usage()):
                try:
                    await request
                except HostError as error:
                    logging.getLogger("megafs.test").warning("refused: %s", error, exc_info=True)
            await host.aclose()

logs.start(Path(place), to_stderr=False, journal=False)
logging.getLogger("megafs.test").info("begun")
if level:
    logging.getLogger().setLevel(level)
trio.run(main)
"""


@pytest.mark.parametrize("level", ["", "INFO"], ids=["as it is", "control"])
def test_the_log_has_no_url_no_secret_and_no_word_of_a_host(tmp_path, level):
    """With every traceback; the control is a log that hears what httpx tells about each request."""
    secret = canary(24)
    command = [sys.executable, "-c", LOGGING, str(tmp_path / "log"), secret, level]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, "PYTHONPATH": os.getcwd()})
    text = (tmp_path / "log" / "megafs.log").read_bytes()
    assert b"begun" in text
    assert text.count(b"refused: label: ") >= 6
    assert text.count(b"Traceback") >= 6
    assert bool(Scan({"secret": secret.encode()}).bytes(text, "log")) == bool(level)
