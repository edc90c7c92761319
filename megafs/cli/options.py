"""Options that several subcommands share, each spelled once, and the exit statuses shown under every ``--help``."""

import re
from pathlib import Path
from typing import Annotated

import typer

from megafs.cli.places import vault_names
from megafs.cli.terminal import size_bytes
from megafs.errors import EXIT_STATUSES, Usage
from megafs.model import Policy

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
RecoveryKeyFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--recovery-key-file",
        metavar="F",
        help="The 24 words, or shares of them (repeatable), in any layout (-: standard input).",
        show_default=False,
    ),
]
Remember = Annotated[bool, typer.Option("--remember", help="Let the desktop keyring unlock it from now on.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
HostUrls = Annotated[
    list[str],
    typer.Option(
        "--host", metavar="URL", help="A host, for instance file:///mnt/disk; repeatable.", show_default=False
    ),
]
SecretsFile = Annotated[
    Path | None,
    typer.Option(
        "--secrets-file",
        metavar="F",
        help="The hosts' secrets as TOML: a table for each URL. Without it they are asked for.",
        show_default=False,
    ),
]
Bandwidth = Annotated[
    str,
    typer.Option(
        "--bandwidth",
        metavar="UP[/DOWN]",
        help="At most so many bytes a second to and from all hosts, for instance 2M/10M; 0: no limit.",
        show_default=False,
    ),
]


def bandwidth_bytes_s(text: str) -> tuple[int, int]:
    """(up, down) of ``2M`` or ``2M/10M``; 0 for no limit. Raises Usage."""
    up, _, down = text.partition("/")
    return size_bytes(up) if up else 0, size_bytes(down) if down else 0


Copies = Annotated[
    int | None,
    typer.Option(
        "--copies", metavar="N", help="On how many hosts each pack is, as a whole. [default: 2]", show_default=False
    ),
]
Shards = Annotated[
    str,
    typer.Option(
        "--shards",
        metavar="K+M",
        help="Instead of copies: K+M parts on as many hosts, of which any K bring everything back.",
        show_default=False,
    ),
]
SHARDS = re.compile(r"([0-9]{1,2})\+([0-9]{1,2})")
SHARDS_MOST = 32


def asked_policy(copies: int | None, shards: str) -> Policy | None:
    """What ``--copies`` or ``--shards`` say; None if neither was given. Raises Usage."""
    if copies is not None and shards:
        raise Usage("--copies and --shards exclude each other")
    if shards:
        found = SHARDS.fullmatch(shards)
        k, m = (int(found[1]), int(found[2])) if found else (0, 0)
        if not k or not m or k + m > SHARDS_MOST:
            raise Usage(f"--shards is written K+M, for instance 2+2, at least 1+1 and at most {SHARDS_MOST} in all")
        return Policy(k=k, m=m)
    if copies is None:
        return None
    if not 0 < copies <= SHARDS_MOST:
        raise Usage(f"--copies is between 1 and {SHARDS_MOST}")
    return Policy(copies=copies)


def policy_text(policy: Policy) -> str:
    """A policy in the words of the command line."""
    if policy.k:
        return f"{policy.k}+{policy.m} shards"
    return f"{policy.copies} copies" if policy.copies != 1 else "1 copy"
