"""``megafs check``: is everything there, and right? Changes nothing, unless asked to repair."""

from dataclasses import asdict
from typing import Annotated

import typer

from megafs.cli import passphrase, places, terminal
from megafs.cli.options import Json, Name, PassphraseCommand, PassphraseFile, StateDir
from megafs.config import VaultPaths
from megafs.control.messages import Checked, Request
from megafs.errors import Corrupt, MegaFSError, NotMounted


def run(
    name: Name,
    full: Annotated[bool, typer.Option("--full", help="Every chunk and every copy, read whole; else samples.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what loses nothing; what has no place goes to lost+found.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_command: PassphraseCommand = None,
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Compare the index, the local files and the hosts.

    Works beside a mount; of a vault that is not mounted it asks for the passphrase. Lists what is wrong; exit status 9
    if anything is left that was not repaired.
    """
    source = passphrase.Source(file=passphrase_file, command=passphrase_command)
    paths = places.vault(state_dir, name)
    told = checked(paths, source, full=full, repair=repair)
    if json:
        terminal.answer_json(asdict(told))
    else:
        for text in lines(told):
            terminal.answer(text)
    left = sum(not finding.repaired for finding in told.findings)
    if left:
        raise Corrupt(f"{left} things are wrong with {name}")


def checked(paths: VaultPaths, source: passphrase.Source, *, full: bool, repair: bool) -> Checked:
    """What the daemon finds; or what we find, if none has the vault."""
    from megafs.control import client

    with terminal.progress_bar("checking") as show:
        try:
            told = client.ask(paths.root, Request(call="check", full=full, repair=repair), show)
        except NotMounted:
            pass
        else:
            if not isinstance(told, Checked):
                raise MegaFSError("the daemon answered something else than what it found")
            return told
    from megafs.daemon.check import check_vault

    opened = source.unlock(paths)
    with terminal.progress_bar("checking") as show:
        return check_vault(paths, opened=opened, full=full, repair=repair, show=show)


def lines(told: Checked) -> list[str]:
    """For people."""
    text = [
        f"{finding.where}: {finding.sentence} ({finding.rule} {finding.subject})"
        + (", repaired" if finding.repaired else "")
        for finding in told.findings
    ]
    text += [f"{label}: does not answer, so it was not checked" for label in told.silent]
    text.append(f"checked the index, {told.chunks} chunks here and {told.copies} copies on hosts")
    return text
