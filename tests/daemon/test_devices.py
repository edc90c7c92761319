"""Devices as their owner has them: enrolled by a ticket, listed, writing in turn. Command lines on real mounts."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.daemon.drive import LIMIT_S, MEGAFS, ROOT

pytestmark = pytest.mark.mounted
SOON_S = 30


@pytest.fixture
def pair(drives, folders):
    """A vault on two folders, mounted on its first device; a second machine that has nothing yet."""
    urls = [folder.as_uri() for folder in folders[:2]]
    one, two = drives("one device", urls), drives("another", urls)
    two.phrase.write_text("another phrase\n")
    one.create()
    one.lighten()
    one.mount()
    return one, two


@contextmanager
def enrolling(drive, *more):
    """``devices enrol`` at work; yields the process and the file with the words that it printed."""
    command = [
        *MEGAFS,
        "devices",
        "v",
        "enrol",
        "--state-dir",
        str(drive.state),
        "--passphrase-file",
        str(drive.phrase),
    ]
    process = subprocess.Popen(
        [*command, *map(str, more)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        ticket = drive.folder / "ticket"
        ticket.write_text(process.stdout.readline())
        yield process, ticket
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)


def attach(drive, ticket, *more, status=0):
    given = ["--passphrase-file", drive.phrase, "--ticket-file", ticket, "--yes"]
    return drive.run("attach", "v", *drive.hosts(), *given, *more, status=status)


def objects(folders):
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


def wait_for(what):
    end = time.monotonic() + SOON_S
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_a_ticket_makes_another_device_once(pair, drives, folders):
    one, two = pair
    one.expect("took the vault over")
    (one.mountpoint / "f").write_text("from the first")
    one.sync()
    before = objects(folders)
    with enrolling(one) as (process, ticket):
        assert len(ticket.read_text().split()) == 12
        assert len(objects(folders) - before) >= 2, "on every host"
        attach(two, ticket)
        assert process.wait(timeout=LIMIT_S) == 0
    two.lighten()
    two.mount()
    assert (two.mountpoint / "f").read_text() == "from the first"
    (two.mountpoint / "g").write_text("from the second")
    two.sync()
    mine, other = sorted(two.told("devices", "v"), key=lambda device: not device["is_this"])
    assert (mine["is_writing"], other["number"], other["is_writing"]) == (True, 1, False)
    assert mine["label"] == other["label"] == os.uname().nodename
    assert mine["last_seq"] > 0 < other["last_seq"] > 0 < other["seen_s"] <= time.time() < mine["enrolled_s"] + LIMIT_S
    (one.mountpoint / "late").write_text("kept on the first only")
    wait_for(lambda: one.told("status", "v")["read_only"])
    late = wait_for(lambda: one.told("devices", "v", "unshipped"))
    assert late == [{"path": "late", "what": "new"}], "and f, which the second device has seen, is not listed"
    assert two.told("devices", "v", "unshipped") == []
    assert (one.mountpoint / "late").read_text() == "kept on the first only"
    third = drives("third", one.urls)
    assert "opens nothing" in attach(third, ticket, status=3).stderr
    two.unmount()
    shown = two.run("devices", "v", "--passphrase-file", two.phrase).stdout
    assert "this one" in shown, "also of a vault that is not mounted"


def test_a_ticket_ends_with_its_time_with_ctrl_c_and_needs_the_passphrase(pair, folders):
    one, two = pair
    one.sync()
    one.unmount()  # so that nothing else comes or goes
    before = objects(folders)
    with enrolling(one) as (process, ticket):
        assert len(objects(folders) - before) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=LIMIT_S) == 130
    assert objects(folders) == before, "nothing is left of it"
    with enrolling(one) as (process, _):
        process.kill()
        process.wait(timeout=LIMIT_S)
    assert len(objects(folders) - before) == 2, "the control: a kill leaves it on the hosts"
    with enrolling(one):
        assert len(objects(folders) - before) == 2, "and the next ticket removes it"
    assert "opens nothing" in attach(two, ticket, status=3).stderr
    wrong = one.folder / "wrong"
    wrong.write_text("incorrect\n")
    wrong.chmod(0o600)
    one.run("devices", "v", "enrol", "--passphrase-file", wrong, status=3)
    assert objects(folders) == before, "no ticket without it"
    words = one.folder / "words twice"
    words.write_text(ticket.read_text() * 2)
    assert "12 words, these are 24" in attach(two, words, status=3).stderr
    both = one.run("attach", "w", *one.hosts(), "--recovery-key-file", one.words, "--ticket-file", ticket, status=2)
    assert "either" in both.stderr
