"""What a log holds never reaches the terminal raw: every command over a queue full of it."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta

import pytest
import scenario
from msgspec import Raw
from nasty import NASTY

from kharon.audit.safe import safe
from kharon.cli.output import Output
from kharon.log.record import Chain
from kharon.model import events as e


@pytest.fixture(scope="module")
def nasty_queue(tmp_path_factory):
    """A log that nobody checked: names, too, are full of it. Its id in each event is the text itself."""
    where = tmp_path_factory.mktemp("nasty") / "queue"
    (where / "log").mkdir(parents=True, mode=0o700)
    chain = Chain()
    lines = [chain.header(scenario.LOG_ID, scenario.EVENING)]
    second = 0

    def put(by, *events):
        nonlocal second
        second += 1
        lines.extend(chain.commit(events, scenario.EVENING + timedelta(seconds=second), by, 0))

    def later(seconds):
        return scenario.EVENING + timedelta(seconds=second + seconds)

    for text in NASTY.values():
        payload = Raw(json.dumps({text: [text], "long": [text] * 5}).encode())
        put(text, e.TicketAdded(text, text, payload, text, 512, later(0), text))
        put(text, e.TicketClaimed(text, 1, later(30), text))
        put(text, e.TicketRetried(text, later(5), text, e.Changes(1, payload, text, text)))
        put(text, e.TicketClaimed(text, 2, later(30), text))
        put("clock", e.TicketLapsed(text, later(9), text))
        put(text, e.TicketFailed(text, text))
        put(text, e.TicketUpdated(text, e.Changes(group=None, payload_json=payload)))
        put(
            text,
            e.TicketAdded(text + " 2", text, payload, text, 512, later(0), text),
            e.TicketClaimed(text + " 2", 1, later(60), text),
        )
        put(text, e.TicketDone(text + " 2", keep=True, result_json=payload))
        put(text, e.TicketAdded(text + " 3", text, payload, text, 512, later(0), text))
        put(text, e.TicketCancelled(text + " 3", keep=True, error_reason=text))
        put(
            text,
            e.TicketAdded(text + " 4", text, payload, text, 512, later(0), text),
            e.TicketClaimed(text + " 4", 1, later(60), text),
        )
        put(text, e.TailCut(text, 1, 2, text), e.LogRepaired(text, 1, 2, text, 3))
        put(text, e.TicketAdded(text + " 5", text, payload, text, 512, later(0), text))
        put(text, e.TicketDeleted(text + " 5"))
        gate = {"after": (text + " 3",), "blocked_by": (text + " 2",), "after_group": text, "blocked_by_group": True}
        put(text, e.TicketAdded(text + " 6", text, payload, text, 512, later(0), text + " 6", **gate))
        put(text, e.TicketAdded(text + " 7", text, payload, text, 512, later(0), **gate))
        put(text, e.TicketUnblocked(text + " 7", text + " 2"), e.TicketUnblocked(text + " 7", text, text))
        put(text, e.TicketUnblocked(text + " 4", text, text, dropped=True))
        put(text, e.TubePaused(text), e.TubeLimited(text, 1, 1, 60.0))
        put(text, e.ScheduleSet(text, text, payload, text, 5, later(60), text, text, None, text))
        put(text, e.ScheduleFired(text, later(60), later(99)), e.ScheduleSkipped(text))
    (where / "log" / f"{1:020}.jsonl").write_bytes(b"".join(lines))
    return where


def commands_about(queue, text):
    yield from (["show", queue, text], ["history", queue, text], ["why", queue, text], ["show", queue, text + " 2"])
    yield from (["why", queue, text + " 6"], ["show", queue, text + " 6"], ["history", queue, text + " 6"])
    yield from (["history", queue, text + " 7"], ["why", queue, text + " 7"], ["history", queue, text + " 4"])
    yield from (["history", queue, text + " 3"], ["why", queue, text + " 4"], ["show", queue, text + " 5"])
    yield from (
        ["show", queue, text + " nobody"],
        ["tail", queue, "--id", text],
        ["tail", queue, "--by", text, "-n", "99"],
    )
    yield from (["ls", queue, "--type", text], ["ls", queue, "--tube", text], ["ls", queue, "--group", text])
    yield from (["ls", queue, "--status", text], ["tail", queue, "--event", text], ["stats", queue, "--by", text])
    yield from (["as-of", queue, text], ["diff", queue, "1", text], ["stats", queue, "--since", text])
    yield from (["verify", queue, "--anchor", text.replace("\0", "").replace("/", "")], ["ls", text.replace("\0", "")])
    yield from ([text, queue], ["ls", queue, text], ["simulate", queue, "--backoff", text])
    yield from (["report", queue, text, "-o", "-"], ["report", queue, text, "-o", "nowhere/" + text.replace("\0", "")])
    yield from (["export", queue, "--to", "nowhere/" + text.replace("\0", "")],)


def commands_about_all(queue):
    yield from (["tubes", queue], ["schedules", queue])
    yield from (["ls", queue], ["tail", queue, "--after", "0"], ["tail", queue], ["diff", queue, "0", "100"])
    yield from (["as-of", queue, "30"], ["stats", queue], ["simulate", queue], ["diff", queue, "0", "9999"])
    yield from ([["stats", queue, "--by", by] for by in ("type", "tube", "hour")])
    yield from (["verify", queue], ["anchor", queue], ["diff", queue, "2", "9"], ["report", queue, "-o", "-"])


OURS = re.compile(r"\x1b\[[0-9;]*m")


def check_lines(text, *, coloured):
    if coloured:
        text = OURS.sub("", text)
    for line in text.split("\n"):
        assert line == safe(line), ascii(line)


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_every_command_over_a_queue_full_of_it(run, nasty_queue, terminal, record_property):
    commands = [*commands_about_all(nasty_queue)]
    for text in NASTY.values():
        commands += commands_about(nasty_queue, text)
    for command in commands:
        ran = run(*command, terminal=terminal)
        assert "bug in Kharon" not in ran.err, (command, ran.err)
        assert ran.out or ran.err, command
        check_lines(ran.out, coloured=terminal)
        check_lines(ran.err, coloured=False)
    record_property("commands over text full of escapes", len(commands))


def test_the_ids_are_found_by_what_they_are(run, nasty_queue):
    for text in NASTY.values():
        (found,) = run("show", nasty_queue, text, "--json").objects
        assert (found["id"], found["error_reason"], found["payload"][text]) == (text, text, [text])
        assert safe(text) in run("show", nasty_queue, text).out
        assert len(run("history", nasty_queue, text, "--json").objects) == 7


def test_json_is_ascii_and_exact(run, nasty_queue):
    commands = [*commands_about_all(nasty_queue)]
    for text in NASTY.values():
        commands += commands_about(nasty_queue, text)
    for command in commands:
        ran = run(*command, "--json")
        assert ran.out.isascii(), command
        assert ran.err.isascii(), command
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", ran.out + ran.err), command
        for line in (ran.out + ran.err).splitlines():
            assert isinstance(json.loads(line), dict), command


def test_lone_surrogates(run, nasty_queue):
    """Not in a log of ours, but in an argument that is no UTF-8, and in the name of a file."""
    for command in (
        ["show", nasty_queue, "\udcff"],
        ["history", nasty_queue, "\udcff"],
        ["ls", "\udcff"],
        ["ls", nasty_queue, "--type", "\udcff"],
    ):
        for more in ([], ["--json"]):
            ran = run(*command, *more)
            assert "bug in Kharon" not in ran.err
            assert ran.code == (0 if "--type" in command else 2 if command[0] == "ls" else 1), (command, ran.err)
            check_lines(ran.out + ran.err, coloured=False)


def test_everything_that_is_written_passes_it():
    """A line, a table's cell, its style, what is said, a refusal, and a bar's name."""
    text = "".join(NASTY.values())
    stream = io.StringIO()
    out = Output(json=False, stdout=stream, stderr=stream)
    out.line(text, text)
    out.table(("a", "b"), [(text, text)])
    out.say(text)
    out.refuse(text, {})
    check_lines(stream.getvalue(), coloured=False)
    assert stream.getvalue().count(safe(text).strip()) == 6
