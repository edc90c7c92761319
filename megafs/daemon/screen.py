"""The screen of this user was locked: heard from logind on the system bus, if there is one.

Two ways in which desktops say so: the signal ``Lock`` of a session, and its property ``LockedHint``. Both count only
from who owns the name org.freedesktop.login1, and only of sessions of our own user.
"""

import logging
import os
from collections.abc import Callable

import trio
from jeepney import (  # type: ignore[import-untyped]
    DBusAddress,
    HeaderFields,
    MatchRule,
    Message,
    MessageType,
    Properties,
    message_bus,
)
from jeepney.io.trio import (  # type: ignore[import-untyped]
    DBusRouter,
    Proxy,
    open_dbus_connection,
    open_dbus_router,
)
from jeepney.wrappers import DBusErrorResponse  # type: ignore[import-untyped]

log = logging.getLogger(__name__)

AGAIN_S = 60.0  # between two looks for a logind that is not there
LOGIND, SESSION = "org.freedesktop.login1", "org.freedesktop.login1.Session"


async def watch(locked: Callable[[], None]) -> None:
    """Call ``locked`` whenever it happens; never returns. Without logind, or when it goes, that is said once, and it is
    looked for again: a mount may come before the desktop."""
    told = False
    while True:
        try:
            await _listen(locked)
        except* (OSError, DBusErrorResponse):
            if not told:
                log.warning("the vault is not locked with the screen: no logind answers; it is looked for again")
            told = True
        await trio.sleep(AGAIN_S)


async def _listen(locked: Callable[[], None]) -> None:
    """Until the bus ends."""
    rules = (
        MatchRule(type="signal", sender=LOGIND, interface=SESSION, member="Lock"),
        MatchRule(
            type="signal", sender=LOGIND, interface="org.freedesktop.DBus.Properties", member="PropertiesChanged"
        ),
    )
    # Two connections: signals are taken as they come, and what we ask is answered on the other one.
    async with open_dbus_router(bus="SYSTEM") as router, await open_dbus_connection(bus="SYSTEM") as signals:
        owner = (await Proxy(message_bus, router).GetNameOwner(LOGIND))[0]
        for rule in rules:
            await signals.send(message_bus.AddMatch(rule))
        while True:
            signal = await signals.receive()
            if comes_from(signal, owner) and says_locked(signal) and await is_ours(router, signal):
                log.info("the screen was locked")
                locked()


def comes_from(signal: Message, owner: str) -> bool:
    """Whether it is a signal of the process that is logind; the bus writes the sender."""
    fields = signal.header.fields
    return signal.header.message_type is MessageType.signal and fields.get(HeaderFields.sender) == owner


def says_locked(signal: Message) -> bool:
    """Whether a signal of logind says that a session is locked now."""
    if signal.header.fields.get(HeaderFields.member) == "Lock":
        return True
    interface, changed, *_ = (*signal.body, "", {}) if len(signal.body) < 2 else signal.body
    return interface == SESSION and isinstance(changed, dict) and changed.get("LockedHint") == ("b", True)


async def is_ours(router: DBusRouter, signal: Message) -> bool:
    """Whether the session is of this user."""
    path = str(signal.header.fields.get(HeaderFields.path, "/"))
    session = DBusAddress(path, bus_name=LOGIND, interface=SESSION)
    try:
        reply = await router.send_and_get_reply(Properties(session).get("User"))
        return bool(reply.body[0][1][0] == os.geteuid())
    except (DBusErrorResponse, IndexError, TypeError) as error:
        log.info("logind does not say whose session was locked: %s", type(error).__name__)
        return False
