"""``megafs check``: is everything there, and right? Changes nothing, unless asked to repair."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from megafs.cli import passphrase, places, terminal
from megafs.cli.options import Json, Name, PassphraseCommand, PassphraseFile, StateDir
from megafs.cli.terminal import shown
from megafs.config import VaultPaths
from megafs.control.messages import Checked, Progress, Request
from megafs.errors import Corrupt, Incomplete, MegaFSError, NotMounted

MOST_PATHS = 20  # listed for people


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
    if anything is left that was not repaired, 7 if all is well but for a host that did not answer.
    """
    source = passphrase.Source(file=passphrase_file, command=passphrase_command)
    paths = places.vault(state_dir, name)
    told, harmed = checked(paths, source, full=full, repair=repair)
    if json:
        terminal.answer_json(asdict(told) | {"paths": [shown(path) for path in harmed]})
    else:
        for text in lines(told, harmed):
            terminal.answer(text)
    left = sum(not finding.repaired for finding in told.findings)
    if left:
        raise Corrupt(f"{left} things are wrong with {name}" if left > 1 else f"1 thing is wrong with {name}")
    if told.silent:
        raise Incomplete(f"not everything was checked: {', '.join(told.silent)} did not answer")


def checked(paths: VaultPaths, source: passphrase.Source, *, full: bool, repair: bool) -> tuple[Checked, list[bytes]]:
    """What the daemon finds; or what we find, if none has the vault; and which files it harms."""
    from megafs.control import client

    harmed: list[bytes] = []
    with terminal.progress_bar("checking") as bar:

        def show(step: Progress) -> None:
            harmed.extend(step.paths)
            if not step.paths:
                bar(step)

        try:
            told = client.ask(paths.root, Request(call="check", full=full, repair=repair), show)
        except NotMounted:
            pass
        else:
            if not isinstance(told, Checked):
                raise MegaFSError("the daemon answered something else than what it found")
            return told, harmed
    from megafs.daemon.check import check_vault

    opened = source.unlock(paths)
    with terminal.progress_bar("checking") as bar:
        return check_vault(paths, opened=opened, full=full, repair=repair, show=show), harmed


def lines(told: Checked, harmed: Sequence[bytes]) -> list[str]:
    """For people."""
    text = [
        f"{finding.where}: {finding.sentence} ({finding.rule} {finding.subject})"
        + (", repaired" if finding.repaired else "")
        for finding in told.findings
    ]
    text += [f"{label}: does not answer, so it was not checked" for label in told.silent]
    if harmed:
        text.append(
            "these files cannot be read, wholly or in part; put them there again from elsewhere, or remove them:"
        )
        text += [f"  {shown(path)}" for path in harmed[:MOST_PATHS]]
        if len(harmed) > MOST_PATHS:
            text.append(f"  and {len(harmed) - MOST_PATHS} more (--json lists all)")
    text.append(f"checked the index, {told.chunks} chunks here and {told.copies} copies on hosts")
    return text
