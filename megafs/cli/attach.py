"""``megafs attach``: a vault that is on hosts becomes usable on this device, with the recovery key or a ticket."""

import sys
from collections.abc import Sequence
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

MOST_PATHS = 20  # listed

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
    """What is used again, what was newer here than on any host, and what became of it."""
    note, found = terminal.note, done.salvaged
    note(f"the index is rebuilt; {done.packs} local packs are used again")
    if not found.is_readable:
        note("nothing of the former index can be read: what was newer in it is not known, and no files of it are kept")
    elif found.unread:
        note(f"the former index has pages that cannot be read ({', '.join(found.unread)}): what only they said is lost")
    if found.kept:
        note(f"{counted(found.kept)} newer here than on the hosts; once it is mounted, in lost+found/{found.folder}:")
        note_paths(found.kept)
    if found.lost:
        note(f"{counted(found.lost)} newer here and could not be read, or not wholly:")
        note_paths(found.lost)
    if found.is_readable and not found.kept and not found.lost:
        note("nothing was newer here than on the hosts" + (", as far as can be read" if found.unread else ""))
    left = f"; in it {done.newer_packs} packs with {terminal.size_text(done.newer_bytes)} that the drive does not name"
    note(f"the former state is in {done.aside}{left if done.newer_packs else ''}")


def counted(paths: Sequence[bytes]) -> str:
    """Files as the beginning of a sentence."""
    return "1 file was" if len(paths) == 1 else f"{len(paths)} files were"


def note_paths(paths: Sequence[bytes]) -> None:
    """The first of them."""
    for path in paths[:MOST_PATHS]:
        terminal.note(f"  {terminal.shown(path)}")
    if len(paths) > MOST_PATHS:
        terminal.note(f"  and {len(paths) - MOST_PATHS} more")


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
