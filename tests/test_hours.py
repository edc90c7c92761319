"""Hours of the day: against a clock that walks through it minute by minute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megafs.config import Settings, settings_from, settings_text
from megafs.errors import Usage
from megafs.hours import DAY, minutes_until, opens

minutes = st.integers(0, DAY - 1)


def written(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@given(st.lists(st.tuples(minutes, minutes).filter(lambda span: span[0] != span[1]), max_size=3), minutes)
def test_the_wait_ends_where_a_walk_ends(spans, now):
    def is_inside(minute: int) -> bool:
        return not spans or any(
            start <= minute < stop if start < stop else minute >= start or minute < stop for start, stop in spans
        )

    text = ", ".join(f"{written(start)}-{written(stop)}" for start, stop in spans)
    walk = next(step for step in range(DAY) if is_inside((now + step) % DAY))
    assert minutes_until(text, now) == walk
    assert opens(text, now) == (written((now + walk) % DAY) if walk else "")


@pytest.mark.parametrize("text", ["22-6", "25:00-1:00", "1:00-1:60", "1:00-1:00", "24:30-2:00", "night", "1:00"])
def test_what_is_no_span_is_refused(text):
    for name in ("background_hours", "ship_hours"):
        with pytest.raises(Usage, match=r"hours|span"):
            settings_from(f'{name} = "{text}"\n')


def test_hours_survive_being_written_down():
    settings = Settings(background_hours="22:00-06:00,12:00-13:00", ship_hours="0:00-24:00")
    assert settings_from(settings_text(settings)) == settings
    assert minutes_until(settings.ship_hours, 700) == 0
