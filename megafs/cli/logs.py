"""Where the daemon's log goes: a rotating file in the vault's directory, and the journal under systemd.

Records carry ids and counts, never names, keys or content; that is up to whoever logs. Libraries are heard from WARNING
on: httpx tells the URL of each request and words of the host's own at INFO, asyncssh who logs in where.
"""

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path

from megafs.config import LOG_BYTES, LOG_FILES

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
JOURNAL_LINE = "%(name)s: %(message)s"
PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))  # of syslog


class JournalFormatter(logging.Formatter):
    """Puts ``<PRIORITY>`` before each line, which the journal takes as the level."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def start(directory: Path, *, to_stderr: bool, journal: bool) -> None:
    """Log to ``directory/megafs.log`` from now on, and to stderr if asked."""
    os.umask(0o077)  # what this process makes, log files included, is its owner's alone
    directory.mkdir(mode=0o700, exist_ok=True)
    file = RotatingFileHandler(directory / "megafs.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    file.setFormatter(logging.Formatter(LINE))
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    logging.getLogger("megafs").setLevel(logging.INFO)
    root.addHandler(file)
    if to_stderr:
        stderr = logging.StreamHandler()
        stderr.setFormatter(JournalFormatter(JOURNAL_LINE) if journal else logging.Formatter(LINE))
        root.addHandler(stderr)
    logging.captureWarnings(True)
