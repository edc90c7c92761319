"""A locked screen locks the vault: a private bus with a logind of our own on it."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress

import pytest
import trio
from jeepney import DBusAddress, MessageType, new_method_call, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import Proxy, open_dbus_connection

from megafs.daemon import screen
from tests.daemon.test_lock import wait_until

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="a machine without dbus-daemon")
CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>custom</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>"""
MINE, THEIRS = "/org/freedesktop/login1/session/_1", "/org/freedesktop/login1/session/_2"
DEBUG = "org.freedesktop.DBus.Debug"
PROPERTIES = "org.freedesktop.DBus.Properties"


@pytest.fixture
def bus(tmp_path, monkeypatch):
    """The address of a bus that is the system's for us."""
    configuration = tmp_path / "bus.conf"
    configuration.write_text(CONFIGURATION.format(path=tmp_path / "bus"))
    command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        address = daemon.stdout.readline().decode().strip()
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        yield address
        daemon.send_signal(signal.SIGTERM)


class Logind:
    """Owns logind's name, and knows whose sessions there are. Blocking: used from threads."""

    def __init__(self, address, name=screen.LOGIND):
        self.connection = open_dbus_connection(bus=address)
        Proxy(message_bus, self.connection).RequestName(name)

    def serve(self, count, limit_s=10.0):
        """Answer so many questions of the watcher."""
        for _ in range(count):
            asked = self.connection.receive(timeout=limit_s)
            while asked.header.message_type is not MessageType.method_call:
                asked = self.connection.receive(timeout=limit_s)
            path = asked.header.fields[1]
            user = os.geteuid() if path == MINE else os.geteuid() + 1
            self.connection.send(new_method_return(asked, "v", (("(uo)", (user, "/")),)))

    def tell(self, path, interface, member, *body):
        self.connection.send(new_signal(DBusAddress(path, interface=interface), member, *body))

    def hint(self, path, interface, **changed):
        body = (interface, {name: ("b", value) for name, value in changed.items()}, [])
        self.tell(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def close(self):
        self.connection.close()


async def heard(bus, act, questions):
    """How often the watcher says that the screen was locked while ``act(logind)`` tells and it is asked back."""
    logind = await trio.to_thread.run_sync(Logind, bus)
    times = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(screen.watch, lambda: times.append(1))
        await subscribed(bus)
        await trio.to_thread.run_sync(act, logind)
        await trio.to_thread.run_sync(logind.serve, questions)
        with trio.move_on_after(5):
            while not times:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    logind.close()
    return len(times)


async def subscribed(bus):
    """Until the watcher has asked the bus for both kinds of signals."""
    stats = DBusAddress("/org/freedesktop/DBus", bus_name="org.freedesktop.DBus", interface=f"{DEBUG}.Stats")

    def rules():
        with open_dbus_connection(bus=bus) as connection:
            (by_name,) = connection.send_and_get_reply(new_method_call(stats, "GetAllMatchRules")).body
            return sum(len(each) for each in by_name.values())

    with trio.fail_after(10):
        while await trio.to_thread.run_sync(rules) < 2:
            await trio.sleep(0.01)


LOCKS = {
    "the signal": lambda logind: logind.tell(MINE, screen.SESSION, "Lock"),
    "the hint": lambda logind: logind.hint(MINE, screen.SESSION, LockedHint=True),
    "after somebody else's": lambda logind: (
        logind.tell(THEIRS, screen.SESSION, "Lock"),
        logind.tell(MINE, screen.SESSION, "Lock"),
    ),
}


@pytest.mark.parametrize("name", LOCKS)
async def test_it_is_heard(bus, name):
    assert await heard(bus, LOCKS[name], 2 if "else" in name else 1) == 1


NO_LOCKS = {
    "another user's session": lambda logind: logind.tell(THEIRS, screen.SESSION, "Lock"),
    "unlocked": lambda logind: (
        logind.hint(MINE, screen.SESSION, LockedHint=False),
        logind.tell(MINE, screen.SESSION, "Unlock"),
    ),
    "idle": lambda logind: logind.hint(MINE, screen.SESSION, IdleHint=True),
    "another interface": lambda logind: logind.hint(MINE, "org.example", LockedHint=True),
}


@pytest.mark.parametrize("name", NO_LOCKS)
def test_what_is_no_lock_of_ours(name):
    """Without a bus: each message is looked at as it would arrive."""
    sent = []

    class Recording(Logind):
        def __init__(self):
            pass

        def tell(self, path, interface, member, *body):
            sent.append(new_signal(DBusAddress(path, interface=interface), member, *body))

    NO_LOCKS[name](Recording())
    assert sent
    for message in sent:
        assert screen.says_locked(message) is (name == "another user's session")


async def test_who_is_not_logind_is_not_heard(bus):
    def act(logind):
        stranger = Logind(bus, "org.example.stranger")
        stranger.tell(MINE, screen.SESSION, "Lock")
        stranger.close()
        logind.tell(MINE, screen.SESSION, "Lock")

    assert await heard(bus, act, 1) == 1


@pytest.mark.mounted
def test_a_mount_locks_with_the_screen(bus, drives, folders):
    drive = drives("first", [folders[0].as_uri()])
    drive.create()
    drive.set("lock_with_screen = true\n")
    logind = Logind(bus)  # before the mount, which listens to who has its name then
    drive.mount()

    def told():
        logind.tell(MINE, screen.SESSION, "Lock")
        with suppress(TimeoutError):
            logind.serve(1, limit_s=0.2)
        return drive.told("status", "v")["locked"]

    wait_until(told)
    logind.close()
    drive.run("unlock", "v", "--passphrase-file", drive.phrase)
    drive.unmount()


async def test_without_a_bus_it_says_so_once(monkeypatch, caplog, tmp_path, autojump_clock):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    with trio.move_on_after(10 * screen.AGAIN_S):
        await screen.watch(lambda: None)
    assert caplog.text.count("no logind answers") == 1


async def test_a_logind_that_comes_later_is_heard(bus, monkeypatch, caplog):
    monkeypatch.setattr(screen, "AGAIN_S", 0.05)
    async with trio.open_nursery() as nursery:
        heard_it = trio.Event()
        nursery.start_soon(screen.watch, heard_it.set)
        with trio.fail_after(10):
            while "no logind answers" not in caplog.text:
                await trio.sleep(0.01)
        logind = await trio.to_thread.run_sync(Logind, bus)
        await subscribed(bus)
        logind.tell(MINE, screen.SESSION, "Lock")
        await trio.to_thread.run_sync(logind.serve, 1)
        with trio.fail_after(10):
            await heard_it.wait()
        nursery.cancel_scope.cancel()
    logind.close()
