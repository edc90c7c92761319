"""``megafs hosts``: what each host of a mounted vault holds, asked of the hosts."""

from collections.abc import Sequence
from dataclasses import asdict

from megafs.cli import places, terminal
from megafs.cli.options import Json, Name, StateDir
from megafs.control.messages import HostReport, Hosts, Request
from megafs.errors import MegaFSError

COLUMNS = ("host", "state", "stored", "free", "objects", "commit", "latency")


def run(name: Name, state_dir: StateDir = None, json: Json = False) -> None:
    """Show the hosts of a mounted vault.

    Of each its state, bytes, objects, newest commit, latency and last error, asked of the hosts now.
    """
    from megafs.control import client

    paths = places.vault(state_dir, name)
    told = client.ask(paths.root, Request(call="hosts"))
    if not isinstance(told, Hosts):
        raise MegaFSError("the daemon answered something else than its hosts")
    if json:
        terminal.answer_json([asdict(host) for host in told.hosts])
        return
    for text in lines(told.hosts):
        terminal.answer(text)


def lines(hosts: Sequence[HostReport]) -> list[str]:
    """A table with a heading, and under a host its last error."""
    rows = [COLUMNS, *(cells(host) for host in hosts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    text = []
    for number, row in enumerate(rows):
        text.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number and hosts[number - 1].last_error:
            text.append(f"  last error: {hosts[number - 1].last_error}")
    return text


def cells(host: HostReport) -> tuple[str, ...]:
    """One host as the cells of COLUMNS."""
    return (
        f"{host.label} {host.url}" if host.label != host.url else host.url,
        host.state,
        terminal.size_text(host.stored_bytes),
        terminal.size_text(host.free_bytes) if host.free_bytes >= 0 else "?",
        str(host.objects),
        str(host.newest_commit) if host.newest_commit else "-",
        f"{host.latency_ms} ms",
    )
