"""One line for each cause in a minute, with a count."""

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
