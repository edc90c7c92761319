"""The recovery key as it is given on the command line: files with the 24 words, or with shares of them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megafs.errors import Usage

if TYPE_CHECKING:
    from megafs.crypto.recovery import RecoveryKey

TEXT_BYTES = 16_384  # words in any layout, with remarks


def key(files: Sequence[Path]) -> "RecoveryKey":
    """What the files say, one after the other. Raises Usage, WrongKey."""
    from megafs.crypto.shares import recovery_key

    return recovery_key("\n".join(text(file) for file in files))


def text(file: Path) -> str:
    """What a file says, still unchecked."""
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(TEXT_BYTES + 1)
        else:
            with open(file, "rb") as opened:
                data = opened.read(TEXT_BYTES + 1)
    except OSError as error:
        raise Usage(f"the words cannot be read: {error.strerror}: {file}") from error
    if len(data) > TEXT_BYTES:
        raise Usage(f"this file holds more than the words: {file}")
    return data.decode("utf-8", "replace")
