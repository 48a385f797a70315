"""What the tests of the audit share: a seeded queue of many segments that covers every event of tickets."""

from __future__ import annotations

import itertools
import random
import shutil
from array import array
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from log_steps import carry_out
from msgspec import Raw

import kharon
from kharon.errors import KharonError
from kharon.log import index
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OS_FILES
from kharon.log.retention import Retention, RetentionRules, Threshold
from kharon.log.segment import is_about
from kharon.log.snapshot import take
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.delays import BackoffDelay
from kharon.model.events import Changes
from kharon.model.projection import Projection
from kharon.model.ticket import Ticket

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [f"t{number}" for number in range(12)]
BACKOFF = BackoffDelay(2, 20, jitter=0)


def moment(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def some_command(chance: random.Random, now: datetime) -> tuple[c.Request, str]:
    """A command, and in whose name."""
    id = chance.choice(IDS)
    payload = {"to": "J\u00f6rg", "id": chance.choice(IDS)}  # what looks like another ticket's id, too
    delay = chance.choice([None, None, 0.5, 7.0])
    if chance.random() < 0.1:
        return _what_is_not_a_ticket(chance, now), "ann"
    if chance.random() < 0.1:
        after, on_failure = tuple(chance.sample(IDS, 2)), chance.choice(["run", "cancel"])
        group = chance.choice([None, "g"])
        return c.Add(id, Ticket(id, "bind"), delay, "replace", after, group, on_failure), "app"
    return chance.choice(
        [
            (c.Add(id, Ticket(id, "email", payload=payload, group=chance.choice([None, "g"])), delay), "app"),
            (c.Add(id, Ticket(id, "sms", runat=now, nice=chance.randint(0, 3)), None, "skip"), "app"),
            *[(c.Claim(id, worker), worker) for worker in ("worker-1", "worker-2", "worker-1")],
            (c.Extend(id, seconds=chance.randint(10, 60)), "worker-1"),
            (c.Done(id, keep=True, result=b"[1]", expire_in=5), "worker-1"),
            (c.Done(id), "worker-2"),
            (c.Fail(id, error_reason="no route", expire_in=chance.choice([None, 3.0])), "worker-1"),
            (c.Cancel(id, keep=chance.random() < 0.5), "ann"),
            (c.Retry(id, delay=2.0, error_reason="busy", changes=Changes(nice=1)), "worker-1"),
            (c.Release(id), "worker-2"),
            (c.Lapse(id, error_reason="the lease ended", backoff=BACKOFF, max_attempts=2), "clock"),
            (c.Restart(id), "ann"),
            (c.Update(id, Changes(nice=chance.randint(0, 3), runat=now + timedelta(seconds=9))), "ann"),
            *([(c.Delete(id), "ann")] if chance.random() < 0.3 else []),
            (c.Expire(id), "clock"),
        ]
    )


def _what_is_not_a_ticket(chance: random.Random, now: datetime) -> c.Request:
    tube, name = chance.choice(["default", "slow"]), chance.choice(["hourly", "daily"])
    told = c.SetSchedule(name, "report", Raw(b"{}"), tube, 512, now + timedelta(seconds=5), every=3600.0)
    return chance.choice(
        [
            c.Pause(tube),
            c.Resume(tube),
            c.Limit(tube, chance.choice([None, 1]), *chance.choice([(None, None), (2, 10.0)])),
            told,
            c.FireSchedule(name, now, now + timedelta(seconds=60)),
            c.SkipSchedule(name, now + timedelta(seconds=120)),
            c.RemoveSchedule(name),
        ]
    )


def fill(log: DirectoryLog, commits: int, seed: int = 1) -> None:
    """Append so many commits of one to three commands each, of those that the rules allow."""
    chance = random.Random(seed)
    projection = Projection().fold(kharon.read(log.directory))
    now = max(projection.at or NOW, NOW)
    while commits:
        now += timedelta(seconds=chance.choice([0, 0.25, 1, 3]))
        events, by = [], "app"
        for _ in range(chance.randint(1, 3)):
            command, by = some_command(chance, now)
            commit = Commit(projection, c.Context(now))
            try:
                commit.run([command])
            except KharonError:
                commit.undo()
                continue
            commit.keep()
            events += [effect.event for effect in commit.effects]
        if events:
            log.append(events, now, by)
            log.write()
            log.sync()
            commits -= 1


def queue(where: Path, commits: int = 200, *, closed: bool = True) -> DirectoryLog:
    """A queue in segments of 4 KiB, about ten records each; still open if it is not to be closed."""
    log = DirectoryLog(where, 4096)
    list(log.open(NOW))
    fill(log, commits)
    if closed:
        log.close(log._chain.at or NOW)
    return log


def about(where: Path, id: str) -> list:
    """The records about a ticket, by reading all."""
    return [record for record in kharon.read(where) if is_about(record, id)]


def segments_of(where: Path) -> list[Path]:
    return sorted((where / "log").glob("*.jsonl"))


def indexes_of(where: Path) -> list[Path]:
    return sorted((where / "index").iterdir()) if (where / "index").is_dir() else []


Pairs: TypeAlias = list[tuple[int, int]]


def forge(where: Path, number: int, change: Callable[[Pairs], Pairs]) -> Path:
    """Let the index of a segment have other entries, keys and places, with sums that are right, so that it is used."""
    segment = list(index.finished_segments(OS_FILES, segments(where)))[number]
    entries = index.build_index(OS_FILES, segment).offsets.entries()
    pairs = change(list(zip(entries[::2], entries[1::2], strict=True)))
    path = index.index_path(where, segment.first)
    path.write_bytes(index.encode_index(segment, array("Q", itertools.chain.from_iterable(pairs))))
    return path


def _added(id: str) -> e.TicketAdded:
    return e.TicketAdded(id, "email", Raw(b"null"), "default", 512, NOW)


def trimmed_queue(where: Path, upto: int, since: int = 4) -> Path:
    """A queue whose records up to `upto` were trimmed, with snapshots from `since` on. One record a second."""
    aside = where.with_name("aside")
    aside.mkdir()
    log = DirectoryLog(where, segment_bytes=1)
    list(log.open(NOW))
    story = [
        (_added("a"), "ann"),
        (_added("quiet"), "ann"),
        (e.TicketClaimed("a", 1, moment(60), "worker-1"), "worker-1"),
        (_added("b"), "ann"),
        (e.TicketRetried("a", moment(5), "busy"), "worker-1"),
        (e.TicketUpdated("b", e.Changes(nice=1)), "ann"),
        (e.TicketDeleted("a"), "ann"),
        (_added("new"), "ann"),
    ]
    for second, (event, by) in enumerate(story, 1):
        log.append([event], moment(second), by)
        log.write()
        if (path := take(where)) is not None:
            shutil.copy(path, aside)
    for path in aside.iterdir():  # of which `take` kept two
        if int(path.stem) >= since:
            shutil.copy(path, where / "snapshots")
    rules = RetentionRules(trim=Threshold(bytes=0))
    carry_out(log, Retention(log, rules, may_trim=lambda seq: seq <= upto))
    log.close(moment(len(story)))
    return where
