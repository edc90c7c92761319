"""Options that several subcommands share, each spelled once, and the exit statuses shown under every ``--help``."""

from pathlib import Path
from typing import Annotated

import typer

from megafs.cli.places import vault_names
from megafs.errors import EXIT_STATUSES

EPILOG = "\b\nExit statuses:\n" + "\n".join(f"  {status}  {meaning}" for status, meaning in EXIT_STATUSES.items())

Name = Annotated[str, typer.Argument(metavar="NAME", help="The vault.", autocompletion=vault_names, show_default=False)]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The mount point.", show_default=False)]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="Where vaults live on this device. [default: megafs in the XDG data directory]",
        show_default=False,
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="F", help="Read the passphrase from this file (-: standard input)."),
]
PassphraseCommand = Annotated[
    str | None,
    typer.Option("--passphrase-command", metavar="CMD", help="Run this command; the passphrase is what it prints."),
]
Remember = Annotated[bool, typer.Option("--remember", help="Keep the passphrase in the desktop keyring.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
HostUrls = Annotated[
    list[str],
    typer.Option(
        "--host", metavar="URL", help="A host, for instance file:///mnt/disk; repeatable.", show_default=False
    ),
]
