"""Hours of the day in which something may happen: ``22:00-06:00,12:30-13:30``, local time; empty: always. Pure."""

import re
from collections.abc import Iterator

from megafs.errors import Usage

DAY = 24 * 60  # minutes
SPAN = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")


def spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, stop) in minutes of the day; a stop before its start is on the next day. Raises Usage."""
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = SPAN.fullmatch(part)
        hours = [int(number) for number in found.groups()] if found else []
        if not hours or max(hours[0], hours[2]) > 24 or max(hours[1], hours[3]) > 59:
            raise Usage(f"hours are written like 22:00-06:00, several with a comma between, unlike {part!r}")
        start, stop = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
        if max(start, stop) > DAY or start == stop:
            raise Usage(f"{part!r} is no span of a day")
        yield start, stop + DAY * (stop < start)


def minutes_until(text: str, minute: int) -> int:
    """How long until one of the spans, from this minute of the day; 0: now, or always."""
    waits = [
        0 if start <= minute < stop or minute + DAY < stop else (start - minute) % DAY for start, stop in spans(text)
    ]
    return min(waits, default=0)


def opens(text: str, minute: int) -> str:
    """When the next span begins, as a clock shows it; empty: it has begun."""
    wait = minutes_until(text, minute)
    at = (minute + wait) % DAY
    return f"{at // 60:02}:{at % 60:02}" if wait else ""
