"""A vault on folders, driven by command lines as its owner does it, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.complaints import complaints
from tests.support.slots import lighten

ROOT = Path(__file__).parent.parent.parent
MEGAFS = [sys.executable, "-m", "megafs"]
LIMIT_S = 120


class Drive:
    """Vault ``v`` of one device on the hosts given."""

    def __init__(self, folder: Path, urls: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.urls = folder, urls
        self.state, self.mountpoint, self.words = folder / "state", folder / "mount", folder / "words"
        self.mountpoint.mkdir()
        self.phrase = folder / "phrase"
        self.phrase.write_text("correct horse\n")
        self.phrase.chmod(0o600)
        self.expected: list[str] = []

    def expect(self, *patterns: str) -> None:
        """What its daemons may complain about in this test."""
        self.expected += patterns

    def complaints(self) -> list[str]:
        """What they complained about beside that, in all their logs; a second vault of the same state included."""
        logs = sorted(path for path in self.state.glob("*/log/*") if path.is_file())
        return [
            line for path in logs for line in complaints(path.read_text(errors="replace").splitlines(), self.expected)
        ]

    def run(self, *arguments: object, status: int = 0, **options) -> subprocess.CompletedProcess[str]:
        return self.run_plain(*arguments, "--state-dir", self.state, status=status, **options)

    def run_plain(self, *arguments: object, status: int = 0, **options) -> subprocess.CompletedProcess[str]:
        """A command that finds the vault by itself."""
        command = [*MEGAFS, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, **options)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done

    def hosts(self, urls: list[str] | None = None) -> list[str]:
        return [part for url in urls or self.urls for part in ("--host", url)]

    def create(self, *more: object) -> None:
        done = self.run("create", "v", *self.hosts(), "--passphrase-file", self.phrase, *more)
        self.words.write_text(done.stdout)

    def attach(self, words: Path, *more: object, urls: list[str] | None = None, status: int = 0):
        given = ["--passphrase-file", self.phrase, "--recovery-key-file", words, "--yes"]
        return self.run("attach", "v", *self.hosts(urls), *given, *more, status=status)

    def set(self, lines: str) -> None:
        """More settings, for the next mount."""
        with (self.state / "v" / "vault.toml").open("a") as settings:
            settings.write(lines)

    def lighten(self) -> None:
        """Its passphrase costs less to open from now on."""
        lighten(self.state / "v" / "slot", self.phrase.read_text().strip())

    def mount(self, *more: object) -> None:
        self.run("mount", "v", self.mountpoint, "--passphrase-file", self.phrase, *more)

    def sync(self) -> None:
        self.run("sync", "v")

    def unmount(self) -> None:
        self.run("unmount", self.mountpoint)

    def told(self, *arguments: object):
        """What a command answers in JSON."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def forget_cache(self) -> None:
        """Not mounted: what was cached must come from hosts again."""
        for pack in (self.state / "v" / "packs").iterdir():
            pack.unlink()

    def close(self) -> None:
        subprocess.run(["fusermount3", "-u", "-q", "-z", str(self.mountpoint)], check=False)
