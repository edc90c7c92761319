"""Each subcommand against stand-ins: a daemon's entry points in this process, or a control socket in a thread."""

import fcntl
import json
import os
import pty
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import trio

from megafs import cli, errors
from megafs.cli import background, checks, doctor, mount
from megafs.config import MountOptions, Settings, VaultPaths, settings_from
from megafs.control import server
from megafs.control.hostmessages import HostReport, Hosts
from megafs.control.messages import Progress, Status, Synced, message
from megafs.crypto.opened import Opened
from megafs.model import NO_SECRETS, Policy
from tests.cli.conftest import WORDS

REPORT = HostReport(
    label="b", url="file:///b", state="unreachable", stored_bytes=7, objects=2, newest_commit=3, last_error="b: gone"
)
STATUS = Status(
    vault="v",
    mountpoint="/mnt/v",
    files=12,
    bytes=3 << 20,
    unshipped_bytes=2048,
    unshipped_commits=2,
    newest_commit=5,
    cache_bytes=1 << 20,
    cache_limit_bytes=1 << 30,
    hosts=(REPORT,),
)


async def status(request):
    yield STATUS


async def hosts(request):
    yield Hosts(hosts=(REPORT,))


async def sync(request):
    yield Progress(done_bytes=1, total_bytes=2, waiting_for=("b",))
    if not request.local:
        raise errors.Incomplete("2 packs are not on b: it does not answer")
    yield Synced(bytes=2, newest_commit=5)


@contextmanager
def answering(directory, handlers):
    """A control socket in ``directory`` while the body runs, served by a thread."""
    up, down, token = threading.Event(), trio.Event(), []

    async def serve():
        async with server.serving(directory, handlers):
            token.append(trio.lowlevel.current_trio_token())
            up.set()
            await down.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert up.wait(30)
    try:
        yield
    finally:
        trio.from_thread.run_sync(down.set, trio_token=token[0])
        thread.join()


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


# create


def test_create_prints_the_words_once_on_stdout(entries, state, phrase_file, capsys):
    urls = ["file:///a", "file:///b", "file:///c"]
    hosts_said = [part for url in urls for part in ("--host", url)]
    assert run("create", "v", *hosts_said, "--state-dir", state, "--passphrase-file", phrase_file) == 0
    shown = capsys.readouterr()
    assert shown.out.split() == WORDS
    assert not any(word in shown.err.split() for word in WORDS)
    ((paths, arguments),) = entries.calls
    assert paths == VaultPaths(root=state / "v")
    assert arguments == {
        "hosts": urls,
        "policy": Policy(copies=2),
        "passphrase": "correct horse",
        "settings": Settings(),
        "secrets": NO_SECRETS,
    }


def test_create_answers_in_json_and_hands_settings_on(entries, state, phrase_file, capsys):
    chosen = ["--copies", 1, "--no-compression", "--cache-size", "1G", "--json"]
    where = ["--state-dir", state / "deeper", "--passphrase-file", phrase_file]
    assert run("create", "v", "--host", "file:///a", *chosen, *where) == 0
    assert json.loads(capsys.readouterr().out)["recovery_key"] == WORDS
    assert entries.calls[0][1]["settings"] == Settings(compression=False, cache_bytes=1 << 30)
    assert (state / "deeper").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "chosen",
    [
        ["--host", "a", "--copies", "2"],
        ["--host", "a", "--copies", "-1"],
        ["--host", "a", "--shards", "1+1"],
        ["--host", "a", "--host", "b", "--shards", "2"],
        ["--host", "a", "--host", "b", "--shards", "2+0"],
        ["--host", "a", "--host", "b", "--shards", "1+1", "--copies", "2"],
        ["--host", "a", "--host", "a"],
        ["--host", "a", "--cache-size", "much"],
    ],
    ids=" ".join,
)
def test_create_refuses_before_anything_is_made(entries, state, phrase_file, chosen):
    assert run("create", "v", *chosen, "--state-dir", state, "--passphrase-file", phrase_file) == 2
    assert entries.calls == []
    assert list(state.iterdir()) == []


def test_a_cache_below_the_floor_is_refused_with_the_floor(entries, state, vault, phrase_file, tmp_path, capsys):
    where = ["--state-dir", state, "--passphrase-file", phrase_file]
    for size, status in (("1", 2), ("63M", 2), ("64M", 0)):
        assert run("create", "w", "--host", "file:///a", "--cache-size", size, *where) == status
        assert ("at least 64 MiB" in capsys.readouterr().err) == (status == 2)
    assert run("mount", "v", tmp_path, "--cache-size", "1M", *where) == 2
    assert "at least 64 MiB" in capsys.readouterr().err
    with pytest.raises(errors.Usage, match="at least 64 MiB"):
        settings_from("cache_bytes = 1\n")


def test_create_keeps_an_existing_vault(entries, vault, phrase_file):
    before = vault.slot.read_bytes()
    assert run("create", "v", "--host", "a", "--state-dir", vault.root.parent, "--passphrase-file", phrase_file) == 4
    assert vault.slot.read_bytes() == before
    assert entries.calls == []


# mount


def mounting(vault, phrase_file, directory, *more):
    return run("mount", "v", directory, "--state-dir", vault.root.parent, "--passphrase-file", phrase_file, *more)


def test_mount_hands_the_opened_slot_to_the_daemon(entries, vault, phrase_file, tmp_path, capsys):
    directory = tmp_path / "m"
    directory.mkdir()
    chosen = ["--foreground", "--read-only", "--allow-other", "--cache-size", "200M", "--flags", "nosuid,noexec"]
    assert mounting(vault, phrase_file, directory, *chosen) == 0
    ((paths, arguments),) = entries.calls
    assert paths == vault
    assert arguments["opened"].body == b"body"
    assert arguments["mountpoint"] == directory
    assert arguments["options"] == MountOptions(
        read_only=True, allow_other=True, cache_bytes=200 << 20, flags=("nosuid", "noexec")
    )
    assert capsys.readouterr().out == ""


def test_mount_with_a_wrong_passphrase_changes_nothing(entries, vault, tmp_path, capsys):
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    before = {path: path.read_bytes() for path in vault.root.rglob("*")}
    assert mounting(vault, wrong, tmp_path, "--foreground") == 3
    assert capsys.readouterr().err.splitlines()[-1] == "megafs: The passphrase is wrong."
    assert {path: path.read_bytes() for path in vault.root.rglob("*")} == before
    assert entries.calls == []


def test_mount_with_a_damaged_slot(entries, vault, phrase_file, tmp_path, capsys):
    damaged = bytearray(vault.slot.read_bytes())
    damaged[40] ^= 1
    vault.slot.write_bytes(damaged)
    assert mounting(vault, phrase_file, tmp_path, "--foreground") == 3
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["setuid", "noexec,allow_other", "fsname=x"])
def test_mount_hands_no_other_flag_to_the_kernel(entries, vault, phrase_file, tmp_path, flags):
    assert mounting(vault, phrase_file, tmp_path, "--foreground", "--flags", flags) == 2
    assert entries.calls == []


def test_mount_needs_a_directory_and_a_vault(entries, vault, phrase_file, tmp_path):
    assert mounting(vault, phrase_file, tmp_path / "absent", "--foreground") == 2
    assert run("mount", "other", tmp_path, "--state-dir", vault.root.parent) == 4


def test_mount_waits_for_a_daemon_that_ends(vault):
    mount.wait_for_former(vault, 0)  # never mounted
    with open(vault.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(errors.Busy):
            mount.wait_for_former(vault, 0.1)
        ending = threading.Timer(0.2, fcntl.flock, (lock, fcntl.LOCK_UN))
        ending.start()
        mount.wait_for_former(vault, 30)
        ending.join()
    mount.wait_for_former(vault, 0)


def test_allow_other_is_allowed_by_a_line_of_its_own(tmp_path):
    settings = tmp_path / "fuse.conf"
    for text, allowed in (("#user_allow_other\n", False), ("user_allow_other\n", True), ("mount_max = 5", False)):
        settings.write_text(text)
        assert mount.others_allowed(settings) is allowed
    assert not mount.others_allowed(tmp_path / "absent")


# the daemon's process


OPENED = Opened(body=b"body", key=bytes(32))


def order(vault):
    return background.Order(
        root=os.fsencode(vault.root),
        mountpoint=b"/m\xff",
        options=MountOptions(flags=("nosuid",)),
    )


def test_the_order_brings_everything_and_ready_is_said_once(entries, vault):
    said = []
    assert background.serve(order(vault), OPENED, said.append, run=entries.run) == 0
    assert said == [b"ready\n"]
    paths, arguments = entries.calls[0]
    assert paths == vault
    assert os.fsencode(arguments["mountpoint"]) == b"/m\xff"
    assert arguments["options"].flags == ("nosuid",)


def test_a_daemon_that_fails_says_why(entries, vault):
    said = []
    entries.error = errors.Busy("the vault is in use")
    assert background.serve(order(vault), OPENED, said.append, run=entries.run) == 5
    assert message(said[0][:-1]).sentence == "the vault is in use"


def test_a_failure_out_of_nurseries_is_one_sentence(entries, vault):
    said = []
    entries.error = ExceptionGroup("n", [ExceptionGroup("m", [errors.HostFull("b: full")])])
    assert background.serve(order(vault), OPENED, said.append, run=entries.run) == 6
    assert message(said[0][:-1]).sentence == "b: full"
    entries.error = ExceptionGroup("n", [errors.HostFull("b: full"), ZeroDivisionError()])
    with pytest.RaisesGroup(ZeroDivisionError):
        background.serve(order(vault), OPENED, said.append, run=entries.run)


# status, hosts, sync


def test_status_for_people(vault, capsys):
    with answering(vault.root, {"status": status}):
        assert run("status", "v", "--state-dir", vault.root.parent) == 0
    shown = capsys.readouterr().out
    for part in ("mounted on /mnt/v", "12 with 3.0 MiB", "2.0 KiB in 2 commits", "unreachable", "b: gone", "1.0 GiB"):
        assert part in shown


def test_status_for_machines(vault, capsys):
    with answering(vault.root, {"status": status}):
        assert run("status", "v", "--json", "--state-dir", vault.root.parent) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mounted"] is True
    assert found["unshipped_bytes"] == 2048
    assert found["hosts"][0]["last_error"] == "b: gone"


def test_status_of_all_names_those_not_mounted(vault, capsys):
    state = vault.root.parent
    assert run("status", "--state-dir", state) == 0
    assert capsys.readouterr().out == "v: not mounted\n"
    assert run("status", "--json", "--state-dir", state) == 0
    assert json.loads(capsys.readouterr().out) == [{"vault": "v", "directory": str(vault.root), "mounted": False}]
    assert run("status", "other", "--state-dir", state) == 4


def test_hosts(vault, capsys):
    state = vault.root.parent
    assert run("hosts", "v", "--state-dir", state) == 8
    with answering(vault.root, {"hosts": hosts}):
        assert run("hosts", "v", "--state-dir", state) == 0
        shown = capsys.readouterr().out.splitlines()
        assert run("hosts", "v", "--json", "--state-dir", state) == 0
    assert shown[0].split() == ["host", "state", "stored", "free", "objects", "commit", "latency"]
    assert shown[2] == "  last error: b: gone"
    assert json.loads(capsys.readouterr().out)[0]["state"] == "unreachable"


def test_sync_tells_what_is_not_there(vault, capsys):
    with answering(vault.root, {"sync": sync}):
        assert run("sync", "v", "--state-dir", vault.root.parent) == 7
        shown = capsys.readouterr()
        assert shown.err == "megafs: 2 packs are not on b: it does not answer\n"
        assert run("sync", "v", "--local", "--state-dir", vault.root.parent) == 0
    assert capsys.readouterr().out == "everything is on this device's disk\n"


def test_sync_shows_a_bar_on_a_terminal(vault):
    async def shipping(request):
        yield Progress(done_bytes=1 << 20, total_bytes=4 << 20)
        yield Progress(done_bytes=2 << 20, total_bytes=4 << 20, waiting_for=("b",))
        yield Synced(bytes=4 << 20, newest_commit=5)

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "megafs", "sync", "v", "--state-dir", str(vault.root.parent)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with answering(vault.root, {"sync": shipping}):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=60, check=True)
    os.close(theirs)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert "shipping (waiting for b)" in shown
    assert "2.0/4.0 MiB" in shown
    assert done.stdout == b"everything is on its hosts, up to commit 5\n"


# unmount


def test_unmount_where_nothing_is_mounted(tmp_path, capsys):
    assert run("unmount", tmp_path) == 8
    assert "no vault is mounted" in capsys.readouterr().err


# attach

WORDS_TEXT = (
    "1. abandon 2. abandon\n" + "ABANDON\t" * 21 + "\n24) art"  # the words of 32 zero bytes, in an ugly layout
)


def attaching(state, phrase_file, text, *more):
    file = phrase_file.parent / "words"
    file.write_text(text)
    where = ["--state-dir", state, "--passphrase-file", phrase_file, "--recovery-key-file", file]
    return run("attach", "v", "--host", "file:///a", "--host", "file:///b", *where, *more)


def test_attach_takes_any_layout_of_the_words(entries, state, phrase_file):
    assert attaching(state, phrase_file, WORDS_TEXT, "--yes") == 0
    arguments = entries.calls[0][1]
    assert entries.agreed
    assert arguments["hosts"] == ["file:///a", "file:///b"]
    assert arguments["key"].words() == ["abandon"] * 23 + ["art"]


@pytest.mark.parametrize("text", ["", "abandon " * 23, "abandon " * 24, "xyzzy " * 24, "\xff" * 99, "a" * 20_000])
def test_attach_with_wrong_words_is_one_sentence(entries, state, phrase_file, text, capsys):
    assert attaching(state, phrase_file, text, "--yes") in (2, 3)
    assert capsys.readouterr().err.count("\n") == 1
    assert entries.calls == []


def test_attach_asks(entries, state, phrase_file, monkeypatch):
    class Typed:
        def __init__(self, line):
            self.line = line

        def isatty(self):
            return True

        def readline(self):
            return self.line

    for line, agreed in (("\n", False), ("", False), ("n\n", False), ("y\n", True)):
        monkeypatch.setattr("sys.stdin", Typed(line))
        assert attaching(state, phrase_file, WORDS_TEXT) == 0
        assert entries.agreed is agreed
        (state / "v").rmdir()


def test_attach_without_a_terminal_needs_yes(entries, state, phrase_file, capsys):
    assert attaching(state, phrase_file, WORDS_TEXT) == 2
    assert "--yes" in capsys.readouterr().err


# doctor


def test_doctor_finds_this_machine_ready(state, capsys):
    assert run("doctor", "--state-dir", state, "--json") == 0
    found = {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["fuse device"]["state"] == "ok"
    assert "pyfuse3 3." in found["versions"]["detail"]


def test_doctor_names_what_is_wrong_and_the_cure(vault, capsys):
    vault.slot.chmod(0o644)
    assert run("doctor", "--state-dir", vault.root.parent) == 8
    shown = capsys.readouterr()
    assert f"chmod go= {vault.slot}" in shown.out
    assert shown.err == "megafs: this machine is not ready: vault v\n"


def test_doctor_checks_each_thing(tmp_path, vault):
    assert checks.device(tmp_path / "absent").state == "wrong"
    assert "modprobe" in checks.device(tmp_path / "absent").cure
    assert checks.state_directory(tmp_path / "new" / "deep").state == "ok"
    assert checks.state_directory(vault.root).state == "ok"
    assert checks.vault_directory(vault).state == "ok"
    vault.index.touch()
    made = vault.index.stat().st_mtime
    assert checks.clock([vault], made).state == "ok"
    assert checks.clock([vault], made - 3600).state == "wrong"
    assert checks.clock([], 0).state == "wrong"
    assert {finding.state for finding in doctor.examined(tmp_path)} <= {"ok", "note"}
