"""``megafs lock``: the keys of a mounted vault go; the mount stays and shows nothing."""

from megafs.cli import hosts, places, terminal
from megafs.cli.options import Name, StateDir
from megafs.control.messages import Done, Request


def run(name: Name, state_dir: StateDir = None) -> None:
    """Lock a mounted vault.

    What was accepted is committed, keys and plaintext are dropped, and until megafs unlock every request fails with
    "Key has expired". What programs write into files that they have open waits.
    """
    for sentence in hosts.answer_to(places.vault(state_dir, name), Request(call="lock"), Done).sentences:
        terminal.note(sentence)
