"""Tickets in every state, an empty queue, and one whose beginning was trimmed."""

from __future__ import annotations

import contextlib

import pytest
import scenario
from queues import trimmed_queue

import kharon as k
from kharon.cli import records
from kharon.cli.tickets import _about
from kharon.log.directory import DirectoryLog
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.evolve import evolve


@pytest.fixture
def running(where):
    """A queue with a claimed ticket, a delayed one, and one that was added again after it was removed."""
    night = scenario.Night(where)
    night.add(
        "shop", k.Ticket("running", "t"), k.Ticket("twice", "t", payload={"text": "x" * 60, "list": [1, {"a": None}]})
    )
    night.seconds = 5
    night.give("worker-1", c.Claim("running", "worker-1"))
    night.give("shop", c.Done("twice"))
    night.seconds = 9
    night.add("shop", k.Ticket("twice", "t", payload={"text": "x" * 60, "list": [1, {"a": None}]}), delay=60)
    night.log.abandon()
    return where


def at(monkeypatch, seconds):
    monkeypatch.setenv("KHARON_NOW", (scenario.EVENING + scenario.timedelta(seconds=seconds)).isoformat())


def test_a_ticket_that_runs(run, running, at_home):
    at(at_home, 10)
    ls = run("ls", running).out.splitlines()
    assert ls[1:] == [
        "running  t     default  claimed  by worker-1, attempt 1, lease ends in 55 s",
        "twice    t     default  delayed  due in 59 s",
    ]
    assert "claimed by   worker-1\n" in run("show", running, "running").out
    assert "lease until  2026-03-10 18:01:05.000Z (in 55 s)\n" in run("show", running, "running").out
    assert "'worker-1' has it (attempt 1, 24 left)" in run("why", running, "running").out
    assert "attempts left  24\n" in run("why", running, "running").out
    assert "1 left" in run("why", running, "running", "--max-attempts", 2).out
    assert "attempts left" not in run("why", running, "running", "--max-attempts", 0).out
    assert "attempt 1 runs, 5.0 s so far" in run("history", running, "running").out
    at(at_home, 100)
    assert "lease ended 35 s ago" in run("ls", running).out
    assert [found["state"] for found in run("ls", running, "--json").objects] == ["claimed", "ready"]


def test_a_limit_of_none_does_not_deny_that_there_are_tickets(run, running):
    ran = run("ls", running, "--limit", 0)
    assert (ran.out, ran.err) == ("", "2 more; --limit sets how many are shown\n")


def test_a_payload_is_laid_out_by_its_own_lines_alone(run, where):
    """What Unicode takes for the end of a line is shown as what it is: it is in the payload, and no line of ours."""
    night = scenario.Night(where)
    night.add("shop", k.Ticket("odd", "t", payload={"text": "x" * 60 + "\u2028\x85\u2029!", "more": 1}))
    night.log.abandon()
    assert '"text": "' + "x" * 60 + '\\u2028\\x85\\u2029!",\n' in run("show", where, "odd").out


def test_two_lives(run, running, at_home):
    at(at_home, 10)
    ran = run("history", running, "twice")
    assert ran.out.split("\n\n")[1].splitlines()[1].split()[:1] == ["5"]
    assert [found["life"] for found in run("history", running, "twice", "--json").objects] == [1, 1, 2]
    assert "delayed 1.0 s so far" in ran.out


def test_a_long_payload_is_laid_out(run, running):
    shown = run("show", running, "twice").out.split("payload   ")[1]
    assert shown.splitlines() == [
        "{",
        f'            "text": "{"x" * 60}",',
        '            "list": [',
        "              1,",
        "              {",
        '                "a": null',
        "              }",
        "            ]",
        "          }",
    ]


def test_a_result(run, queue_of_a_night):
    shown = run("as-of", queue_of_a_night, 216, "--json", "--tube", "default", "--status", "done").objects
    assert [found["result"]["file"] for found in shown] == [f"reports/report-2026-03-{day}.csv" for day in (10, 11)]


def test_a_ticket_that_is_blocked():
    def about(*ids, group=None):
        gates = {"after": ids, "blocked_by": ids, "after_group": group, "blocked_by_group": group is not None}
        told = e.TicketAdded("a", "t", e.Raw(b"1"), "q", 1, scenario.NOW, **gates)
        return _about(evolve(None, told, 1, scenario.NOW), "blocked", scenario.NOW)

    assert about("b", "c") == "by b, c"
    assert about(group="g") == "by members of group g"
    assert about("b", group="g") == "by b and members of group g"
    assert about(*"bcdefghi") == "by b, c, d, e, f and 3 more"


def test_a_ticket_that_waits_for_a_group_alone_in_a_tube_that_is_full(run, where):
    night = scenario.Night(where)
    night.add("shop", k.Ticket("member", "t", tube="full", group="g"))
    finalizer = k.Ticket("finalizer", "t")
    night.give("shop", c.Add(finalizer.id, finalizer, after_group="g"), c.Limit("full", 1))
    night.give("worker-1", c.Claim("member", "worker-1"))
    night.log.abandon()
    assert "\nblocked by    members of group g\n" in run("show", where, "finalizer").out
    assert run("tubes", where).out.splitlines()[2].endswith("at most 1 claimed at once; at its limit")


def test_an_empty_queue(run, where):
    log = DirectoryLog(where)
    list(log.open(scenario.EVENING))
    log.abandon()
    for command, says in (
        (["ls", where], "no tickets"),
        (["tail", where], ""),
        (["stats", where], "no records"),
        (["simulate", where], "no records, so there is nothing to simulate"),
        (["as-of", where, 0], "after record 0"),
        (["diff", where, 0, 0], "nothing changed"),
    ):
        ran = run(*command)
        assert (ran.code, ran.out) == (0, ""), command
        assert says in ran.err, command
    assert run("show", where, "a").code == 1
    assert run("ls", where, "--json").out == ""
    assert run("simulate", where, "--json").out == ""


def test_a_log_whose_beginning_was_trimmed(run, where):
    scenario.build(where, trimmed=True)
    assert k.verify(where).first > 1
    ran = run("stats", where, "--json")
    assert ran.code == 0
    assert ran.err.startswith("counted from record ")
    first = int(ran.err.split()[3])
    total = ran.objects[0]
    records = [record for record in k.read(where) if record.seq >= first]
    assert total["claimed"] == sum(isinstance(record.event, k.model.events.TicketClaimed) for record in records) > 20
    assert total["waited"]["count"] == total["claimed"]
    for command in (
        ["ls", where],
        ["tail", where],
        ["verify", where],
        ["anchor", where],
        ["simulate", where],
        ["as-of", where, 430],
    ):
        assert run(*command).code == 0, command
    ran = run("as-of", where, 10)
    assert ran.code == 2
    assert "trimmed" in ran.err
    ran = run("history", where, "invoice-1039")
    assert ran.code == 0


def test_a_ticket_older_than_the_trim_is_printed(run, where):
    """From where a snapshot vouches for it; what is older is printed as the records that are left."""
    trimmed_queue(where, 2)
    ran = run("history", where, "a")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["seq", "3", "5", "7", "1"]
    assert "attempt 1 ran 2.0 s" in ran.out
    assert [found["seq"] for found in run("history", where, "a", "--json").objects] == [3, 5, 7]
    ran = run("history", where, "quiet")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "kharon: ticket 'quiet': its records were trimmed; kharon show shows it as a snapshot holds it\n"
    assert "state     ready\n" in run("show", where, "quiet").out


def test_of_one_that_nothing_vouches_for_the_records_are_printed(run, where):
    trimmed_queue(where, 2)
    for path in (where / "snapshots").iterdir():
        path.unlink()
    ran = run("history", where, "a")
    assert (ran.code, ran.err) == (0, "3 older records belong to a life whose beginning is missing from the log\n")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["seq", "3", "5", "7"]
    found = run("history", where, "a", "--json").objects
    assert [(each["seq"], each["life"], each["spans"]) for each in found] == [(seq, None, []) for seq in (3, 5, 7)]


def test_a_diff_in_a_log_whose_beginning_was_trimmed(run, where):
    trimmed_queue(where, 2)
    assert run("diff", where, 4, 7).out.splitlines()[1:] == [
        "-  a   email in default, claimed by worker-1, attempt 1, lease ends in 56 s",
        "~  b   nice 512 -> 1",
    ]
    ran = run("diff", where, 1, 2)
    assert (ran.code, ran.out) == (2, "")
    assert "the history begins at record 3" in ran.err


def test_what_a_record_is_about_in_a_log_whose_beginning_was_trimmed(run, kharon, where):
    """It is known from where a snapshot stands on, and there it is what it is in the whole log."""
    scenario.build(where, trimmed=True)
    ran = run("tail", where, "--tube", "mail", "--after", 0, "--json")
    assert ran.err.startswith("printed from record "), "more was asked for than can be printed"
    first = int(ran.err.split()[3])
    assert first > k.verify(where).first
    whole = kharon("tail", "queue", "--tube", "mail", "--after", first - 1, "--json")
    assert ran.objects == whole.objects
    assert {"TicketAdded", "TicketClaimed", "TicketDone"} < {found["event"] for found in ran.objects[:20]}
    before = {found["id"] for found in ran.objects if "id" in found}
    before -= {found["id"] for found in ran.objects if found["event"] == "TicketAdded"}
    assert before, "the snapshot alone knows what they are"
    for after in (first - 1, 430):
        behind = run("tail", where, "--tube", "mail", "--after", after, "--json")
        assert behind.objects == [found for found in whole.objects if found["seq"] > after]
        assert behind.err == ""
    assert run("tail", where, "--after", 0).err == "", "nothing needs to be known of the records before"


@pytest.mark.parametrize(
    ("backoff", "says"),
    [
        ("soon", "'soon' is not a duration"),
        ("x:5m", "'x' is not a number"),
        ("2:5m:1:1", "too many parts"),
        ("2:soon", "'soon' is not a duration"),
        ("0.5:5m", "BackoffDelay.base: 0.5"),
        ("2:5:9", "BackoffDelay.jitter: 9.0 is not a share"),
        ("2:5:x", "'x' is not a number; jitter"),
    ],
)
def test_a_backoff_that_is_none(kharon, backoff, says):
    ran = kharon("simulate", "queue", "--backoff", backoff)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


@pytest.mark.parametrize("backoff", ["30s", "2:5m", "1.5:15:0.2"])
def test_a_backoff(kharon, backoff):
    ran = kharon("simulate", "queue", "--backoff", backoff, "--max-attempts", 0, "--process-time", "2m", "--json")
    settings = ran.objects[1]["settings"]
    assert settings == {"workers": 2, "process_time": 120, "max_attempts": None, "backoff": backoff}


@pytest.mark.parametrize("option", [["--workers", 0], ["--process-time", 0], ["--max-attempts", -1]])
def test_settings_that_cannot_be(kharon, option):
    ran = kharon("simulate", "queue", *option)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("kharon: Settings.")


def test_following_what_records_are_about_from_one_that_is_still_to_come(run, where, monkeypatch):
    """The records up to there are not given, but must be folded."""
    night = scenario.Night(where)
    night.add("shop", k.Ticket("a", "t", tube="mail"), k.Ticket("b", "t", tube="mail"))
    night.give("ann", c.Pause("other"))

    @contextlib.contextmanager
    def until_that_moment(queue, after, *, durable):
        night.give("ann", c.Update("a", e.Changes(tube="other")), c.Delete("b"), c.Delete("a"))
        yield k.read(queue, after)

    monkeypatch.setattr(records, "follow", until_that_moment)
    to_come = night.projection.seq + 1
    ran = run("tail", where, "-f", "--tube", "other", "--after", to_come, "--json")
    night.log.abandon()
    assert (ran.code, ran.err) == (0, "")
    assert [(found["event"], found["id"]) for found in ran.objects] == [("TicketDeleted", "a")]
