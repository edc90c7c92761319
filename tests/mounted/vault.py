"""One vault made, mounted, killed and unmounted through the real command line, for the tests that need a mount.

Everything lives below one directory: state, three host folders, the passphrase file and the mount point. The daemon
runs in the foreground as a child of the test, so that a kill hits exactly it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.complaints import complaints
from tests.support.slots import lighten

repository = Path(__file__).parents[2]
MOUNT_S = 120.0  # a second; where ten others compute, a minute
UNMOUNT_S = 60.0
HOSTS = 3
PHRASE = "correct horse battery staple"


class NotWorking(AssertionError):
    """The command line did not do what was asked; the message holds what it said."""


@dataclass(slots=True, kw_only=True)
class Vault:
    """A vault named ``name``; owner of the daemon process while it is mounted."""

    base: Path
    state: Path
    name: str = "drive"
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)  # of the daemon, beside the test's own
    hosts_in: Path | None = None  # where the host folders are; None: in ``base``
    daemon: subprocess.Popen[bytes] | None = field(default=None, init=False)
    log_read: dict[Path, int] = field(default_factory=dict, init=False)
    expected: list[str] = field(default_factory=list, init=False)  # what its daemons may complain about

    @property
    def mountpoint(self) -> Path:
        return self.base / "mount"

    def host(self, number: int) -> Path:
        return (self.hosts_in or self.base) / f"host{number}"

    @property
    def passphrase(self) -> Path:
        return self.base / "passphrase"

    def command(self, *arguments: str) -> list[str]:
        """The command line of one megafs subcommand."""
        return [sys.executable, "-m", "megafs", *arguments]

    def megafs(self, *arguments: str, timeout_s: float = UNMOUNT_S) -> str:
        """Run one subcommand to its end; returns its stdout."""
        done = subprocess.run(
            self.command(*arguments), cwd=repository, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode:
            raise NotWorking(f"megafs {' '.join(arguments)}: status {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def create(self) -> None:
        """Make the vault on three local folders."""
        self.mountpoint.mkdir()
        self.passphrase.write_text(f"{PHRASE}\n")
        self.passphrase.chmod(0o600)
        hosts = []
        for number in range(HOSTS):
            folder = self.host(number)
            folder.mkdir()
            hosts += ["--host", f"file://{folder}"]
        self.recovery_key.write_text(self.megafs("create", self.name, *hosts, *self.unlocking))
        self.recovery_key.chmod(0o600)
        lighten(self.state / self.name / "slot", self.passphrase.read_text().strip())

    @property
    def recovery_key(self) -> Path:
        return self.base / "recovery-key"

    def attach(self, place: str, hosts: Sequence[int]) -> "Vault":
        """Another machine: the same vault in a state directory of its own, from some of the hosts and the words."""
        base = self.base / place
        there = Vault(base=base, state=base / "state", options=self.options, hosts_in=self.hosts_in or self.base)
        there.mountpoint.mkdir(parents=True)
        shutil.copy(self.passphrase, there.passphrase)
        shutil.copy(self.recovery_key, there.recovery_key)
        urls = [part for number in hosts for part in ("--host", f"file://{self.host(number)}")]
        key = ["--recovery-key-file", str(self.recovery_key), "--yes"]
        there.megafs("attach", there.name, *urls, *key, *there.unlocking, timeout_s=10 * UNMOUNT_S)
        return there

    @property
    def unlocking(self) -> list[str]:
        """The options that every subcommand which opens the vault takes."""
        return ["--state-dir", str(self.state), "--passphrase-file", str(self.passphrase)]

    def mount(self) -> None:
        """Start the daemon and wait until the mount answers."""
        assert self.daemon is None, "mounted already"
        arguments = ["mount", self.name, str(self.mountpoint), "--foreground", *self.options, *self.unlocking]
        with (self.base / "daemon.out").open("ab") as said:
            environment = {**os.environ, **self.environment}
            self.daemon = subprocess.Popen(
                self.command(*arguments), cwd=repository, stdout=said, stderr=said, env=environment
            )
        limit = time.monotonic() + MOUNT_S
        while not answers(self.mountpoint):
            if self.daemon.poll() is not None:
                status, self.daemon = self.daemon.poll(), None
                raise NotWorking(f"mount: status {status}: {self.said()}")
            if time.monotonic() > limit:  # abandon() ends it
                raise NotWorking(f"mount: no answer: {self.said()}")
            time.sleep(0.02)  # waits for another process

    def said(self) -> str:
        """The end of what the daemon wrote to its terminal and log."""
        texts = [
            path.read_text(errors="replace")[-4000:]
            for path in (self.base / "daemon.out", *self.logs())
            if path.exists()
        ]
        return "\n".join(texts)

    def unmount(self, *flags: str) -> None:
        """The ordered end: unmount, and the daemon has closed everything when this returns."""
        daemon = self.daemon
        assert daemon is not None, "not mounted"
        try:
            self.unmount_when_free(*flags)
            status = daemon.wait(UNMOUNT_S)
        finally:
            self.abandon()
        if status:
            raise NotWorking(f"the daemon ended with status {status}: {self.said()}")

    def unmount_when_free(self, *flags: str) -> None:
        """Programs that look into every mount of a machine (stress-ng does) may keep it busy for a moment."""
        limit = time.monotonic() + MOUNT_S
        while True:
            try:
                self.megafs("unmount", *flags, str(self.mountpoint), timeout_s=10 * UNMOUNT_S)
                return
            except NotWorking as error:
                if "is in use by stress-ng" not in str(error) or time.monotonic() > limit:
                    raise

    def kill(self) -> None:
        """kill -9 of the daemon; the dead mount is cleared by the next ``mount``."""
        assert self.daemon is not None, "not mounted"
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()
        self.daemon = None

    def abandon(self) -> None:
        """Whatever happened: no daemon and no mount is left behind."""
        daemon, self.daemon = self.daemon, None
        if is_mounted(self.mountpoint):
            subprocess.run(["fusermount3", "-uz", str(self.mountpoint)], check=False, capture_output=True)
        if daemon is not None and daemon.poll() is None:
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def logs(self) -> list[Path]:
        """The daemon's log files, oldest first."""
        return sorted((self.state / self.name / "log").glob("megafs.log*"), reverse=True)

    def new_complaints(self) -> list[str]:
        """WARNING and ERROR lines logged since the last call, but what is expected."""
        found = []
        for path in self.logs():
            read = self.log_read.get(path, 0)
            with path.open("rb") as log:
                log.seek(read if path.stat().st_size >= read else 0)
                lines = [line.decode(errors="replace").rstrip() for line in log]
                found += complaints(lines, self.expected)
                self.log_read[path] = log.tell()
        return found

    def check_quiet(self) -> None:
        """A WARNING in the daemon's log needs a human, so an unexpected one fails the test that caused it."""
        unexpected = self.new_complaints()
        assert not unexpected, "\n".join(unexpected)


def answers(mountpoint: Path) -> bool:
    """Whether a mount is there and its daemon too; statvfs asks it, while stat of a dead mount may come from a
    cache."""
    try:
        os.statvfs(mountpoint)
    except OSError:
        return False
    return os.path.ismount(mountpoint)


def is_mounted(mountpoint: Path) -> bool:
    """Whether the kernel's table has it, dead or alive."""
    return f" {mountpoint} " in Path("/proc/self/mounts").read_text()


@contextmanager
def mounted(base: Path, *options: str) -> Iterator[Vault]:
    """A fresh vault below ``base``, mounted; unmounted in order at the end, with nothing unexpected in its log."""
    vault = Vault(base=base, state=base / "state", options=options)
    vault.create()
    try:
        vault.mount()
        yield vault
        if vault.daemon is not None:
            vault.unmount()
        vault.check_quiet()
    finally:
        vault.abandon()


@contextmanager
def at_work(vault: Vault, settings: str = "") -> Iterator[Vault]:
    """A vault of any kind below a folder of its own, with more lines in vault.toml."""
    vault.base.mkdir()
    vault.create()
    with (vault.state / vault.name / "vault.toml").open("a") as file:
        file.write(settings)
    try:
        vault.mount()
        yield vault
        vault.unmount()
        vault.check_quiet()
    finally:
        vault.abandon()
