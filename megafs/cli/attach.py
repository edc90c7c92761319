"""``megafs attach``: a vault that is on hosts becomes usable on this device, with the recovery key or a ticket."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megafs.cli import passphrase, places, recovery, secrets, terminal
from megafs.cli.options import (
    HostUrls,
    Name,
    PassphraseCommand,
    PassphraseFile,
    RecoveryKeyFiles,
    Remember,
    SecretsFile,
    StateDir,
)
from megafs.config import Settings
from megafs.errors import Usage, VaultExists

if TYPE_CHECKING:
    from megafs.crypto.recovery import RecoveryKey
    from megafs.crypto.ticket import TicketCode
    from megafs.daemon.rebuild import Repaired

ExpectPhrase = Annotated[
    str,
    typer.Option(
        "--expect-phrase",
        metavar="P",
        help="Refuse hosts that show less than this checkpoint phrase (megafs status NAME --phrase).",
        show_default=False,
    ),
]
TicketFile = Annotated[
    Path | None,
    typer.Option(
        "--ticket-file",
        metavar="F",
        help="Instead: the 12 words that `megafs devices NAME enrol` printed on another device.",
        show_default=False,
    ),
]


def run(
    name: Name,
    host: HostUrls,
    recovery_key_file: RecoveryKeyFiles = None,
    ticket_file: TicketFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before this device becomes the writing one.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild the damaged index of a NAME that is here.")] = False,
    expect_phrase: ExpectPhrase = "",
    secrets_file: SecretsFile = None,
    passphrase_file: PassphraseFile = None,
    passphrase_command: PassphraseCommand = None,
    remember: Remember = False,
    state_dir: StateDir = None,
) -> None:
    """Bring a vault from its hosts to this device.

    Names and attributes come now, contents on demand. This device becomes the one that writes; the former one goes
    read-only and keeps what it had not shipped.
    """
    source = passphrase.Source(file=passphrase_file, command=passphrase_command)
    paths = places.vault(state_dir, name) if repair else places.new_vault(state_dir, name)
    if paths.root.exists() and not repair:
        raise VaultExists(f"there is a vault {name} in {paths.root.parent} already")
    key = given_key(recovery_key_file, ticket_file)

    from megafs.crypto.phrase import Phrase

    expected = Phrase.from_text(expect_phrase) if expect_phrase else None
    given_secrets = secrets.gathered(host, secrets_file)
    phrase = source.existing(paths) if repair else source.new(name)

    from megafs import daemon

    os.umask(0o077)  # everything in a state directory is its owner's alone
    confirm = noted if yes else confirmed
    if repair:
        tell(daemon.repair_vault(paths, host, key, phrase, confirm, given_secrets, expected))
        return
    paths.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    daemon.attach_vault(
        paths,
        hosts=host,
        key=key,
        passphrase=phrase,
        settings=Settings(),
        confirm=confirm,
        secrets=given_secrets,
        expected=expected,
    )
    if remember:
        passphrase.remember(paths, passphrase.opened(paths, phrase))
    terminal.note(f"{name} is on this device; now: megafs mount {name} DIR")


def given_key(recovery_key_file: list[Path] | None, ticket_file: Path | None) -> "RecoveryKey | TicketCode":
    """The one of the two that was given. Raises Usage or WrongKey."""
    from megafs.crypto.ticket import TicketCode

    if ticket_file is not None and not recovery_key_file:
        return TicketCode.from_text(recovery.text(ticket_file))
    if recovery_key_file and ticket_file is None:
        return recovery.key(recovery_key_file)
    raise Usage(
        "attach needs either --recovery-key-file, or --ticket-file with what `megafs devices NAME enrol` printed"
    )


def tell(done: "Repaired") -> None:
    """What is used again, and what was newer here than on any host."""
    terminal.note(f"the index is rebuilt; {done.packs} local packs are used again")
    if done.unshipped > 0:
        terminal.note(f"{done.unshipped} commits were only here and are not in the drive")
    elif done.unshipped < 0:
        terminal.note("the former index does not say whether commits were only here")
    if done.newer_packs:
        size = terminal.size_text(done.newer_bytes)
        terminal.note(f"{done.newer_packs} packs with {size} that no host has, and the former index: {done.aside}")
    else:
        terminal.note(f"no pack was newer than the hosts'; the former index is in {done.aside}")


def noted(question: str) -> bool:
    """With --yes nothing is asked, but what would have been is said."""
    terminal.note(question.removesuffix(" Go on?"))
    return True


def confirmed(question: str) -> bool:
    """Ask on the terminal; no answer is a no."""
    if not sys.stdin.isatty():
        raise Usage("attach asks for confirmation: run it on a terminal, or add --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
