"""``megafs alarms``: what hosts or other devices did that their owner has to know, and that he has read it."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from megafs.cli import places, terminal
from megafs.cli.options import Json, Name, StateDir
from megafs.control.messages import Alarmed, AlarmReport, Request
from megafs.errors import MegaFSError


def run(
    name: Name,
    acknowledge: Annotated[
        list[int] | None,
        typer.Option("--acknowledge", metavar="N", help="You have read alarm N; may be repeated.", show_default=False),
    ] = None,
    json: Json = False,
    state_dir: StateDir = None,
) -> None:
    """Show alarms of a mounted vault.

    A host that shows less than it had, two histories, nothing new for two days, an old state of this device. An
    acknowledged alarm stays in this list, and the same evidence raises no other.
    """
    from megafs.control import client

    paths = places.vault(state_dir, name)
    told = client.ask(paths.root, Request(call="alarms", acknowledge=tuple(acknowledge or ())))
    if not isinstance(told, Alarmed):
        raise MegaFSError("the daemon answered something else than its alarms")
    if json:
        terminal.answer_json([asdict(alarm) for alarm in told.alarms])
        return
    for alarm in told.alarms:
        terminal.answer(line(alarm))
    if not told.alarms:
        terminal.note(f"{name}: no alarm")


def line(alarm: AlarmReport) -> str:
    """One alarm for people."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(alarm.since_s))
    return f"{alarm.n} {when}{' (acknowledged)' if alarm.acknowledged_s else ''}: {alarm.sentence}"
