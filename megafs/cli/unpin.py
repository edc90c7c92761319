"""``megafs unpin``: what is pinned may leave this device again."""

from megafs.cli.hosts import changed
from megafs.cli.options import Json
from megafs.cli.pin import Inside, inside
from megafs.control.messages import Request


def run(path: Inside, json: Json = False) -> None:
    """No longer keep a file or directory here.

    It stays as long as the cache has room, like everything else.
    """
    paths, ino = inside(path)
    changed(paths, Request(call="unpin", ino=ino), json)
