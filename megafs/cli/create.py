"""``megafs create``: a new vault on hosts, and the recovery key, shown once."""

import os
from pathlib import Path
from typing import Annotated

import typer

from megafs.cli import passphrase, places, secrets, terminal
from megafs.cli.options import (
    Bandwidth,
    Copies,
    HostUrls,
    Json,
    Name,
    PassphraseCommand,
    PassphraseFile,
    Remember,
    SecretsFile,
    Shards,
    StateDir,
    asked_policy,
    bandwidth_bytes_s,
    policy_text,
)
from megafs.config import Settings
from megafs.errors import Usage, VaultExists
from megafs.model import Policy

COPIES = 2  # wanted where there are that many hosts
WORDS_PER_LINE = 6


def run(
    name: Name,
    host: HostUrls,
    copies: Copies = None,
    shards: Shards = "",
    compression: Annotated[bool, typer.Option("--compression/--no-compression", help="Compress with zstd.")] = True,
    cache_size: Annotated[
        str,
        typer.Option("--cache-size", metavar="SIZE", help="Local cache at most, for instance 20G.", show_default=False),
    ] = "",
    bandwidth: Bandwidth = "",
    secrets_file: SecretsFile = None,
    passphrase_file: PassphraseFile = None,
    passphrase_command: PassphraseCommand = None,
    remember: Remember = False,
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Create a vault on one or more hosts.

    Asks a new passphrase twice, and prints the recovery key (24 words) once.
    """
    source = passphrase.Source(file=passphrase_file, command=passphrase_command)
    paths = places.new_vault(state_dir, name)
    if paths.root.exists():
        raise VaultExists(f"there is a vault {name} in {paths.root.parent} already")
    wanted = checked_policy(host, copies, shards, paths.root.parent)
    up, down = bandwidth_bytes_s(bandwidth)
    settings = Settings(
        compression=compression,
        cache_bytes=terminal.size_bytes(cache_size) if cache_size else 0,
        upload_bytes_s=up,
        download_bytes_s=down,
    )
    given = secrets.gathered(host, secrets_file)
    phrase = source.new(name)

    from megafs import daemon

    os.umask(0o077)  # everything in a state directory is its owner's alone
    paths.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = places.missing_folders(host)
    words = daemon.create_vault(paths, hosts=host, policy=wanted, passphrase=phrase, settings=settings, secrets=given)
    for folder in made:
        terminal.note(f"made the folder {folder}")
    if json:
        terminal.answer_json({"vault": name, "directory": str(paths.root), "recovery_key": words})
    else:
        terminal.note("write these 24 words down and keep them apart from this machine; they are not shown again.")
        terminal.note("with them and the hosts, `megafs attach` brings everything back; without them nobody can.")
        for start in range(0, len(words), WORDS_PER_LINE):
            terminal.answer(" ".join(words[start : start + WORDS_PER_LINE]))
        terminal.note(f"created; now: megafs mount {name} DIR")
    if remember:
        passphrase.remember(paths, passphrase.opened(paths, phrase))


def checked_policy(hosts: list[str], copies: int | None, shards: str, state: Path) -> Policy:
    """The policy of a vault on ``hosts`` when this was asked for (None and "": not said)."""
    distinct(hosts, state)
    policy = asked_policy(copies, shards) or Policy(copies=min(COPIES, len(hosts)))
    if policy.places > len(hosts):
        raise Usage(f"{policy_text(policy)} need {policy.places} hosts, and {len(hosts)} are named")
    return policy


def distinct(hosts: list[str], state: Path) -> None:
    """Raises Usage where two hosts are one place under two names, or a folder lies in another or in ``state``: losing
    one would then lose both."""
    from megafs.hosts.url import checked_url

    urls = [checked_url(host) for host in hosts]
    if len({url.text for url in urls}) != len(urls):
        raise Usage("the same host is named twice")
    folders = [Path(os.path.realpath("/" + "/".join(url.folders))) for url in urls if url.kind == "file"]
    taken = [Path(os.path.realpath(state))]
    for folder in folders:
        for other in taken:
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                raise Usage(f"{folder} and {other} are one place: losing one loses both")
        taken.append(folder)
