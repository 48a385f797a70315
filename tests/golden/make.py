"""Make new golden directories: `python tests/golden/make.py NAME…`.

Each is a queue's directory as this version of Kharon writes it, with what has to be seen of it for ever:

    tests/golden/<name>/queue/           the directory
    tests/golden/<name>/expected.json    what `looking.look` saw of it
    tests/golden/SHA256SUMS              of every file of these

A directory that is there is never made anew, since the version that wrote it is gone. A scenario is a function here
that fills an empty place; its name is the directory's. Clocks, ids and locks are made to say the same each time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import trio
from looking import copy, load, look
from msgspec import Raw

import kharon
from kharon.log import repair
from kharon.log.directory import DirectoryLog
from kharon.log.record import link
from kharon.log.retention import MayTrim, Retention, RetentionRules, Threshold, never
from kharon.log.snapshot import take, trimmable
from kharon.model import commands as c
from kharon.model.checks import check_json
from kharon.model.commit import Commit
from kharon.model.events import Changes

HERE = Path(__file__).parent
SUMS = HERE / "SHA256SUMS"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SMALL = 1500  # bytes of a segment: about four records

Scenario = Callable[[Path], None]
SCENARIOS: dict[str, Scenario] = {}
UNSEEN = {"snapshot-alone": ("verify", "read", "replay")}
"""What was never promised: here, what an audit says of a log that does not say where its beginning went."""


def scenario(make: Scenario) -> Scenario:
    SCENARIOS[make.__name__.replace("_", "-")] = make
    return make


class Queue:
    """A log with its projection, written by commands; each commit takes place a quarter of a second after the last."""

    def __init__(self, where: Path, segment_bytes: int = 8 << 20, reserve_bytes: int = 0) -> None:
        self.log = DirectoryLog(where, segment_bytes, reserve_bytes=reserve_bytes)
        self.now = BEGIN
        self.projection = load(where, self.log, self.now)
        self.now = max(self.now, self.projection.at or self.now)

    def do(self, by: str, *commands: c.Request, sync: bool = True) -> None:
        """Decide commands, in one commit, and write it."""
        self.now += timedelta(seconds=0.25)
        commit = Commit(self.projection, c.Context(self.now, 0.5))
        commit.run(commands)
        commit.keep()
        self.log.append([effect.event for effect in commit.effects], self.now, by)
        self.log.write()
        if sync:
            self.log.sync()

    def retain(self, policy: RetentionRules, may_trim: MayTrim = never) -> None:
        """Do to the oldest segments what a policy says, until there are only few left to which it was not done."""
        retention = Retention(self.log, policy, None, may_trim)
        for _ in range(len(segments(self.log.directory)) - 2):
            step = retention.plan(self.now)
            if step is None:
                return
            self.now += timedelta(seconds=0.25)
            event = retention.prepare(step)
            self.log.append([event], self.now, "clock")
            self.projection.apply(event, self.projection.seq + 1, self.now)
            self.log.write()
            self.log.sync()
            retention.switch(step)
            retention.finish(step)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def close(self) -> None:
        self.pass_time(1)
        self.log.close(self.now)

    def kill(self) -> None:
        self.log.abandon()


def add(id: str, type: str = "email", **fields: object) -> c.Add:
    return c.Add(id, kharon.Ticket(id, type, **fields))  # type: ignore[arg-type]


def later(
    id: str, *after: str, group: str | None = None, after_group: str | None = None, on_failure: str = "run"
) -> c.Add:
    """Add a ticket that is to wait for others."""
    ticket = kharon.Ticket(id, "finalizer", group=group)
    return c.Add(id, ticket, after=after, after_group=after_group, on_failure=on_failure)


def claimed(queue: Queue, *ids: str) -> None:
    for id in ids:
        if id not in queue.projection.tickets:
            queue.do("ann", add(id, payload={"to": f"{id}@example.org"}))
        queue.do("worker-1", c.Claim(id, "worker-1"))


def segments(where: Path) -> list[Path]:
    return sorted((where / "log").iterdir())


def cut_off(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def alter(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1, (path, old)
    path.write_bytes(data.replace(old, new))


# --- the scenarios ----------------------------------------------------------------------------------------------------


@scenario
def empty(where: Path) -> None:
    """Opened and closed: nothing happened in it."""
    Queue(where).close()


@scenario
def header(where: Path) -> None:
    """Nothing but the header of its first segment: no lock, no other directory."""
    Queue(where).close()
    (where / "LOCK").unlink()


@scenario
def events(where: Path) -> None:
    """Every event that a command leads to, with all of its optional fields, and without."""
    queue = Queue(where)
    hour = timedelta(hours=1)
    queue.do("ann", add("plain"), add("full", "report", payload={"n": [1, 2.5, None, True]}, tube="night", nice=-3))
    queue.do("ann", add("dated", runat=BEGIN + hour, group="g"))
    claimed(queue, "acked", "done", "done-plain", "failed", "failed-plain", "cancelled", "cancelled-plain")
    queue.do("worker-1", c.Extend("done", seconds=120))
    queue.do("worker-1", c.Done("acked"))
    queue.do("worker-1", c.Done("done", keep=True, result=check_json("result", {"sent": 3}), expire_in=60.0))
    queue.do("worker-1", c.Done("done-plain", keep=True))
    queue.do("worker-1", c.Fail("failed", error_reason="no such address", expire_in=3600.0))
    queue.do("worker-1", c.Fail("failed-plain"))
    queue.do("bob", c.Cancel("cancelled", keep=True, error_reason="not wanted", expire_in=7200.0))
    queue.do("bob", c.Cancel("cancelled-plain"))
    claimed(queue, "retried", "retried-plain", "released", "lapsed", "lapsed-last")
    everything = Changes(9, Raw(b'{"to":"bob"}'), "night", "g2", BEGIN + hour)
    queue.do("worker-1", c.Retry("retried", delay=3.0, error_reason="busy", changes=everything))
    queue.do("worker-1", c.Retry("retried-plain"))
    queue.do("worker-1", c.Release("released"))
    queue.do("ann", c.Update("dated", Changes(group=None)), c.Update("full", everything), c.Update("plain", Changes(5)))
    queue.do("ann", c.Update("plain", Changes(payload_json=Raw(b"[]"))), c.Update("plain", Changes(tube="day")))
    queue.do("ann", c.Update("plain", Changes(runat=BEGIN)))
    queue.pass_time(31)
    lapse = {"error_reason": "the lease ended", "backoff": kharon.BackoffDelay()}
    queue.do("clock", c.Lapse("lapsed", max_attempts=25, **lapse), c.Lapse("lapsed-last", max_attempts=1, **lapse))  # type: ignore[arg-type]
    queue.do("bob", c.Restart("failed-plain"))
    queue.do("ann", add("deleted"))
    queue.do("bob", c.Delete("deleted"))
    queue.pass_time(60)
    queue.do("clock", c.Expire("done"))
    queue.close()


@scenario
def successors(where: Path) -> None:
    """Tickets added again: waiting, ended, and while claimed, whatever ends the claim then; some still run."""
    queue = Queue(where)
    again = ("acked", "done", "failed", "cancelled", "retried", "released", "lapsed", "running", "updated")
    claimed(queue, *again)
    queue.do("ann", *(add(id, "again", payload=[id], nice=1) for id in again))
    queue.do("ann", c.Update("updated", Changes(nice=2, tube="other")))
    queue.do("ann", add("running", "once more", group="late"))
    for command in (
        c.Done("acked"),
        c.Done("done", keep=True, result=b"1"),
        c.Fail("failed", error_reason="lost to the newest"),
        c.Cancel("cancelled", keep=True),
        c.Retry("retried", delay=9.0),
        c.Release("released"),
    ):
        queue.do("worker-1", command)
    queue.pass_time(40)
    queue.do("clock", c.Lapse("lapsed", error_reason="late", backoff=kharon.FixedDelay(3), max_attempts=None))
    queue.do("ann", add("waiting"), add("ended"))
    queue.do("ann", c.Done("ended", keep=True, result=b'"first"'))
    queue.do("ann", add("ended", "second"), add("waiting", "second"))
    claimed(queue, "released")
    queue.close()


@scenario
def moved(where: Path) -> None:
    """Tickets that are given back changed: to another tube, out of their group, and in all that can be."""
    queue = Queue(where)
    claimed(queue, "elsewhere", "all")
    queue.do("worker-1", c.Release("elsewhere", changes=Changes(tube="other")))
    queue.do("worker-1", c.Release("all", changes=Changes(9, Raw(b'{"to":"bob"}'), "night", "g", BEGIN)))
    queue.close()


@scenario
def second_attempts(where: Path) -> None:
    """Every event about tickets that have failed once before: what it clears, and what it leaves as it was."""
    queue = Queue(where)
    ends: dict[str, Callable[[str], c.Command]] = {
        "claimed": lambda name: c.Extend(name, seconds=90),
        "done": lambda name: c.Done(name, keep=True, result=b"[1]", expire_in=60.0),
        "failed": lambda name: c.Fail(name, error_reason="twice", expire_in=60.0),
        "failed-silently": c.Fail,
        "cancelled": lambda name: c.Cancel(name, keep=True, error_reason="enough", expire_in=60.0),
        "retried": lambda name: c.Retry(name, delay=kharon.BackoffDelay(jitter=4), error_reason="twice"),
        "retried-silently": lambda name: c.Retry(name, delay=2.0),
        "released": c.Release,
        "lapsed": lambda name: c.Lapse(name, error_reason="late", backoff=kharon.BackoffDelay(), max_attempts=3),
        "updated": lambda name: c.Update(name, Changes(nice=1, payload_json=Raw(b"2"))),
    }
    for id, end in ends.items():
        for each in (id, f"{id}, restarted", f"{id}, anew", f"{id}, changed"):
            queue.do("ann", add(each, payload=1, group="g"), c.Claim(each, "worker-1"))
            queue.do("worker-1", c.Retry(each, error_reason="once"), c.Claim(each, "worker-2"))
            queue.do("worker-2", end(each))
        if id in ("done", "failed", "failed-silently", "cancelled"):
            queue.do("bob", c.Restart(f"{id}, restarted"))
        queue.do("bob", add(f"{id}, anew", "other"), c.Update(f"{id}, changed", Changes(tube="late")))
    queue.close()


def _wait(queue: Queue) -> None:
    """Fill a queue with tickets that wait for others: by id, for a group, for both; and let some of them run."""
    queue.do("ann", *(add(f"m{number}", group="g") for number in range(6)), add("alone"))
    queue.do("ann", later("runs", after_group="g"), later("stops", after_group="g", on_failure="cancel"))
    queue.do(
        "ann", later("both", "m0", "alone", "nobody", after_group="g"), later("next", "stops", on_failure="cancel")
    )
    queue.do("ann", later("empty", after_group="nobody's"), later("late", group="g", after_group="h"))
    claimed(queue, "m1", "m2", "m3")
    queue.do("ann", add("m1", "again", group="g"), later("m2", "m4", group="h", on_failure="cancel"))
    queue.do("ann", later("behind h", after_group="h"), later("m3", "alone", after_group="h"))
    queue.do("worker-1", c.Done("m1"))
    queue.do("bob", c.Update("m5", Changes(group=None)), c.Delete("m0"))
    queue.do("bob", c.Fail("m4", error_reason="no"))


@scenario
def waiting(where: Path) -> None:
    """Finalizers, groups and successors that wait: some unblocked, cancelled or dropped, some waiting still."""
    queue = Queue(where)
    _wait(queue)
    queue.do("ann", later("runs", after_group="g"), later("m5", "both", group="g"), add("m4", group="g"))
    queue.do("worker-1", c.Done("m2"), c.Done("m3", keep=True), c.Cancel("alone", keep=True))
    queue.do("ann", later("last", "both", "runs", after_group="g", on_failure="cancel"))
    queue.do("bob", c.Restart("stops"), c.Retry("late", changes=Changes(group="i")))
    queue.close()
    assert {True, False} == {ticket.blocked for ticket in queue.projection.tickets.values()}
    queue.projection.check()


@scenario
def waiting_snapshots(where: Path) -> None:
    """The same with snapshots: of members that joined late, of successors that wait, and of what waits still."""
    queue = Queue(where, SMALL)
    _wait(queue)
    queue.do("ann", add("m4", group="h"), c.Update("late", Changes(group="k")))
    assert take(where) is not None
    for number in range(8):
        queue.do("ann", add(f"t{number}"))
    assert take(where) is not None
    queue.do("worker-1", c.Done("m2"), c.Done("m3"), c.Done("alone"))
    queue.close()
    queue.projection.check()


class _Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.instant = BEGIN

    def now(self) -> datetime:
        return self.instant


async def _use(where: Path, settings: kharon.Settings) -> None:
    """Use a queue as an application does: its verbs, a worker, a handler that tries again once."""
    clock = _Clock()
    router = kharon.Router()

    @router.handler("email")
    async def email(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
        clock.instant += timedelta(seconds=1)
        if ticket.attempts == 1 and ticket.id == "twice":
            await kh.retry(ticket, delay=0, error_reason="once more")

    async with kharon.open(where, settings, clock=clock) as kh:
        await kh.add_many([kharon.Ticket(f"mail-{n}", "email", payload={"n": n}, nice=n) for n in range(3)])
        await kh.add(kharon.Ticket("twice", "email"), delay=0)
        await kh.add(kharon.Ticket("tomorrow", "email", payload="a\u00f6\u4e2d\U0001f680"), delay=86400)
        async with trio.open_nursery() as nursery:
            await nursery.start(kh.run, router)
            for id in ("mail-0", "mail-1", "mail-2", "twice"):
                await kh.wait(id)
            await kh.drain()
        ann = kh.acting_as("Ann \u00c4")
        await ann.add(kharon.Ticket("kept", "report", group="g"))
        await ann.done("kept", result={"pages": 3}, expire_in=timedelta(days=1))
        await ann.add(kharon.Ticket("failed", "report"))
        await ann.fail("failed", error_reason="no\npaper")
        await ann.restart("failed")
        await ann.update("failed", payload=[1], tube="slow")
        await ann.delete("tomorrow")


def _used(where: Path, fsync: kharon.settings.Fsync) -> None:
    settings = kharon.Settings(fsync=fsync, workers=1, snapshot_bytes=None, reserve_bytes=0, actor="app")
    trio.run(_use, where, settings)


@scenario
def fsync_always(where: Path) -> None:
    """An application's queue."""
    _used(where, "always")


@scenario
def fsync_never(where: Path) -> None:
    """The same, whose records vouch for nothing before the last one."""
    _used(where, "never")


@scenario
def fsync_hourly(where: Path) -> None:
    """The same, with a sync so seldom that there was none before it was closed."""
    _used(where, 3600)


@scenario
def killed(where: Path) -> None:
    """Not closed: with a claim, a commit of several records that nothing vouches for, and room in reserve."""
    queue = Queue(where, reserve_bytes=4096)
    claimed(queue, "running")
    queue.do("ann", add("a"), add("b"), add("c"), sync=False)
    queue.kill()


@scenario
def torn(where: Path) -> None:
    """Killed in the middle of a write: the last commit lacks the end of its last line."""
    killed(where)
    cut_off(segments(where)[-1], 40)


@scenario
def torn_between(where: Path) -> None:
    """The last commit lacks whole lines."""
    killed(where)
    path = segments(where)[-1]
    cut_off(path, len(path.read_bytes().splitlines(keepends=True)[-1]))


@scenario
def garbage(where: Path) -> None:
    """What a disk may leave behind a file's end: zeros."""
    killed(where)
    with segments(where)[-1].open("ab") as file:
        file.write(bytes(700))


@scenario
def cut(where: Path) -> None:
    """Torn, opened, torn at the same place and opened again: TailCut twice, and both cuts kept."""
    torn(where)
    Queue(where).kill()
    path = segments(where)[-1]
    cut_off(path, 10)
    queue = Queue(where)
    queue.do("ann", add("after"))
    queue.close()


@scenario
def several(where: Path) -> None:
    """Several segments, sealed but for the last."""
    queue = Queue(where, SMALL)
    for number in range(12):
        queue.do("ann", add(f"t{number}", payload=number))
    queue.do("ann", *(c.Delete(f"t{number}") for number in range(0, 12, 2)))
    queue.close()
    assert len(segments(where)) > 3


def _long(where: Path) -> Queue:
    """Several segments, of an open log."""
    queue = Queue(where, SMALL)
    claimed(queue, "running", "done")
    queue.do("worker-1", c.Done("done", keep=True, result=b"1"))
    for number in range(18):
        queue.do("ann", add(f"t{number}", payload=number))
    queue.do("ann", *(c.Delete(f"t{number}") for number in range(0, 18, 2)))
    return queue


ALL = Threshold(bytes=0)


@scenario
def compressed(where: Path) -> None:
    """The oldest segments are compressed."""
    queue = _long(where)
    queue.retain(RetentionRules(compress=ALL))
    queue.close()
    assert len(list((where / "log").glob("*.zst"))) > 2


@scenario
def archived(where: Path) -> None:
    """The oldest segments are in the archive inside of the queue's directory: some of them compressed."""
    queue = _long(where)
    queue.retain(RetentionRules(compress=Threshold(bytes=4 * SMALL)))
    queue.retain(RetentionRules(archive=ALL))
    queue.close()
    assert {".zst", ".jsonl"} <= {path.suffix for path in (where / "archive").rglob("*")}


@scenario
def trimmed(where: Path) -> None:
    """The oldest segments are gone, and two snapshots tell what they led to."""
    queue = _long(where)
    assert take(where) is not None
    for number in range(8):
        queue.do("ann", add(f"u{number}"))
    assert take(where) is not None
    queue.do("ann", add("behind"))
    queue.retain(RetentionRules(trim=ALL), lambda upto: upto <= trimmable(where))
    queue.close()
    assert (where / "log" / f"{1:020}.jsonl") not in segments(where)


@scenario
def unsealed(where: Path) -> None:
    """Killed between the beginning of a segment and the seal of the one before it."""
    queue = Queue(where, SMALL)
    while len(segments(where)) < 3:
        queue.do("ann", add(f"t{queue.projection.seq}"))
    queue.kill()
    path = segments(where)[1]
    cut_off(path, len(path.read_bytes().splitlines(keepends=True)[-1]))


def _with_snapshots(where: Path) -> list[Path]:
    """A log of several segments with two snapshots, of tickets of every kind, and a tail."""
    queue = Queue(where, SMALL)
    claimed(queue, "running", "replaced", "retried")
    queue.do("ann", add("replaced", "again", group="g"), add("dated", runat=BEGIN + timedelta(days=1), tube="night"))
    queue.do("ann", add("done"), add("failed"), add("cancelled"), add("gone"))
    queue.do("ann", c.Done("done", keep=True, result=b'["\\u00e4"]', expire_in=99.0))
    queue.do("ann", c.Fail("failed", error_reason="\u00fc"), c.Cancel("cancelled", keep=True), c.Delete("gone"))
    queue.do("worker-1", c.Retry("retried", error_reason="busy"))
    assert take(where) is not None
    for number in range(6):
        queue.do("ann", add(f"t{number}"))
    assert take(where) is not None
    queue.do("ann", add("behind"), c.Delete("t1"))
    queue.close()
    return sorted((where / "snapshots").iterdir())


@scenario
def tubes(where: Path) -> None:
    """Tubes that are paused, resumed and limited, claimed from, and moved between; two snapshots, and a tail."""
    queue = Queue(where, SMALL)
    queue.do("ann", c.Pause("night"), c.Limit("default", 3, 2, 60.0), c.Limit("free", 1), c.Limit("slow", None, 1, 0.5))
    queue.do("bob", c.Pause("resumed"), c.Limit("free"))
    queue.do("ann", c.Resume("resumed"))
    claimed(queue, "a", "b", "moved", "kept")
    queue.do("worker-1", c.Release("moved", changes=Changes(tube="night", nice=1)), c.Release("a"))
    assert take(where) is not None
    for number in range(6):
        queue.do("ann", add(f"t{number}", tube="slow"))
    claimed(queue, "t0", "a")
    assert take(where) is not None
    queue.do("ann", c.Resume("night"), c.Limit("default", None, 5, 3600.0))
    claimed(queue, "t1")
    queue.close()


@scenario
def readded(where: Path) -> None:
    """Tickets that are added again and keep their place; refreshed ones; two cancelled with their successor."""
    queue = Queue(where, SMALL)
    claimed(queue, "running", "retried")
    queue.do("ann", add("first"), add("second"), add("delayed", runat=BEGIN + timedelta(days=1)))
    queue.do("worker-1", c.Retry("retried", error_reason="busy"))
    queue.do("ann", add("first", "again", nice=3), add("delayed"))
    refreshed = [
        msgspec.structs.replace(add(id, "again"), on_conflict="refresh") for id in ("retried", "running", "new")
    ]
    queue.do("ann", *refreshed)
    assert take(where) is not None
    queue.do("worker-1", c.Retry("running", error_reason="busy"))
    queue.do("ann", add("second"))
    claimed(queue, "both", "kept")
    queue.do("ann", add("both", "again"), add("kept", "again"))
    queue.do("ann", c.Cancel("both"), c.Cancel("kept", keep=True, error_reason="no"))
    queue.close()


def _set(name: str, next_due: float, **fields: Any) -> c.SetSchedule:
    payload = Raw(b'{"of":"\\u00fc"}')
    due = BEGIN + timedelta(seconds=next_due)
    return c.SetSchedule(name, "report", payload, "default", 512, due, **fields)


def _fire(name: str, due: float, next_due: float | None) -> c.FireSchedule:
    following = None if next_due is None else BEGIN + timedelta(seconds=next_due)
    return c.FireSchedule(name, BEGIN + timedelta(seconds=due), following)


@scenario
def schedules(where: Path) -> None:
    """Schedules that fire, pass over what was missed, end, are set anew and removed; two snapshots, a tail."""
    queue = Queue(where, SMALL)
    queue.do(
        "ann",
        _set("nightly", 3600, cron="30 2 * * *", tz="Europe/Berlin", group="g"),
        _set("often", 1.5, every=1.5, catch_up="all"),
        _set("gone", 60, every=60.0, catch_up="none"),
    )
    queue.pass_time(6)
    queue.do("clock", *(_fire("often", number * 1.5, number * 1.5 + 1.5) for number in range(1, 5)))
    queue.do("bob", c.RemoveSchedule("gone"), _set("ending", 9, every=60.0))
    queue.do("clock", c.SkipSchedule("often", BEGIN + timedelta(seconds=9)))
    assert take(where) is not None
    for number in range(6, 10):
        queue.pass_time(1.25)
        queue.do("clock", _fire("often", number * 1.5, number * 1.5 + 1.5))
    queue.do("clock", _fire("ending", 9, None))
    claimed(queue, "often@2026-01-01T00:00:01.500000Z")
    assert take(where) is not None
    queue.do("ann", _set("often", 99, every=1.5), _set("over", 60, every=60.0), c.SkipSchedule("over", None))
    queue.close()


@scenario
def snapshots(where: Path) -> None:
    """Two snapshots, and a tail behind the newer."""
    _with_snapshots(where)


@scenario
def snapshot_alone(where: Path) -> None:
    """The log's beginning is gone: it is opened from the snapshot."""
    older, newest = _with_snapshots(where)
    older.unlink()
    for path in segments(where):
        if path.name <= newest.name:
            path.unlink()


@scenario
def snapshot_bad(where: Path) -> None:
    """The newer snapshot is damaged: the older one is used."""
    alter(_with_snapshots(where)[1], b'"id":"t3"', b'"id":"t8"')


@scenario
def snapshot_later(where: Path) -> None:
    """The newer snapshot is in a format to come: the older one is used."""
    (older, newest) = _with_snapshots(where)
    body = newest.read_bytes().splitlines()[0][92:]
    line, _ = link("0" * 64, body.replace(b'"version":1', b'"version":1000,"needs":"1000.0.0"'))
    newest.write_bytes(line)
    assert older.exists()


@scenario
def damaged(where: Path) -> None:
    """A byte was altered in a record that later ones vouch for: refused."""
    several(where)
    alter(segments(where)[1], b'"id":"t5"', b'"id":"t6"')


@scenario
def shortened(where: Path) -> None:
    """The last segment is gone, as its seal in the one before tells: refused."""
    several(where)
    segments(where)[-1].unlink()


@scenario
def repaired(where: Path) -> None:
    """The damaged one, mended."""
    damaged(where)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return BEGIN + timedelta(days=1)

    with mock.patch.object(repair, "datetime", Clock):
        assert kharon.repair(where, confirm=True, actor="carol").done


@scenario
def later_event(where: Path) -> None:
    """An event that is to come: its place is verified, and the log is neither opened nor replayed."""
    queue = Queue(where)
    queue.do("ann", add("a"))
    queue.kill()
    path = segments(where)[0]
    last = path.read_bytes().splitlines()[-1][9:73].decode()
    body = b'"seq":2,"durable":1,"part":[1,1],"at":"2026-01-02T00:00:00Z","v":7,"event":"TicketPraised",'
    line, last = link(last, body + b'"needs":"1000.0.0","by":"ann","id":"a","mood":"good"}')
    more, _ = link(
        last, b'"seq":3,"durable":2,"part":[1,1],"at":"2026-01-02T00:00:00Z","v":1,"event":"LogClosed","by":"clock"}'
    )
    path.write_bytes(path.read_bytes() + line + more)


@scenario
def later_field(where: Path) -> None:
    """A field that is to come, in an event and in a header: passed over."""
    header_body = b'"format":"kharon-log","version":1,"log":"%b","first":1,"previous":"%b",' % (b"e" * 32, b"0" * 64)
    head, last = link("0" * 64, header_body + b'"at":"2026-01-01T00:00:00Z","colour":"red"}')
    body = b'"seq":1,"durable":0,"part":[1,1],"at":"2026-01-01T00:00:00Z","v":1,"event":"TicketAdded","by":"ann",'
    fields = b'"id":"a","type":"t","payload":1,"tube":"u","nice":1,"runat":"2026-01-01T00:00:00Z","mood":{"deep":[1]}}'
    (where / "log").mkdir(0o700, parents=True)
    (where / "log" / f"{1:020}.jsonl").write_bytes(head + link(last, body + fields)[0])


@scenario
def limits(where: Path) -> None:
    """The largest and the strangest that fits: names, nesting, numbers, instants, reasons, text of all planes."""
    queue = Queue(where)
    deep: object = "deepest"
    for _ in range(32):
        deep = {"in": [deep]}
    strange = '\u00e4\u4e2d\U0001f680\u2028\u0000\u001f\\"/\u007f\ufffe'
    queue.do(
        "\u00e4" * 100,
        add("i" * 200, "t" * 200, tube="u" * 200, group="g" * 200, nice=2**31 - 1, payload=deep),
        add("\U0001f680" * 50, "\u4e2d" * 66, tube="\u00e4" * 100, nice=-(2**31) + 1, payload={strange: [strange]}),
        add('"\\/ \u00df', payload=[2**1023, -(2**63), 1e308, 5e-324, -0.0, 0.1, True, None, "", {}, []]),
        add("early", runat=datetime.min.replace(tzinfo=UTC)),
        add("late", runat=datetime.max.replace(tzinfo=UTC)),
        add("a line?", payload='{"hash":"' + "0" * 64 + '","crc":"00000000","seq":9,"durable":9}\n'),
        add("wide", payload=list(range(300))),
    )
    queue.do("ann", c.Fail("early", error_reason="x" * 4000), c.Fail("i" * 200, error_reason="\U0001f680" * 300))
    queue.do("ann", c.Done("late", keep=True, result=check_json("result", deep)))
    queue.do("ann", c.Cancel("a line?", keep=True, error_reason="\u0000\n\t\u007f\u2029"))
    queue.close()


# --- making them ------------------------------------------------------------------------------------------------------


@contextmanager
def _the_same_each_time(name: str) -> Iterator[None]:
    """Let a log's id follow from the scenario's name."""
    made = uuid.UUID(hashlib.sha256(name.encode()).hexdigest()[:32])
    with mock.patch("uuid.uuid4", return_value=made):
        yield


def build(name: str, place: Path) -> None:
    """Make a golden directory of this name at `place`, which does not exist."""
    place.mkdir(parents=True)
    queue = place / "queue"
    with _the_same_each_time(name):
        SCENARIOS[name](queue)
    lock = queue / "LOCK"
    if lock.exists():
        lock.write_bytes(b"1\n")  # the number of the process that made it
    looked_at = place / "looked at"
    copy(queue, looked_at)
    seen = look(looked_at)
    for what in UNSEEN.get(name, ()):
        del seen[what]
    shutil.rmtree(looked_at)
    (place / "expected.json").write_text(json.dumps(seen, indent=1) + "\n", encoding="ascii")


def main(names: list[str]) -> None:
    if not names or set(names) - set(SCENARIOS):
        sys.exit(f"name what to make: {', '.join(SCENARIOS)}")
    there = [name for name in names if (HERE / name).exists()]
    if there:
        sys.exit(f"{there[0]}: it is there, and golden directories are never made anew; give a new scenario a new name")
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            build(name, Path(scratch) / name)
        for name in names:
            shutil.copytree(Path(scratch) / name, HERE / name, copy_function=shutil.copyfile)
    files = sorted(path for name in names for path in (HERE / name).rglob("*") if path.is_file())
    with SUMS.open("a", encoding="ascii", newline="\n") as sums:
        for path in files:
            sums.write(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(HERE).as_posix()}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
