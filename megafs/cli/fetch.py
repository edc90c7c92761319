"""``megafs fetch``: bring files of a mounted vault to this device, once."""

from megafs.cli.hosts import changed
from megafs.cli.options import Json
from megafs.cli.pin import Inside, inside
from megafs.control.messages import Request


def run(path: Inside, json: Json = False) -> None:
    """Bring a file or directory here, once.

    With a progress bar on a terminal. Nothing keeps it here afterwards; megafs pin does.
    """
    paths, ino = inside(path)
    changed(paths, Request(call="fetch", ino=ino), json)
