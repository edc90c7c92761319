"""One vault for the whole run, the seconds of each step, and a tree of more than 10,000 real files."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.vault import Vault, mounted

FILES_WANTED = 10_500
FILE_BYTES_MOST = 1 << 20
SOURCES = ("/usr/include", "/usr/share/doc", "/usr/share/perl", "/usr/lib/python3", "/usr/share", "/usr/lib")
PROGRAMS = (
    *("rsync", "git", "sqlite3", "borg", "restic", "rsnapshot", "tar", "unzip", "zip", "setfacl", "setfattr"),
    *("fio", "stress-ng", "dbench", "faketime", "/usr/sbin/bonnie++", "pg_ctlcluster"),
)

steps: list[tuple[str, float]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.acceptance)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seconds of each step: figures, not assertions."""
    for name, took_s in steps:
        terminalreporter.write_line(f"acceptance: {name}: {took_s:.1f} s")


@pytest.fixture(autouse=True)
def timed(request: pytest.FixtureRequest) -> Iterator[None]:
    began = time.perf_counter()
    yield
    steps.append((request.node.name.removeprefix("test_"), time.perf_counter() - began))


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """A directory on a real disk; gone afterwards."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    assert not missing, f"not installed: {', '.join(missing)}; contrib/test -m acceptance installs them"
    directory = Path(tempfile.mkdtemp(prefix="megafs-acceptance-", dir=os.environ.get("MEGAFS_TEST_DIR")))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def vault(base: Path) -> Iterator[Vault]:
    """Three folders, two copies, mounted."""
    with mounted(base) as vault:
        yield vault
        assert vault.new_complaints() == []


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """A program to its end; what it printed. Fails with everything it said."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{command}: status {done.returncode}: {said[-3000:]}"
    return done.stdout


def same_tree(left: Path, right: Path) -> None:
    """rsync by content, with hard links, ACLs and xattrs, finds nothing to do."""
    flags = "-aHAXcni" if os.geteuid() == 0 else "-aHcni"
    assert run("rsync", flags, "--delete", f"{left}/", f"{right}/") == ""


@pytest.fixture(scope="session")
def tree(base: Path) -> Path:
    """More than 10,000 files of this machine, with what a tree can have besides: links, ACLs, xattrs, holes, odd
    names."""
    root = base / "tree"
    root.mkdir()
    count = 0
    for source in SOURCES:
        for directory, _, names in os.walk(source):
            inside = root / directory.lstrip("/")
            for name in sorted(names):
                path = Path(directory, name)
                if count >= FILES_WANTED or path.is_symlink() or not path.is_file():
                    continue
                if path.stat().st_size <= FILE_BYTES_MOST and not (inside / name).exists():
                    inside.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, inside / name)
                    count += 1
        if count >= FILES_WANTED:
            break
    assert count >= 10_000, f"this machine has only {count} files to copy"
    odd = root / "odd"
    odd.mkdir()
    (odd / ("n" * 255)).write_text("a name of 255 bytes")
    Path(os.fsdecode(bytes(odd) + b"/not \xff utf-8\n")).write_bytes(b"\0" * 5000 + os.urandom(5000))
    os.link(odd / ("n" * 255), odd / "hard link")
    (odd / "dangling").symlink_to("nowhere/" + "x" * 900)
    os.mkfifo(odd / "fifo")
    with open(odd / "sparse", "wb") as sparse:
        sparse.truncate(1 << 30)
        sparse.seek(700_000_001)
        sparse.write(os.urandom(100_000))
    run("setfacl", "-m", "u:1:rw,g:2:r", odd / "hard link")
    run("setfacl", "-d", "-m", "u:1:rwx", odd)
    run("setfattr", "-n", "user.origin", "-v", "somewhere", odd / "sparse")
    os.utime(odd / "sparse", ns=(1, 1_234_567_890_123_456_789))
    (odd / "empty").touch()
    (odd / "set-id").write_text("")
    (odd / "set-id").chmod(0o6755)
    return root


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable
