"""Alarms as their owner meets them: in status, in the log, acknowledged by a command; and the phrase that he compares.

(A36, A37, A41: what is noticed is shown in tests/sync/test_watch.py; here it goes through the command line.)
"""

import json
import shutil
import subprocess

import pytest

from tests.mounted.vault import NotWorking

pytestmark = pytest.mark.mounted
ALARMED = 10


def megafs(vault, *arguments):
    command = vault.command(*arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def written(vault, name):
    (vault.mountpoint / name).write_bytes(name.encode() * 3000)
    vault.megafs("sync", vault.name, "--state-dir", str(vault.state))


def attach(vault, name, *more):
    hosts = [part for n in range(3) for part in ("--host", f"file://{vault.base}/host{n}")]
    key = ["--recovery-key-file", str(vault.recovery_key), "--yes"]
    vault.passphrase.write_text(vault.phrase + "\n")
    return megafs(vault, "attach", name, *hosts, *key, *vault.unlocking, *more)


def test_an_old_state_is_told_until_it_is_acknowledged(guarded):
    """A41."""
    state = guarded.state / guarded.name
    asking = [guarded.name, "--state-dir", str(guarded.state)]
    guarded.mount()
    written(guarded, "one")
    assert megafs(guarded, "status", *asking).returncode == 0
    guarded.unmount("--wait")
    shutil.copytree(state, guarded.base / "old")
    guarded.mount()
    written(guarded, "two")
    guarded.unmount("--wait")
    shutil.rmtree(state)
    shutil.copytree(guarded.base / "old", state)
    guarded.new_complaints()
    guarded.mount()
    assert (guarded.mountpoint / "two").exists(), "brought forward from the hosts"
    shown = megafs(guarded, "status", *asking)
    assert shown.returncode == ALARMED
    assert "ALARM 1" in shown.stdout
    assert f"megafs alarms {guarded.name} --acknowledge N" in shown.stdout
    (alarm,) = json.loads(megafs(guarded, "status", *asking, "--json").stdout)["alarms"]
    assert (alarm["kind"], alarm["n"]) == ("own-state", 1)
    assert alarm["shown_seq"] > alarm["known_seq"] > 0
    assert alarm["known_hash"][:16] in shown.stdout
    assert alarm["shown_hash"][:16] in shown.stdout
    assert any("an older copy of the state directory" in line for line in guarded.new_complaints())
    assert megafs(guarded, "alarms", *asking, "--acknowledge", "7").returncode == 2
    done = megafs(guarded, "alarms", *asking, "--acknowledge", "1")
    assert (done.returncode, "(acknowledged)" in done.stdout) == (0, True)
    assert megafs(guarded, "status", *asking).returncode == 0
    guarded.unmount()
    guarded.mount()  # it stays acknowledged, and in the list
    assert megafs(guarded, "status", *asking).returncode == 0
    assert len(json.loads(megafs(guarded, "alarms", *asking, "--json").stdout)) == 1
    guarded.unmount()


@pytest.mark.crash
def test_a_phrase_tells_an_old_picture_of_all_hosts_from_the_newest(guarded):
    """All hosts together against a new device is what nothing but the phrase can notice (A36 c)."""
    asking = [guarded.name, "--state-dir", str(guarded.state)]
    guarded.mount()
    written(guarded, "one")
    older = megafs(guarded, "status", *asking, "--phrase").stdout.strip()
    for n in range(3):
        shutil.copytree(guarded.base / f"host{n}", guarded.base / f"old{n}")
    written(guarded, "two")
    newest = megafs(guarded, "status", *asking, "--phrase").stdout.strip()
    assert newest.split()[0] != older.split()[0]
    assert len(newest.split()) == 7
    guarded.unmount()
    assert megafs(guarded, "status", *asking, "--phrase").returncode == 8
    misspelled = " ".join([newest.split()[0], *older.split()[1:]])
    refused = attach(guarded, "there", "--expect-phrase", misspelled)
    assert (refused.returncode, "disagree" in refused.stderr) == (9, True)
    assert attach(guarded, "there", "--expect-phrase", "1.2 not a phrase").returncode == 2
    for n in range(3):
        (guarded.base / f"host{n}").rename(guarded.base / f"new{n}")
        (guarded.base / f"old{n}").rename(guarded.base / f"host{n}")
    refused = attach(guarded, "there", "--expect-phrase", newest)
    assert (refused.returncode, "serve an old state" in refused.stderr) == (9, True)
    assert not (guarded.state / "there").exists()
    for n in range(3):
        shutil.rmtree(guarded.base / f"host{n}")
        (guarded.base / f"new{n}").rename(guarded.base / f"host{n}")
    taken = attach(guarded, "there", "--expect-phrase", older)  # the control: an older one is in the newest history
    assert taken.returncode == 0, taken.stderr
    assert f"checkpoint phrase: {newest.split()[0].split('.')[0]}." in taken.stderr


@pytest.mark.crash
def test_a_state_that_wrote_on_elsewhere_is_refused_with_the_way_out(guarded):
    """Two copies of one state directory wrote: the mount names both histories, and repair takes the hosts' one
    (A37)."""
    state = guarded.state / guarded.name
    guarded.mount()
    written(guarded, "common")
    guarded.unmount("--wait")
    shutil.copytree(state, guarded.base / "clone")
    for n in range(3):
        shutil.copytree(guarded.base / f"host{n}", guarded.base / f"world{n}")
    for name in ("mine", "mine too"):
        guarded.mount()
        written(guarded, name)
        guarded.unmount("--wait")
    for n in range(3):  # the other copy meets its own hosts, as they were
        (guarded.base / f"host{n}").rename(guarded.base / f"mine{n}")
        (guarded.base / f"world{n}").rename(guarded.base / f"host{n}")
    shutil.rmtree(state)
    (guarded.base / "clone").rename(state)
    guarded.mount()
    written(guarded, "theirs")
    guarded.unmount("--wait")
    for n in range(3):
        shutil.rmtree(guarded.base / f"host{n}")
        (guarded.base / f"mine{n}").rename(guarded.base / f"host{n}")
    with pytest.raises(NotWorking, match=r"two histories: commit \d+ \(hash [0-9a-f]{16}…\).*attach \w+ --repair"):
        guarded.mount()
    repaired = attach(guarded, guarded.name, "--repair")
    assert repaired.returncode == 0, repaired.stderr
    guarded.new_complaints()
    guarded.mount()
    assert {path.name for path in guarded.mountpoint.iterdir()} == {"common", "mine", "mine too"}
    guarded.unmount()
