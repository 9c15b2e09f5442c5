"""Progress without a terminal: a line every half minute, and silence before."""

import io

from swingkd import progress
from swingkd.progress import Clock, duration, progress_bar


def test_a_line_every_half_minute():
    times = iter([0.0, 10.0, 31.0, 45.0, 62.0, 70.0])
    clock = Clock(100, 20, now=lambda: next(times))
    assert clock.line(25) is None
    assert clock.line(30) == "step 30 of 100, 00:31 gone, 03:37 left"
    assert clock.line(35) is None
    assert clock.line(40) == "step 40 of 100, 01:02 gone, 03:06 left"
    assert clock.line(50) is None


def test_a_bar_is_lines_where_nobody_looks(monkeypatch):
    monkeypatch.setattr(progress, "seen_live", lambda: False)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    for _ in progress_bar(range(3), desc="Scoring"):
        pass
    assert "Scoring: 1 of 3" in out.getvalue()
    assert "\r" not in out.getvalue()


def test_it_is_silent_before_and_where_it_is_to_be(capsys):
    list(progress_bar(range(3), desc="Scoring"))
    list(progress_bar(range(3), desc="Scoring", disable=True))
    assert "Scoring: " not in capsys.readouterr().err


def test_durations_for_people():
    assert [duration(s) for s in (0.1, 59, 600, 7200)] == ["a second", "59 seconds", "10 minutes", "2.0 hours"]
