"""A real mount, real servers, real faults: nothing is lost, each promise is kept, redundancy comes back by itself.

Five hosts, 2 + 2 shards: any two may fail at once. ``--seed N`` for another course of events. Figures are printed.
"""

import errno
import json
import random
import time

import pytest

from tests import servers
from tests.chaos.weather import CALM, WEATHER, Workload, copy_of, secrets_of, sites

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.servers,
    pytest.mark.skipif(not servers.has("sshd"), reason="a machine without an SSH server"),
]
SPELL_S = 3.0  # of one fault
STEPS = 15  # of the workload in it, at most
MOST_S = 240.0  # for redundancy to come back


def settled(drive, wanted, started):
    """Seconds since ``started`` until ``wanted`` (of hosts in JSON) holds."""
    while not wanted(hosts := drive.told("hosts", "v")):
        assert time.monotonic() - started < MOST_S, hosts
        time.sleep(0.5)  # another process works, which no event tells
    return time.monotonic() - started


def scrubbed(drive):
    """A scrub in which every host answers; (bad, repaired) as counted since the vault's beginning."""
    deadline = time.monotonic() + MOST_S
    while True:
        try:
            drive.told("scrub", "v", "--full")
        except AssertionError as error:
            if "do not answer" not in str(error) or time.monotonic() > deadline:
                raise
        else:
            hosts = drive.told("status", "v")["hosts"]
            return sum(host["scrub_bad"] for host in hosts), sum(host["scrub_repaired"] for host in hosts)


def test_chaos(drives, tmp_path, seed):
    chance = random.Random(seed)
    with sites(tmp_path / "servers") as places:
        secrets = secrets_of(places, tmp_path / "secrets.toml")
        drive = drives("first", [site.url for site in places])
        drive.expect("too few hosts answer", "answered with wrong bytes", "cannot be repaired now")
        drive.create("--shards", "2+2", "--secrets-file", secrets, "--cache-size", "64M")
        toml = drive.state / "v" / "vault.toml"
        usual = toml.read_text() + "host_reply_s = 6.0\nread_patience_s = 20.0\npack_idle_s = 0.5\n"
        toml.write_text(usual)
        drive.mount()
        work = Workload(drive.mountpoint, random.Random(seed + 1))

        # The weather: at most two hosts at a time, work goes on, what is read is right.
        course = list(WEATHER)
        chance.shuffle(course)
        for fault in course:
            struck = chance.sample(places, chance.choice((1, 2)))
            for site in struck:
                site.proxy.faults = copy_of(WEATHER[fault])
            end = time.monotonic() + SPELL_S
            for _ in range(STEPS):
                if time.monotonic() < end:
                    work.step()
            time.sleep(max(0.0, end - time.monotonic()))  # the weather lasts as long as it lasts
            for site in struck:
                site.proxy.faults = copy_of(CALM)
        started = time.monotonic()
        drive.sync()
        after_weather_s = time.monotonic() - started
        work.check_all()
        before = scrubbed(drive)
        assert before[0] == before[1]
        packs = max(host["objects"] for host in drive.told("hosts", "v"))
        print(
            f"\nseed {seed}: {work.operations} operations, {len(work.files)} files, {packs} packs on the fullest host"
        )
        print(f"after the weather all was on its hosts in {after_weather_s:.1f} s")

        # Bytes rot in silence on two hosts: scrub finds every one, and makes it anew.
        rotten = 0
        for site in chance.sample(places, 2):
            for path in chance.sample(site.objects(), 2):
                size = path.stat().st_size
                path.write_bytes(bytes(size) if rotten % 2 else path.read_bytes()[: size // 2])
                rotten += 1
        started = time.monotonic()
        assert scrubbed(drive) == (before[0] + rotten, before[1] + rotten)
        print(f"{rotten} rotten objects found and made anew in {time.monotonic() - started:.1f} s")

        # Two hosts away: everything still reads. Three: a clear error, soon, and nothing is worse for it.
        drive.unmount()
        drive.forget_cache()
        away = chance.sample(places, 3)
        for site in away[:2]:
            site.proxy.faults = copy_of(WEATHER["reset"])
        drive.mount()
        started = time.monotonic()
        work.check_all()
        print(f"two hosts away: everything read in {time.monotonic() - started:.1f} s")
        drive.unmount()
        drive.forget_cache()
        toml.write_text(usual.replace("read_patience_s = 20.0", "read_patience_s = 4.0"))
        away[2].proxy.faults = copy_of(WEATHER["hang"])
        drive.mount()
        refused, longest_s = 0, 0.0
        for name in sorted(work.files)[:12]:
            started = time.monotonic()
            try:
                work.check(name)
            except OSError as error:
                refused += error.errno == errno.EIO
            longest_s = max(longest_s, time.monotonic() - started)
        assert refused, "three of five hosts are away: some packs have one shard left"
        assert longest_s < 15
        print(f"three hosts away: {refused} of 12 files EIO, each after at most {longest_s:.1f} s")

        # They are back, and the mount has not been touched: everything is as it was, on every host.
        for site in away:
            site.proxy.faults = copy_of(CALM)
        started = time.monotonic()
        back_s = settled(drive, lambda hosts: {host["state"] for host in hosts} == {"ok"}, started)
        work.check_all()
        print(f"all back after {back_s:.1f} s: {len(work.files)} files compared")
        counted = scrubbed(drive)
        assert counted == (before[0] + rotten, before[1] + rotten)
        drive.unmount()


def test_a_host_is_deleted_and_then_the_machine_is_lost(drives, tmp_path, seed):
    chance = random.Random(seed)
    with sites(tmp_path / "servers") as places:
        secrets = secrets_of(places, tmp_path / "secrets.toml")
        drive = drives("first", [site.url for site in places])
        drive.expect("has been away for too long", "cannot be repaired now")
        drive.create("--shards", "2+2", "--secrets-file", secrets)
        drive.set("host_gone_s = 5.0\nhost_reply_s = 6.0\npack_idle_s = 0.5\n")
        drive.mount()
        work = Workload(drive.mountpoint, random.Random(seed + 1))
        for _ in range(40):
            work.step()
        drive.sync()

        # A host is gone for good, with all it had: written off, its shards are made anew on the others.
        lost = chance.choice(places)
        lost.delete()
        lost.proxy.faults = copy_of(WEATHER["reset"])
        label = next(host["label"] for host in drive.told("hosts", "v") if host["url"] == lost.url)
        started = time.monotonic()
        for _ in range(20):
            work.step()
        noticed_s = settled(drive, lambda hosts: any(host["state"] == "written off" for host in hosts), started)
        whole_s = settled(
            drive,
            lambda hosts: (
                len({host["objects"] for host in hosts if host["label"] != label}) == 1
                and not drive.told("status", "v")["unshipped_commits"]
            ),
            started,
        )
        drive.sync()
        told = json.loads(drive.run("scrub", "v", "--json", status=7).stdout)
        assert {host["label"] for host in told if host["silent"]} == {label}
        assert not any(host["bad"] for host in told)
        print(f"a host deleted: written off after {noticed_s:.1f} s, full redundancy after {whole_s:.1f} s")
        drive.unmount()

        # The machine is lost as well, and one host more.
        left = [site for site in places if site is not lost]
        chance.choice(left).proxy.faults = copy_of(WEATHER["reset"])
        other = drives("second", [site.url for site in places])
        urls = [site.url for site in left if site.proxy.faults == CALM]
        other.attach(drive.words, "--secrets-file", secrets, urls=urls)
        other.mount()
        again = Workload(other.mountpoint, random.Random(0), work.files)
        again.check_all()
        # Control: what differs by one bit is not overlooked by the comparison that all of this rests on.
        name = max(work.files, key=lambda each: len(work.files[each]))
        with (other.mountpoint / name).open("r+b") as file:
            byte = file.read(1)
            file.seek(0)
            file.write(bytes([byte[0] ^ 1]))
        with pytest.raises(AssertionError, match="is not what was written"):
            again.check_all()
        other.unmount()
