"""``megafs unlock``: a locked mount goes on where it was."""

from megafs.cli import hosts, passphrase, places, terminal
from megafs.cli.options import Name, PassphraseCommand, PassphraseFile, Remember, StateDir
from megafs.control.messages import Done, Request


def run(
    name: Name,
    passphrase_file: PassphraseFile = None,
    passphrase_command: PassphraseCommand = None,
    remember: Remember = False,
    state_dir: StateDir = None,
) -> None:
    """Unlock a mounted vault.

    Asks for the passphrase, or the desktop keyring after --remember. Files that were open go on.
    """
    source = passphrase.Source(file=passphrase_file, command=passphrase_command)
    paths = places.vault(state_dir, name)
    opened = source.unlock(paths)
    if remember:
        passphrase.remember(paths, opened)
    for sentence in hosts.answer_to(paths, Request(call="unlock", opened=opened), Done).sentences:
        terminal.note(sentence)
