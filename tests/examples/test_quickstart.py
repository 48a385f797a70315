from __future__ import annotations

import json


def test_it_handles_its_ticket_and_ends(start):
    process = start("quickstart.py")
    assert process.ended() == 0, process.errors
    assert process.lines == [
        "added task-1: it is on disk now",
        "sending 'Your ferry leaves at noon' to ann@example.org",
        "task-1 is done, attempts: 1",
        "  record 1: TicketAdded",
        "  record 2: TicketClaimed",
        "  record 3: TicketDone",
    ]
    assert process.errors == ""


def test_its_queue_is_in_the_directory_that_is_named_and_remembers(start, tmp_path):
    for _ in range(2):
        process = start("quickstart.py", "elsewhere")
        assert process.ended() == 0, process.errors
        assert process.errors == ""
    assert process.lines.count("sending 'Your ferry leaves at noon' to ann@example.org") == 1
    assert sum("TicketDone" in line for line in process.lines) == 2  # the history is that of both runs
    assert not (tmp_path / "queue").exists()
    (segment,) = (tmp_path / "elsewhere" / "log").iterdir()
    events = [json.loads(line).get("event") for line in segment.read_text().splitlines()]
    assert events == [None, *["TicketAdded", "TicketClaimed", "TicketDone", "LogClosed"] * 2]


def test_killed_in_the_handler_it_sends_in_the_next_run(start):
    process = start("quickstart.py")
    process.line_with("sending")
    process.kill()
    process = start("quickstart.py")
    assert process.ended() == 0, process.errors
    assert "task-1 is done, attempts: 1" in process.lines  # added again, so the killed attempt is not its own
    ends = [line.split(": ")[1] for line in process.lines if "TicketLapsed" in line or "TicketDone" in line]
    assert ends[-1] == "TicketDone"
    assert ends[:-1] in (["TicketLapsed"], ["TicketDone"])  # the second: the machine was slow to kill it
