"""``megafs scrub``: have the hosts still what they were given, right?"""

from dataclasses import asdict
from typing import Annotated

import typer

from megafs.cli import places, terminal
from megafs.cli.hosts import answer_to, table
from megafs.cli.options import Json, Name, StateDir
from megafs.control.messages import Request
from megafs.control.scrubbed import Scrubbed
from megafs.errors import Corrupt, Incomplete


def run(
    name: Name,
    full: Annotated[bool, typer.Option("--full", help="Read every object whole; else a random part of each.")] = False,
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Look at every object on every host of a mounted vault, and repair what is bad.

    Of each object a random part is read and checked; what is missing, cut or wrong is made anew from the other hosts.
    A mount does the same all day, 460 objects of each host a day; megafs status shows what that has come to. Ends with
    status 7 if a host did not answer, with 9 if something bad is left.
    """
    told = answer_to(places.vault(state_dir, name), Request(call="scrub", full=full), Scrubbed)
    if json:
        terminal.answer_json([asdict(host) for host in told.hosts])
    else:
        for text in lines(told):
            terminal.answer(text)
    left = sum(host.bad - host.repaired for host in told.hosts)
    if left:
        raise Corrupt(f"{left} objects on hosts are bad and could not be made anew now; the mount goes on trying")
    silent = [host.label for host in told.hosts if host.silent]
    if silent:
        raise Incomplete(f"not looked at in full, because they do not answer: {', '.join(silent)}")


def lines(told: Scrubbed) -> list[str]:
    """For people."""
    rows = [("host", "checked", "read", "bad", "repaired", "")]
    for host in told.hosts:
        figures = (str(host.checked), terminal.size_text(host.bytes), str(host.bad), str(host.repaired))
        rows.append((host.label, *figures, "does not answer" if host.silent else ""))
    return table(rows)
