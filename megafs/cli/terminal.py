"""What a person sees: answers on stdout, everything else on stderr, a progress bar only on a terminal."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from megafs.control.messages import Progress
from megafs.errors import Usage

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)
WAITING_S = 5.0  # without a bar, a host that has not everything yet is worth a line after this long
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def answer(text: str) -> None:
    """One line of what was asked for."""
    print(text, flush=True)


def answer_json(value: object) -> None:
    """What was asked for, for machines."""
    answer(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def note(text: str) -> None:
    """Anything else that the user should know."""
    print(f"megafs: {text}", file=sys.stderr, flush=True)


def shown(path: bytes) -> str:
    """A path on one line, whatever bytes it has. No name says anything to the terminal, and no two look the same."""
    letters = path.decode("utf-8", "surrogateescape")
    return "".join(
        each if each.isprintable() and each != "\\" else repr(each.encode("utf-8", "surrogateescape"))[2:-1]
        for each in letters
    )


def time_text(seconds: int) -> str:
    """A moment, in local time, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def clock_text(seconds: int) -> str:
    """A moment of today, in local time, to the second."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def size_text(count: int) -> str:
    """``count`` bytes with three digits at least: 1536 is ``1.5 KiB``."""
    value = float(count)
    for unit in UNITS:
        if value < 1024 or unit == UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes everything")


def size_bytes(text: str) -> int:
    """Bytes of ``20G``, ``1.5 GiB`` or ``500000``; units are powers of 1024. Raises Usage."""
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise Usage(f"a size is a number with K, M, G, T or P behind it, unlike {text!r}")
    number, unit = found.groups()
    power = "_KMGTP".index(unit.upper()) if unit else 0
    if not power and "." in number:
        raise Usage(f"a number of bytes is whole, unlike {text!r}")
    return int(float(number) * 1024**power) if power else int(number)


@contextmanager
def progress_bar(label: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[Progress], None]]:
    """A function that shows how far a call is: a bar on a terminal, otherwise only the hosts that take long."""
    if not sys.stderr.isatty():
        yield _quiet_progress(clock)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def show(step: Progress) -> None:
            waiting = f" (waiting for {', '.join(step.waiting_for)})" if step.waiting_for else ""
            bar.update(task, completed=step.done_bytes, total=step.total_bytes, description=label + waiting)

        yield show


def _quiet_progress(clock: Callable[[], float]) -> Callable[[Progress], None]:
    said: set[str] = set()
    patient_until = clock() + WAITING_S

    def show(step: Progress) -> None:
        late = [label for label in step.waiting_for if label not in said]
        if late and clock() >= patient_until:
            note(f"waiting for {', '.join(late)}")
            said.update(late)

    return show


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)
