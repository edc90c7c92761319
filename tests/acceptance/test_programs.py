"""Steps in order, on one vault: fill it with real programs, let them check their own data, lose the machine, get it
back."""

import os
import shutil
import sqlite3
from pathlib import Path

from tests.acceptance.conftest import run, same_tree
from tests.mounted.vault import Vault

BORG = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
RESTIC = {"RESTIC_PASSWORD": "only a test"}


def test_rsync_there(vault: Vault, tree: Path) -> None:
    run("rsync", "-aHAX", f"{tree}/", f"{vault.mountpoint}/tree/")
    same_tree(tree, vault.mountpoint / "tree")


def test_rsync_back_after_remount(vault: Vault, tree: Path, base: Path) -> None:
    vault.unmount()
    vault.mount()
    run("rsync", "-aHAX", f"{vault.mountpoint}/tree/", f"{base}/back/")
    same_tree(tree, base / "back")
    shutil.rmtree(base / "back")


def test_objects_per_host(vault: Vault) -> None:
    """10,000 files are tens of objects on each host, not thousands."""
    vault.megafs("sync", vault.name, "--state-dir", str(vault.state), timeout_s=300)
    counts = [sum(len(names) for _, _, names in os.walk(vault.base / f"host{number}")) for number in range(3)]
    print("objects per host:", counts)
    assert max(counts) < 100


def test_git(vault: Vault, tree: Path, base: Path) -> None:
    source = base / "source.git"
    run("git", "init", "-q", source)
    run("cp", "-r", tree / "usr/include", source / "include")
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    run("git", "add", "-A", cwd=source)
    run("git", *identity, "commit", "-qm", "all", cwd=source)
    clone = vault.mountpoint / "clone"
    run("git", "clone", "-q", "--no-hardlinks", source, clone)
    run("git", "gc", "-q", "--aggressive", cwd=clone)
    run("git", "fsck", "--full", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""


def test_sqlite(vault: Vault) -> None:
    """WAL mode uses shared memory mapped from the mount."""
    connection = sqlite3.connect(vault.mountpoint / "base.sqlite")
    assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
    for number in range(300):
        with connection:
            connection.execute("INSERT INTO t VALUES (?, ?)", (number, os.urandom(2000)))
    connection.close()
    assert (
        run("sqlite3", vault.mountpoint / "base.sqlite", "PRAGMA integrity_check; SELECT count(*) FROM t")
        == "ok\n300\n"
    )


def test_borg(vault: Vault, tree: Path) -> None:
    repository = vault.mountpoint / "borg"
    run("borg", "init", "--encryption=none", repository, **BORG)
    run("borg", "create", f"{repository}::first", "usr/include", "odd/sparse", cwd=tree, **BORG)
    run("borg", "check", "--verify-data", repository, **BORG)
    out = vault.mountpoint / "borg-out"
    out.mkdir()
    run("borg", "extract", f"{repository}::first", cwd=out, **BORG)
    same_tree(tree / "usr/include", out / "usr/include")


def test_restic(vault: Vault, tree: Path) -> None:
    repository = vault.mountpoint / "restic"
    run("restic", "init", "-r", repository, **RESTIC)
    run("restic", "backup", "-q", "-r", repository, "usr/include", cwd=tree, **RESTIC)
    run("restic", "check", "-q", "--read-data", "-r", repository, **RESTIC)
    out = vault.mountpoint / "restic-out"
    run("restic", "restore", "-q", "-r", repository, "latest", "--target", out, **RESTIC)
    same_tree(tree / "usr/include", out / "usr/include")


def test_rsnapshot(vault: Vault, tree: Path) -> None:
    """Rotation by hard links: three snapshots cost the space of one."""
    settings = vault.base / "rsnapshot.conf"
    lines = [
        "config_version\t1.2",
        f"snapshot_root\t{vault.mountpoint}/snapshots/",
        "cmd_rsync\t/usr/bin/rsync",
        "cmd_cp\t/bin/cp",
        "cmd_rm\t/bin/rm",
        "retain\talpha\t3",
        "link_dest\t0",
        f"backup\t{tree}/usr/include/\there/",
        "",
    ]
    settings.write_text("\n".join(lines))
    for _ in range(3):
        run("rsnapshot", "-c", settings, "alpha")
    snapshots = vault.mountpoint / "snapshots"
    sample = next(path for path in (snapshots / "alpha.0").rglob("*") if path.is_file())
    assert sample.stat().st_nlink == 3
    assert sample.samefile(snapshots / "alpha.2" / sample.relative_to(snapshots / "alpha.0"))


def test_archives(vault: Vault, tree: Path, base: Path) -> None:
    run("tar", "cf", base / "include.tar", "-C", tree / "usr", "include")
    run("zip", "-qr", base / "include.zip", "include", cwd=tree / "usr")
    for program in (("tar", "xf", base / "include.tar"), ("unzip", "-q", base / "include.zip")):
        out = vault.mountpoint / f"out-{program[0]}"
        out.mkdir()
        run(*program, cwd=out)
        run("diff", "-r", tree / "usr/include", out / "include")
    run("cp", "--sparse=always", tree / "odd/sparse", vault.mountpoint / "sparse")
    run("cmp", tree / "odd/sparse", vault.mountpoint / "sparse")
    assert (vault.mountpoint / "sparse").stat().st_blocks * 512 < 2 << 20


def test_pip(vault: Vault, python: str) -> None:
    environment = vault.mountpoint / "venv"
    run(python, "-m", "venv", environment)
    run(environment / "bin/pip", "install", "-q", "--disable-pip-version-check", "rich")
    assert run(environment / "bin/python", "-c", "import rich.table; print('ok')") == "ok\n"


def test_lose_the_machine(vault: Vault, tree: Path) -> None:
    """One folder deleted, another state directory, the 24 words: everything is there again."""
    pieces = ["clone", "borg", "restic", "snapshots", "venv", "sparse", "base.sqlite"]
    kept = vault.base / "kept"
    kept.mkdir()
    run("rsync", "-aHAX", *[vault.mountpoint / piece for piece in pieces], f"{kept}/")
    vault.unmount("--wait")
    shutil.rmtree(vault.base / "host1")
    attached = vault.attach("again", hosts=[0, 2])
    try:
        attached.mount()
        listed = sum(len(names) for _, _, names in os.walk(attached.mountpoint))
        assert listed > 10_000
        same_tree(tree, attached.mountpoint / "tree")
        for piece in pieces:
            run("rsync", "-aHAXcn", kept / piece, f"{attached.mountpoint}/")
        same_tree(kept / "snapshots", attached.mountpoint / "snapshots")
        run("borg", "check", attached.mountpoint / "borg", **BORG)
        attached.unmount()
    finally:
        attached.abandon()
