from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import extras

import kharon
from kharon.model.events import ScheduleFired, ScheduleSet

extras.need("cron")


def probed(lines):
    return [line for line in lines if "probing" in line]


def test_it_probes_goes_on_after_a_kill_and_no_instant_fires_twice(start, tmp_path):
    process = start("periodic.py")
    process.line_with("probing")
    process.kill()
    process = start("periodic.py")
    assert process.ended() == 0, process.errors
    assert all("lapsed" in line for line in process.errors.splitlines()), "the killed attempt, if it had not ended"
    assert process.lines[1].startswith("report: next at ")
    assert process.lines[1].endswith("last at no time yet")
    assert "last at no time yet" not in process.lines[0]
    assert process.lines[0].startswith("probe: next at ")
    assert len(probed(process.lines)) >= 3

    events = [record.event for record in kharon.read(tmp_path / "queue")]
    assert sum(isinstance(event, ScheduleSet) for event in events) == 2, "the second start changed nothing"
    fired = [event.due for event in events if isinstance(event, ScheduleFired)]
    assert all((later - earlier) % timedelta(seconds=1) == timedelta(0) for earlier, later in pairwise(fired))
    assert all(earlier < later for earlier, later in pairwise(fired))
    assert kharon.verify(tmp_path / "queue").closed
