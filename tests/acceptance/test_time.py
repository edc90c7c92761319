"""Clocks that jump under a live mount, and a daemon that sleeps while its connections die."""

import json
import os
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio

from tests import servers
from tests.mounted.test_machine import patterned
from tests.mounted.vault import HOSTS, Vault, at_work
from tests.support.proxy import Proxy

JUMPS = ("+7d", "-1h", "+400d", "-30d", "+12h", "+0")
TENDED_S = 70.0  # hosts are looked after once a minute
ASLEEP_S = 5.0


def drive(place: Path, settings: str = "", **environment: str) -> AbstractContextManager[Vault]:
    """A vault whose daemon has its own environment; with more lines in vault.toml."""
    return at_work(Vault(base=place, state=place / "state", environment=environment), settings)


def save(path: Path, data: bytes) -> None:
    """Written and fsynced."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(vault: Vault) -> None:
    vault.megafs("sync", vault.name, "--state-dir", str(vault.state), timeout_s=180)


def status(vault: Vault) -> dict[str, object]:
    return json.loads(vault.megafs("status", vault.name, "--json", "--state-dir", str(vault.state)))


def objects(vault: Vault) -> set[str]:
    """Everything that is on hosts."""
    return {name for number in range(HOSTS) for _, _, names in os.walk(vault.host(number)) for name in names}


def fake_clock(stamp: Path) -> dict[str, str]:
    """The wall clock of a process that starts with this says what the file says; the others go on."""
    stamp.write_text("+0")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@pytest.mark.parametrize("retention", [None, 0])
def test_the_clock_jumps(base: Path, retention: int | None) -> None:
    """Hours, a week, more than a year, there and back: writing, shipping and status go on, nothing complains, and hosts
    keep what was deleted as long as they were told. (Without a retention they do not: the control.)"""
    stamp = base / f"clock{retention}"
    settings = "" if retention is None else f"retention_s = {retention}\n"
    with drive(base / f"jumps{retention}", settings, **fake_clock(stamp)) as vault:
        there: set[str] = set()
        for number, jump in enumerate(JUMPS if retention is None else ("+0",) * 3):
            stamp.write_text(jump)
            save(vault.mountpoint / f"file{number}", patterned(300_000, number))
            (vault.mountpoint / f"made{number}").mkdir()
            ahead_s = (vault.mountpoint / f"made{number}").stat().st_mtime - time.time()
            assert abs(ahead_s - seconds(jump)) < 60, "the daemon does not see this clock"
            if number:
                (vault.mountpoint / f"file{number - 1}").unlink()
            began_s = time.monotonic()
            sync(vault)
            assert time.monotonic() - began_s < 60
            assert status(vault)["read_only"] == ""
            there |= objects(vault)
            if jump == "+400d":
                time.sleep(TENDED_S)
        time.sleep(TENDED_S)
        gone = there - objects(vault)
        assert bool(gone) == (retention is not None), f"{len(gone)} objects were deleted"
        assert vault.new_complaints() == []
        newest = number
        vault.kill()
        stamp.write_text("-2d")
        vault.mount()
        assert (vault.mountpoint / f"file{newest}").read_bytes() == patterned(300_000, newest)


def seconds(jump: str) -> float:
    units = {"h": 3600.0, "d": 86_400.0}
    return float(jump.rstrip("hd")) * units.get(jump[-1], 1.0)


@pytest.mark.parametrize("death", ["silent", "told"])
async def test_asleep_while_connections_die(base: Path, death: str) -> None:
    """SIGSTOP is what a suspended machine is to everybody else. The connections to a host do not survive it: one that
    is silently dead costs one ``host_reply_s``, one that is closed costs nothing; then all goes on."""
    with servers.rclone(base / f"server-{death}", "webdav") as server:
        async with Proxy.running(server.port) as proxy:
            with drive(base / f"asleep-{death}", "host_reply_s = 5.0\n") as vault:
                secrets = base / f"secrets-{death}"
                url = server.place_through("vault", proxy.port)
                secrets.write_text(f'["{url}"]\n' + "".join(f'{k} = "{v}"\n' for k, v in server.secrets.items()))
                await in_thread(
                    vault, "hosts", vault.name, "add", url, "--label", "far", "--secrets-file", str(secrets)
                )
                await in_thread(vault, "policy", vault.name, "--copies", "4")
                await trio.to_thread.run_sync(save, vault.mountpoint / "before", patterned(500_000, 1))
                await trio.to_thread.run_sync(sync, vault)
                connections = proxy.connections
                assert connections
                assert vault.daemon is not None
                vault.daemon.send_signal(signal.SIGSTOP)
                proxy.silence()
                if death == "told":
                    proxy.faults.reset = True
                await trio.sleep(ASLEEP_S)
                proxy.faults.reset = False
                vault.daemon.send_signal(signal.SIGCONT)
                await trio.to_thread.run_sync(save, vault.mountpoint / "after", patterned(500_000, 2))
                await trio.to_thread.run_sync(sync, vault)
                assert proxy.connections > connections
                found = await trio.to_thread.run_sync(status, vault)
                assert found["read_only"] == ""
                assert found["unshipped_commits"] == 0
                assert await trio.to_thread.run_sync((vault.mountpoint / "after").read_bytes) == patterned(500_000, 2)


async def in_thread(vault: Vault, *arguments: str) -> None:
    """A subcommand; the loop serves the proxy meanwhile."""
    await trio.to_thread.run_sync(lambda: vault.megafs(*arguments, "--state-dir", str(vault.state)))
