"""What a daemon complains about in its log. A WARNING needs a human, so one that its test does not expect fails it."""

import re
from collections.abc import Iterable

COMPLAINT = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) |^Traceback")


def complaints(lines: Iterable[str], expected: Iterable[str] = ()) -> list[str]:
    """The lines that complain and in which none of the patterns is found."""
    return [
        line for line in lines if COMPLAINT.search(line) and not any(re.search(pattern, line) for pattern in expected)
    ]
