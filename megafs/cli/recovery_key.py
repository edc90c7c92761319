"""``megafs recovery-key``: which hosts know the 24 words, the words anew on paper or in shares, other words.

Of a mounted vault, and only with the words that hold now: they are kept nowhere, so nobody else can show or change
them.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megafs.cli import places, recovery, terminal
from megafs.cli.hosts import answer_to, table
from megafs.cli.options import Json, Name, RecoveryKeyFiles, StateDir
from megafs.config import VaultPaths
from megafs.control.messages import Boots, Request
from megafs.errors import Incomplete, Usage

if TYPE_CHECKING:
    from megafs.crypto.recovery import RecoveryKey

ACTIONS = ("check", "print", "rotate")
SHARES = re.compile(r"(\d{1,2})-of-(\d{1,2})")
WORDS_PER_LINE = 6

ActionArgument = Annotated[str, typer.Argument(metavar=f"[{'|'.join(ACTIONS)}]", help="What to do.")]
Sheet = Annotated[
    Path | None,
    typer.Option(
        "--sheet",
        metavar="F",
        help="Write words, fingerprint, hosts and how to restore to a text file to be printed; with shares one each.",
        show_default=False,
    ),
]
SharesOption = Annotated[
    str,
    typer.Option(
        "--shares", metavar="M-of-N", help="N SLIP-39 shares instead, any M of which are enough.", show_default=False
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="With rotate: do not ask before the old words end.")]


def run(
    name: Name,
    action: ActionArgument = "check",
    recovery_key_file: RecoveryKeyFiles = None,
    sheet: Sheet = None,
    shares: SharesOption = "",
    yes: Yes = False,
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Look after the recovery key of a mounted vault.

    check: whether these words open it, on which hosts; a host that lacks its boot object gets one. print: the words
    again, as shares or as a sheet. rotate: other words; the old ones end. All need the words that hold now: no device
    keeps them, and who has lost them makes a new vault and copies. A host may keep what it was told to delete: who has
    old words and such a host can read what the vault had up to the rotation, and megafs rotate is for what comes.
    """
    paths = places.vault(state_dir, name)
    if action not in ACTIONS:
        raise Usage(f"recovery-key takes one of {', '.join(ACTIONS)}, not {action!r}")
    if not recovery_key_file:
        raise Usage("recovery-key needs the words that hold now: --recovery-key-file F, or - to type them")
    if action == "rotate" and not yes and not sys.stdin.isatty():
        raise Usage("rotate asks before the old words end: run it on a terminal, or add --yes")
    parts = share_counts(shares)
    old = key = recovery.key(recovery_key_file)
    for file in sheet_files(sheet, parts) if sheet is not None and action != "check" else []:
        if file.exists():
            raise _is_there(file)
    if action == "rotate":
        key, told = _rotated(paths, old)
        try:
            _print(paths, told, key, parts, sheet)
        except BaseException:
            _asked(paths, "retire", key, old)  # nobody has seen the new ones
            raise
        told = _end_old(paths, old, key, yes=yes)
    else:
        told = _asked(paths, "boots", key)
    if action == "print":
        _print(paths, told, key, parts, sheet)
    if json:
        terminal.answer_json(asdict(told))
    elif action == "check":
        for line in lines(told):
            terminal.answer(line)
    failed = [host for host in told.hosts if host.error]
    for host in failed if not json else []:
        terminal.note(host.error)
    if action == "rotate" and failed:
        kept = ", ".join(host.label for host in failed)
        raise Incomplete(f"the old words may still open what is on {kept}; rotate again, or remove the host")


def share_counts(text: str) -> tuple[int, int] | None:
    """(needed, of how many) of ``2-of-3``; None for none. Raises Usage."""
    found = SHARES.fullmatch(text)
    if text and found is None:
        raise Usage("--shares is written M-of-N, for instance 2-of-3")
    return (int(found[1]), int(found[2])) if found else None


def _asked(paths: VaultPaths, call: str, key: "RecoveryKey", new: "RecoveryKey | None" = None) -> Boots:
    new_words = " ".join(new.words()) if new is not None else ""
    return answer_to(paths, Request(call=call, words=" ".join(key.words()), new_words=new_words), Boots)


def _rotated(paths: VaultPaths, key: "RecoveryKey") -> "tuple[RecoveryKey, Boots]":
    """New words, which open the vault beside the old ones."""
    from megafs.crypto.recovery import RecoveryKey

    new = RecoveryKey.generate()
    told = _asked(paths, "rekey", key, new)
    for host in told.hosts:
        if host.error:
            terminal.note(host.error)
    return new, told


def _end_old(paths: VaultPaths, old: "RecoveryKey", new: "RecoveryKey", *, yes: bool) -> Boots:
    """After the new words are on paper. With a no it is the new ones that end."""
    if yes or _confirmed():
        return _asked(paths, "retire", old, new)
    _asked(paths, "retire", new, old)
    raise Usage("not rotated: the old words hold, the new ones do not")


def _confirmed() -> bool:
    print("The new words are written down, and the old ones may end? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print(
    paths: VaultPaths, told: Boots, key: "RecoveryKey", parts: tuple[int, int] | None, sheet: Path | None
) -> None:
    """To stdout, or as sheets."""
    from megafs.crypto.shares import split

    texts = [" ".join(key.words())] if parts is None else split(key, *parts)
    files = sheet_files(sheet, parts) if sheet is not None else []
    for number, text in enumerate(texts, 1):
        title = f"share {number} of {len(texts)}, {parts[0]} are needed" if parts is not None else "recovery key"
        if sheet is not None:
            file = files[number - 1]
            _write(
                file,
                "\n".join(sheet_lines(paths.root.name, title, text.split(), told, is_share=parts is not None)) + "\n",
            )
            terminal.note(f"written to {file}: print it, and do not leave it on this machine")
            continue
        if parts is not None:
            terminal.answer(f"# {title}")
        words = text.split()
        for start in range(0, len(words), WORDS_PER_LINE):
            terminal.answer(" ".join(words[start : start + WORDS_PER_LINE]))


def sheet_files(sheet: Path, parts: tuple[int, int] | None) -> list[Path]:
    """Where the sheets go: one for the words, or one for each share."""
    if parts is None:
        return [sheet]
    return [sheet.with_name(f"{sheet.stem}-{number}{sheet.suffix}") for number in range(1, parts[1] + 1)]


def sheet_lines(name: str, title: str, words: list[str], told: Boots, *, is_share: bool) -> Iterator[str]:
    """A sheet that a person can act on without this program's manual, and that ``--recovery-key-file`` reads."""
    digits = told.vault.hex()[:32]
    yield f"# MegaFS vault {name}: {title}"
    yield f"# Printed {time.strftime('%Y-%m-%d')}. Fingerprint of the vault: {' '.join(re.findall('....', digits))}"
    yield "#"
    for start in range(0, len(words), 4):
        row = enumerate(words[start : start + 4], start + 1)
        yield "   ".join(f"{place:2}. {word:12}" for place, word in row).rstrip()
    yield "#"
    yield "# The hosts:"
    for host in told.hosts:
        yield f"#   {host.label}: {host.url}"
    yield "#"
    yield "# To bring everything back on another machine: install MegaFS, type the words (of as many shares as are"
    yield "# needed) into a file F, and with at least one of the hosts:"
    yield f"#   megafs attach {name} --recovery-key-file F " + " ".join(f"--host {host.url}" for host in told.hosts[:1])
    if is_share:
        yield "# Without MegaFS: any SLIP-39 program makes 32 bytes of the shares; contrib/docs/FORMAT.md of its"
        yield "# source says what they open."
    else:
        yield "# Without MegaFS, with copies of the hosts' folders: contrib/restore of its source, --words-file F."
    yield "# Whoever has these words (of a share: enough shares) and reaches a host has everything. Keep them apart."


def _write(file: Path, text: str) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise _is_there(file) from error
    with open(descriptor, "w") as opened:
        opened.write(text)


def _is_there(file: Path) -> Usage:
    return Usage(f"there is a file {file} already: name another one")


def lines(told: Boots) -> list[str]:
    """A table of the hosts."""
    rows = [("host", "boot object", "")]
    for host in told.hosts:
        state = f"generation {host.generation}" if host.generation else "none" if not host.error else "?"
        rows.append((host.label, state, "made now" if host.is_new else ""))
    return table(rows)
