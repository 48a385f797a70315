"""Every command on a queue that another process writes at that moment; and `tail -f`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest
import scenario

import kharon as k
from kharon.log import snapshot
from kharon.log.directory import DirectoryLog
from kharon.model import commands as c
from kharon.model.events import Changes, LogClosed

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
PATIENCE = 120  # seconds; never reached unless something hangs


@pytest.fixture
def live(tmp_path):
    """A queue that is being written, and the process that writes it."""
    where = tmp_path / "queue"
    writer = subprocess.Popen(
        [sys.executable, str(HERE / "application.py"), str(where)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert writer.stdout.readline() == b"ready\n"
        yield where, writer
    finally:
        writer.kill()
        writer.wait(PATIENCE)
        writer.stdin.close()
        writer.stdout.close()


@pytest.fixture
def start():
    """`start("tail", path, "-f")` is a command that runs in a process of its own."""
    running = []

    def start(*arguments, **more):
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "kharon", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": ""},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **more},
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait(PATIENCE)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_every_command_while_another_process_writes(run, live, at_home, tmp_path):
    at_home.delenv("KHARON_NOW")
    where, writer = live
    kept = tmp_path / "kept.anchor"
    kept.write_text(run("anchor", where).out)
    with k.follow(where, durable=False) as coming:
        for _ in islice(coming, 500):  # so that there are segments of every kind
            pass
    commands = [
        ["ls", where],
        ["ls", where, "--due"],
        ["show", where, "kept"],
        ["history", where, "kept"],
        ["history", where, "ticket-7"],
        ["why", where, "kept"],
        ["tubes", where],
        ["schedules", where],
        ["as-of", where, 5],
        ["as-of", where, "now"],
        ["diff", where, 3, 30],
        ["tail", where],
        ["tail", where, "--after", 0],
        ["stats", where, "--by", "hour"],
        ["verify", where, "--anchor", kept],
        ["anchor", where],
        *(["export", where, "--force", "--to", tmp_path / f"out.{kind}"] for kind in ("csv", "jsonl", "sqlite")),
        ["simulate", where, "--workers", 2],
        ["report", where, "-o", tmp_path / "queue.html", "--force"],
        ["report", where, "kept", "-o", tmp_path / "ticket.html", "--force"],
    ]
    before = where.joinpath("LOCK").stat()
    seqs = []
    for _ in range(2):
        for command in commands:
            ran = run(*command)
            assert ran.code == 0, (command, ran.err)
            assert "kharon:" not in ran.err, (command, ran.err)
            assert writer.poll() is None, "the writer was disturbed"
        seqs.append(k.anchor(where).seq)
    assert seqs[0] < seqs[1], "it was not written at the same time"
    assert len(list(where.glob("log/*"))) > 3
    assert where.joinpath("LOCK").stat().st_mtime_ns == before.st_mtime_ns
    writer.stdin.close()
    assert writer.wait(PATIENCE) == 0
    assert run("verify", where, "--anchor", kept, "--json").objects[0]["closed"] is True


def test_following(live, start):
    where, _ = live
    process = start("tail", where, "-f", "--json", "-n", 1)
    seqs = [json.loads(process.stdout.readline())["seq"] for _ in range(300)]
    assert seqs == list(range(seqs[0], seqs[0] + 300))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, b"")
    assert out == b"" or out.endswith(b"\n")


def test_following_a_queue_that_falls_silent(tmp_path, start):
    """What no later line vouches for is given too: a person who looks wants to see it now."""
    log = DirectoryLog(tmp_path / "queue")
    list(log.open(datetime.now(UTC)))
    process = start("tail", tmp_path / "queue", "-f", "--after", 0, "--json")
    for seq in (1, 2, 3):
        log.append([LogClosed()], datetime.now(UTC), "clock")
        log.write()
        assert json.loads(process.stdout.readline())["seq"] == seq
    log.abandon()


def test_following_what_is_wanted(live, start):
    where, _ = live
    process = start("tail", where, "-f", "--after", 0, "--event", "failed")
    lines = [process.stdout.readline().decode() for _ in range(20)]
    assert lines[0].split()[:3] == ["seq", "at", "event"]
    assert all(" failed " in line and "a seventh is retried" in line for line in lines[1:])


def test_following_what_records_are_about(tmp_path, start):
    """Through the end of segments and their trimming: what a ticket is was said in records that are gone."""
    where = tmp_path / "queue"
    night = scenario.Night(where)

    def filled(times=400):
        for _ in range(times):
            night.add("shop", k.Ticket("other", "t", tube="a"))

    def told(by):
        found = json.loads(by.stdout.readline())
        return found["seq"], found["event"], found.get("id")

    night.add("shop", k.Ticket("mover", "t", tube="a"))
    first = start("tail", where, "-f", "--tube", "b", "--after", 0, "--json")
    night.give("ann", c.Update("mover", Changes(tube="b")))
    assert told(first) == (2, "TicketUpdated", "mover")
    for nice in range(3):
        filled()
        night.give("ann", c.Update("mover", Changes(nice=nice)), c.Pause("a"), c.Resume("a"))
        assert told(first)[1:] == ("TicketUpdated", "mover")
        snapshot.take(where)
    later = start("tail", where, "-f", "--tube", "b", "--after", night.projection.seq, "--json")
    night.give("worker-1", c.Claim("mover", "worker-1"))
    expected = (night.projection.seq, "TicketClaimed", "mover")
    assert [told(first), told(later)] == [expected] * 2
    oldest = k.verify(where).first
    night.keep(scenario.RetentionRules(trim=scenario.EVERYTHING), lambda _upto: True)
    assert k.verify(where).first > oldest
    trimmed = start("tail", where, "-f", "--tube", "b", "--type", "t", "--after", night.projection.seq, "--json")
    filled()
    night.give("worker-1", c.Done("mover"), c.Pause("b"))
    expected = (night.projection.seq - 1, "TicketDone", "mover")
    assert [told(each) for each in (first, later, trimmed)] == [expected] * 3
    expected = (night.projection.seq, "TubePaused", None)
    assert [told(each) for each in (first, later)] == [expected] * 2
    night.log.abandon()


def test_the_end_of_a_pipe_is_silent(live, start):
    """As in `kharon tail -f | head -1`, and while the last of it is flushed."""
    where, _ = live
    for command in (["tail", where, "-f", "--after", 0], ["tail", where, "--after", 0, "--json"], ["ls", where]):
        process = start(*command)
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=PATIENCE)
        assert err == b""
        assert process.returncode in ({141} if "-f" in command else {0, 141})


def test_a_pipe_that_nobody_reads_from_the_start(live, start):
    where, _ = live
    read, write = os.pipe()
    os.close(read)
    process = start("ls", where, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (141, b"")


def test_a_full_disk_is_one_line(live, start):
    where, _ = live
    with Path("/dev/full").open("wb") as full:
        process = start("ls", where, stdout=full)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert err == b"kharon: No space left on device\n"


def test_following_ends_with_the_terminal_that_it_wrote_to(live, start):
    """A follower waits without writing; what it then writes to a closed pipe ends it."""
    where, _ = live
    process = start("tail", where, "-f", "-n", 0)
    reader = threading.Thread(target=process.stdout.readline)
    reader.start()
    reader.join(PATIENCE)
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (141, b"")
