"""The file systems under test: how each is made, mounted, made cold and taken away. None is installed from here.

Every one gets a fresh directory on the same disk and its own defaults, except that securefs keeps times (as all others
do). MegaFS encrypts, compresses, commits and ships to a directory host, as it always does.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PASSPHRASE = "correct horse battery staple"
MOUNT_S = 60.0
UNMOUNT_S = 300.0


def in_venv() -> None:
    """Go on in the checkout's .venv if there is one: that is where pyfuse3 and MegaFS's other needs are."""
    venv = Path(os.environ.get("MEGAFS_VENV", REPOSITORY / ".venv"))
    if (venv / "bin/python").exists() and Path(sys.prefix).resolve() != venv.resolve():
        os.execv(venv / "bin/python", [str(venv / "bin/python"), *sys.argv])


def end_in_order() -> None:
    """Also when told to end, mounts are taken away."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


class Failed(Exception):
    """A command of a file system under test did not do what it should."""


def command(
    *words: str | Path, text: str = "", env: Mapping[str, str] | None = None, limit_s: float = UNMOUNT_S
) -> str:
    """Run one command to its end; its output goes to a file because daemons keep a pipe open."""
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [str(word) for word in words],
            input=text.encode(),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            timeout=limit_s,
            check=False,
        )
        output.seek(0)
        told = output.read().decode(errors="replace")
    if done.returncode:
        raise Failed(f"{' '.join(str(word) for word in words)}: status {done.returncode}\n{told[-2000:]}")
    return told


def drop_caches() -> bool:
    """Forget clean pages, names and inodes of the whole machine; only root may."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except PermissionError:
        return False
    return True


def is_mounted(path: Path) -> bool:
    """Also if whoever served it has died, when ``os.path.ismount`` says no."""
    place = os.path.realpath(path).replace(" ", r"\040")
    return any(line.split()[1] == place for line in Path("/proc/self/mounts").read_text().splitlines())


class System:
    """One file system under test. ``create``, ``mount`` and ``unmount`` are what differs."""

    name = "native"
    needs: Sequence[str] = ()
    keeps = True  # its content survives unmounting

    def __init__(self, home: Path) -> None:
        self.home = home
        self.mountpoint = home / "mnt"
        self.store = home / "store"

    def version(self) -> str:
        return os.uname().release

    @classmethod
    def missing(cls) -> str:
        """What keeps it from running here, or nothing."""
        return ", ".join(program for program in cls.needs if not shutil.which(program))

    def create(self) -> None:
        """Make an empty file system in ``store``."""

    def mount(self) -> None:
        """Show it at ``mountpoint``."""

    def unmount(self) -> None:
        """Take the mount away and wait until its process is done with the disk."""

    def settle(self) -> None:
        """Finish background work that would disturb the next measurement."""

    def forget(self) -> None:
        """Drop, unmounted, what it keeps of its content outside of ``store``."""

    def start(self) -> Path:
        shutil.rmtree(self.home, ignore_errors=True)
        self.mountpoint.mkdir(parents=True)
        self.store.mkdir()
        self.create()
        self.mount()
        return self.mountpoint

    def stop(self) -> None:
        """Whatever became of it: the next one finds nothing at its place."""
        try:
            self.unmount()
        finally:
            if is_mounted(self.mountpoint):  # it does not let go, or nobody answers there any more
                subprocess.run(["umount", "--lazy", str(self.mountpoint)], capture_output=True, check=False)
            if not is_mounted(self.mountpoint):
                shutil.rmtree(self.home, ignore_errors=True)

    def make_cold(self) -> None:
        """Nothing of the content in RAM: mounted anew, and the kernel's caches dropped."""
        os.sync()
        self.settle()
        if self.keeps:
            self.unmount()
            self.forget()
            drop_caches()
            self.mount()
        else:
            drop_caches()

    def wait_mounted(self) -> None:
        end_s = time.monotonic() + MOUNT_S
        while not os.path.ismount(self.mountpoint):
            if time.monotonic() > end_s:
                raise Failed(f"{self.name} did not mount within {MOUNT_S:.0f} s")
            time.sleep(0.02)


class Native(System):
    """The disk itself, not encrypted."""

    def mount(self) -> None:
        self.mountpoint = self.store


class FuseSystem(System):
    """What ends with fusermount."""

    process: "subprocess.Popen[bytes] | None" = None

    def unmount(self) -> None:
        end_s = time.monotonic() + UNMOUNT_S
        while os.path.ismount(self.mountpoint):
            done = subprocess.run(["umount", str(self.mountpoint)], capture_output=True, check=False)
            if done.returncode and os.geteuid():
                subprocess.run(["fusermount3", "-u", str(self.mountpoint)], capture_output=True, check=False)
            if time.monotonic() > end_s:
                raise Failed(f"{self.name} does not unmount: {done.stderr.decode(errors='replace')}")
            if os.path.ismount(self.mountpoint):
                time.sleep(0.2)
        if self.process is not None:
            self.process.wait(UNMOUNT_S)
            self.process = None


class Ceiling(FuseSystem):
    """contrib/bench/ceiling.py: pyfuse3 with MegaFS's loop and nothing behind it, in memory."""

    name = "ceiling"
    keeps = False
    arguments: Sequence[str] = ()

    def version(self) -> str:
        return "pyfuse3, in memory"

    @classmethod
    def missing(cls) -> str:
        done = subprocess.run([sys.executable, "-c", "import pyfuse3, trio"], capture_output=True, check=False)
        return "pyfuse3" if done.returncode else ""

    def mount(self) -> None:
        words = [sys.executable, str(HERE / "ceiling.py"), str(self.mountpoint), *self.arguments]
        self.process = subprocess.Popen(words)
        self.wait_mounted()


class StockCeiling(Ceiling):
    """The same with trio's own loop."""

    name = "ceiling-stock"
    arguments = ("--stock",)


class Gocryptfs(FuseSystem):
    name = "gocryptfs"
    needs = ("gocryptfs",)

    def version(self) -> str:
        return command("gocryptfs", "--version").split(";")[0]

    def create(self) -> None:
        (self.home / "pass").write_text(PASSPHRASE + "\n")
        command("gocryptfs", "-q", "-init", "-passfile", self.home / "pass", self.store)

    def mount(self) -> None:
        command("gocryptfs", "-q", "-passfile", self.home / "pass", self.store, self.mountpoint)


class Securefs(FuseSystem):
    name = "securefs"
    needs = ("securefs",)

    def version(self) -> str:
        return command("securefs", "version").split("\n")[0]

    def create(self) -> None:
        command("securefs", "create", "--store_time", "--pass", PASSPHRASE, self.store)

    def mount(self) -> None:
        log = self.home / "log"
        command("securefs", "mount", "-b", "--log", log, "--pass", PASSPHRASE, self.store, self.mountpoint)
        self.wait_mounted()


class Encfs(FuseSystem):
    name = "encfs"
    needs = ("encfs",)

    def version(self) -> str:
        return command("encfs", "--version").strip()

    def mount(self) -> None:
        command("encfs", "--standard", "-S", self.store, self.mountpoint, text=PASSPHRASE + "\n")


class Cryfs(FuseSystem):
    name = "cryfs"
    needs = ("cryfs",)

    def version(self) -> str:
        return command("cryfs", "--version", env={"CRYFS_NO_UPDATE_CHECK": "true"}).split("\n")[0]

    def mount(self) -> None:
        env = {"CRYFS_FRONTEND": "noninteractive", "CRYFS_NO_UPDATE_CHECK": "true"}
        env["CRYFS_LOCAL_STATE_DIR"] = str(self.home / "known")  # it remembers stores, and would refuse the next one
        command("cryfs", self.store, self.mountpoint, text=PASSPHRASE + "\n", env=env)


class Rclone(FuseSystem):
    """Keeps whole files, decrypted, in a cache of its own; a file goes to the store five seconds after it is closed."""

    name = "rclone"
    needs = ("rclone",)

    def version(self) -> str:
        return command("rclone", "version").split("\n")[0]

    def mount(self) -> None:
        env = {
            "RCLONE_CONFIG": str(self.home / "none.conf"),
            "RCLONE_CONFIG_BENCH_TYPE": "crypt",
            "RCLONE_CONFIG_BENCH_REMOTE": str(self.store),
            "RCLONE_CONFIG_BENCH_PASSWORD": command("rclone", "obscure", PASSPHRASE).strip(),
            "RCLONE_CACHE_DIR": str(self.home / "cache"),
        }
        command("rclone", "mount", "bench:", self.mountpoint, "--daemon", "--vfs-cache-mode", "full", env=env)
        self.wait_mounted()

    def settle(self) -> None:
        end_s = time.monotonic() + UNMOUNT_S
        while self.has_unsent():
            if time.monotonic() > end_s:
                raise Failed(f"{self.name} keeps files in its cache for more than {UNMOUNT_S:.0f} s")
            time.sleep(0.2)

    def has_unsent(self) -> bool:
        files = (path for path in (self.home / "cache/vfsMeta").rglob("*") if path.is_file())
        return any(b'"Dirty": true' in path.read_bytes() for path in files)

    def forget(self) -> None:
        shutil.rmtree(self.home / "cache", ignore_errors=True)


class MegaFS(FuseSystem):
    """Through its command line, with one directory host on the same disk."""

    name = "megafs"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.host = f"file://{home}/host"
        self.options = ("--passphrase-file", home / "pass", "--state-dir", home / "state")

    @staticmethod
    def megafs(*words: str | Path) -> str:
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
        return command(sys.executable, "-m", "megafs", *words, env={"PYTHONPATH": path})

    @classmethod
    def missing(cls) -> str:
        try:
            cls.megafs("--version")
        except Failed as error:
            return str(error).strip().rsplit("\n", 1)[-1]
        return ""

    def version(self) -> str:
        return self.megafs("--version").strip()

    def create(self) -> None:
        (self.home / "pass").write_text(PASSPHRASE + "\n")
        (self.home / "pass").chmod(0o600)
        (self.home / "host").mkdir()
        told = self.megafs("create", "bench", "--host", self.host, "--json", *self.options)
        words = json.loads(told[told.index("{") : told.rindex("}") + 1])["recovery_key"]
        (self.home / "words").write_text(" ".join(words))

    def mount(self) -> None:
        self.megafs("mount", "bench", self.mountpoint, *self.options)

    def unmount(self) -> None:
        if os.path.ismount(self.mountpoint):
            self.megafs("unmount", self.mountpoint, "--state-dir", self.home / "state")

    def settle(self) -> None:
        self.megafs("sync", "bench", "--state-dir", self.home / "state")


SYSTEMS: Mapping[str, type[System]] = {
    kind.name: kind for kind in (MegaFS, Gocryptfs, Securefs, Encfs, Cryfs, Rclone, Native, Ceiling, StockCeiling)
}
