"""One line for each cause in a minute, with a count."""

import trio
from trio.testing import MockClock

from megafs.store.notices import TELL_EVERY_S, Notices


def test_what_repeats_is_counted():
    now_s, lines = 100.0, []
    notices = Notices(lambda: now_s)
    for number in range(35):
        notices.tell(("a", ValueError), lines.append, f"a: wrong bytes of pack {number}")
    notices.tell(("b", ValueError), lines.append, "b: wrong bytes of pack 1")
    notices.tell(("a", KeyError), lines.append, "a: not there")
    assert lines == ["a: wrong bytes of pack 0", "b: wrong bytes of pack 1", "a: not there"]
    now_s += TELL_EVERY_S
    notices.tell(("a", ValueError), lines.append, "a: wrong bytes of pack 36")
    notices.tell(("b", ValueError), lines.append, "b: wrong bytes of pack 2")
    assert lines[3] == "a: wrong bytes of pack 36 (and 34 more like this since the last line)"
    assert lines[4:] == ["b: wrong bytes of pack 2"]


async def test_the_last_of_a_burst_are_counted_too(autojump_clock: MockClock) -> None:
    lines: list[str] = []
    notices = Notices(trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notices.run)
        await trio.sleep(1)
        for number in range(5):
            notices.tell("a", lines.append, f"a: wrong bytes of pack {number}")
        notices.tell("b", lines.append, "b: gone")
        assert lines == ["a: wrong bytes of pack 0", "b: gone"]
        await trio.sleep(3 * TELL_EVERY_S)
        nursery.cancel_scope.cancel()
    assert lines[2:] == ["a: wrong bytes of pack 4 (and 3 more like this since the last line)"]
