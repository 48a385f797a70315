"""A night in the life of a shop's queue: the same directory, byte for byte, wherever and whenever it is made.

    python tests/cli/scenario.py QUEUE        makes it at QUEUE, which must not exist

The commands' kept outputs, the report's tests and docs/how-to/audit-at-night.md all look at this queue. It holds every
event there is. The rules, the projection and the log are the real ones; time is a number that this program counts up,
chance is seeded, and the log's id is fixed. What happens:

    18:00  orders come in; invoices go out by mail, thumbnails are made, reports take long
    00:00  a deployment: what runs is released, the log is closed and opened again
    02:50  the mail server refuses connections, until 04:20; invoice-1042 has no attempts left at 04:19
    04:45  a crash tears the last commit; opening cuts it
    05:30  the queue is closed, a disk damages its last record, and ann has the log repaired
    06:00  the oldest segment goes to the archive, the next one is compressed
    07:00  ann looks at what has failed: she restarts one, changes one, deletes one
    07:15  bob pauses the books, and lets one picture be made at a time, and one report or sweep start in an hour
    07:30  a batch of statements comes in, with what is to follow it; a digest is added every ten minutes from here on
    08:00  the queue is left open, as it is while its application runs
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from msgspec import Raw

from kharon.log import repair, snapshot
from kharon.log.directory import DirectoryLog
from kharon.log.record import Chain
from kharon.log.retention import MayTrim, Retention, RetentionRules, Threshold, never
from kharon.model import commands as c
from kharon.model.commit import Commit
from kharon.model.delays import BackoffDelay, FixedDelay
from kharon.model.events import Changes
from kharon.model.projection import Projection
from kharon.model.schedules import Schedule
from kharon.model.ticket import Ticket

LOG_ID = "6b68" * 8
EVENING = datetime(2026, 3, 10, 18, tzinfo=UTC)
NOW = EVENING + timedelta(hours=14)
"""When the scenario ends, and what a reader of it takes for now."""
ANCHORED = 145
"""The seq of a record of 22:00 or so: the one that the anchor in docs/how-to/audit-at-night.md names."""

EVERYTHING = Threshold(bytes=0)
LEASE = 60.0
SEGMENT_BYTES = 24 << 10
MAX_ATTEMPTS = 6
BACKOFF = BackoffDelay(base=4, max_delay=300, jitter=0)
OUTAGE = (8 * 3600 + 50 * 60, 10 * 3600 + 20 * 60)
REFUSED = "ConnectionRefusedError: mail.example.org:25"
TUBES = ("mail", "default", "images")


class Night:
    """The queue, and the time in seconds after `EVENING`."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.chance = random.Random(4)
        self.seconds = 0.0
        self.projection = Projection()
        self.idle = ["worker-1", "worker-2"]
        self.plan: list[tuple[float, int, Callable[[], None]]] = []
        self.planned = 0
        (where / "log").mkdir(parents=True, mode=0o700)
        where.chmod(0o700)
        first = where / "log" / f"{1:020}.jsonl"
        first.write_bytes(Chain().header(LOG_ID, EVENING))
        first.chmod(0o600)
        self.open()

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        return EVENING + timedelta(seconds=round(self.seconds, 3))

    def at(self, hours: float, do: Callable[[], None]) -> None:
        """Plan something for so many hours after the evening."""
        self.planned += 1
        heapq.heappush(self.plan, (hours * 3600, self.planned, do))

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        self.at((self.seconds + seconds) / 3600, do)

    def run(self) -> None:
        """Let all that is planned happen, and what follows of it."""
        end = (NOW - EVENING).total_seconds()
        while True:
            due = self.due()
            by_itself = end + 1 if due is None else (due - EVENING).total_seconds()
            planned = self.plan[0][0] if self.plan else end + 1
            if not self.idle and due is not None and planned <= max(by_itself, self.seconds):
                by_itself = planned  # ready tickets wait for a worker, not for time
            self.seconds = max(self.seconds, min(planned, by_itself))
            if self.seconds >= end:
                return
            if planned <= self.seconds:
                heapq.heappop(self.plan)[2]()
            self.tick()

    def due(self) -> datetime | None:
        """When something happens next by itself."""
        instants = [at for at, _ in self.projection.schedules.coming()][:1]
        instants += [at for at in [self.projection.next_instant(expiration=True)] if at is not None]
        return min(instants, default=None)

    def tick(self) -> None:
        self.projection.promote(self.now)
        for ticket in self.projection.lapsed(self.now, 99):
            lapse = c.Lapse(
                ticket.id, ticket.claim, error_reason="the lease ended", backoff=BACKOFF, max_attempts=MAX_ATTEMPTS
            )
            self.give("clock", lapse)
        for ticket in self.projection.expired(self.now, 99):
            self.give("clock", c.Expire(ticket.id))
        for schedule in self.projection.schedules.due(self.now):
            self.fire(schedule)
        self.projection.promote(self.now)
        while self.idle and (ready := self.projection.first_ready(TUBES)) is not None:
            worker = self.idle.pop(0)
            (claimed,) = self.give(worker, c.Claim(ready.id, worker))
            self.work(claimed, worker)

    # --- the log ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        self.log = DirectoryLog(self.where, SEGMENT_BYTES)
        self.projection = Projection().fold(self.log.open(self.now))
        self.projection.promote(self.now)
        for ticket in list(self.projection.claimed()):  # as the store does: their process is gone
            lapse = c.Lapse(
                ticket.id,
                ticket.claim,
                error_reason="the process that held it ended",
                backoff=FixedDelay(0),
                max_attempts=MAX_ATTEMPTS,
            )
            self.give("clock", lapse)

    def give(self, by: str, *commands: c.Request) -> list[Any]:
        """Decide commands, and append what comes of them as one commit; return the tickets."""
        at = self.now
        commit = Commit(self.projection, c.Context(at, 0.0, LEASE))
        commit.run(commands)
        commit.keep()
        if commit.effects:
            self.log.append([effect.event for effect in commit.effects], at, by)
            self.log.write()
            self.log.sync()
        return [self.projection.get(getattr(command, "id", "")) for command in commands]

    def add(self, by: str, *tickets: Ticket, delay: float | None = None) -> None:
        self.give(by, *(c.Add(ticket.id, ticket, delay) for ticket in tickets))

    # --- the workers --------------------------------------------------------------------------------------------------

    def work(self, ticket: Ticket, worker: str) -> None:
        """Begin an attempt: plan how it ends."""
        down = OUTAGE[0] <= self.seconds < OUTAGE[1]
        seconds = {
            "invoice": 0.8,
            "thumbnail": 3.5,
            "report": 95.0,
            "sweep": 12.0,
            "statement": 30.0,
            "digest": 2.0,
        }.get(ticket.type, 5.0)
        seconds *= self.chance.uniform(0.5, 2.0)
        if ticket.type == "report":
            self.later(45, lambda: self.settle(worker, c.Extend(ticket.id, ticket.claim, seconds=240), free=False))
        if ticket.type == "invoice" and down:
            if ticket.attempts == 3:  # the third hangs until its lease has ended
                self.later(LEASE, lambda: self.idle.append(worker))
                return
            seconds = 0.2
            end: c.Command = c.Retry(
                ticket.id, ticket.claim, delay=BACKOFF, error_reason=REFUSED, max_attempts=MAX_ATTEMPTS
            )
        elif ticket.type == "thumbnail" and self.chance.random() < 0.12:
            end = c.Fail(ticket.id, ticket.claim, error_reason="ValueError: not an image", expire_in=4 * 3600)
        elif ticket.type == "thumbnail":
            end = c.Done(ticket.id, ticket.claim)
        elif ticket.id == "statement-2":
            end = c.Fail(ticket.id, ticket.claim, error_reason="KeyError: 'iban'")
        elif ticket.type == "report":
            rows = self.chance.randrange(1000, 9000)
            result = json.dumps({"rows": rows, "file": f"reports/{ticket.id}.csv"}).encode()
            end = c.Done(ticket.id, ticket.claim, keep=True, result=result, expire_in=6 * 3600)
        else:
            end = c.Done(ticket.id, ticket.claim)
        self.later(seconds, lambda: self.settle(worker, end))

    def settle(self, worker: str, command: c.Settle, *, free: bool = True) -> None:
        ticket = self.projection.get(command.id)
        if ticket is not None and ticket.claim == command.claim:
            self.give(worker, command)
        elif free and worker in self.idle:
            return  # the deployment has freed it
        if free:
            self.idle.append(worker)

    # --- what people do -----------------------------------------------------------------------------------------------

    def order(self, number: int) -> None:
        """An order comes in: an invoice in ten minutes, and a thumbnail for each picture."""
        invoice = Ticket(
            f"invoice-{number}",
            "invoice",
            payload={"order": number, "to": f"customer-{number % 37}@example.org"},
            tube="mail",
            group=f"order-{number}",
        )
        pictures = [
            Ticket(
                f"thumb-{number}-{part}",
                "thumbnail",
                payload={"file": f"{number}/{part}.jpg"},
                tube="images",
                nice=600,
                group=f"order-{number}",
            )
            for part in range(1, 1 + number % 3)
        ]
        self.add("shop", invoice, delay=600)
        if pictures:
            self.add("shop", *pictures)

    def deploy(self) -> None:
        """Release what runs, close, open."""
        for ticket in list(self.projection.claimed()):
            self.give(str(ticket.worker), c.Release(ticket.id, ticket.claim))
        self.idle = ["worker-1", "worker-2"]
        self.log.close(self.now)
        self.seconds += 20
        self.open()

    def crash(self) -> None:
        """The process dies in the middle of a commit."""
        self.add("shop", Ticket("thumb-lost", "thumbnail", payload={"file": "lost.jpg"}, tube="images", nice=600))
        tail = max((self.where / "log").glob("*.jsonl"))
        self.log.abandon()
        tail.write_bytes(tail.read_bytes()[:-100])
        self.idle = ["worker-1", "worker-2"]
        self.seconds += 90
        self.open()

    def keep(self, policy: RetentionRules, may_trim: MayTrim = never) -> None:
        """Do the next thing that a policy asks for: compress, archive or trim the oldest segment."""
        retention = Retention(self.log, policy, may_trim=may_trim)
        step = retention.plan(self.now)
        assert step is not None
        event = retention.prepare(step)
        self.log.append([event], self.now, "clock")
        self.projection.apply(event, self.projection.seq + 1, self.now)
        self.log.write()
        self.log.sync()
        retention.switch(step)
        retention.finish(step)

    def damage_and_repair(self) -> None:
        """Close; let a byte of the last record before `LogClosed` go bad; have it repaired; open."""
        self.log.close(self.now)
        tail = max((self.where / "log").glob("*.jsonl"))
        data = bytearray(tail.read_bytes())
        data[data.rindex(b'"event":"Ticket') + 9] ^= 1
        tail.write_bytes(data)
        self.seconds += 600
        with mock.patch.object(repair, "datetime", mock.Mock(now=lambda _zone: self.now)):
            repair.repair(self.where, confirm=True, actor="ann")
        self.idle = ["worker-1", "worker-2"]
        self.open()

    def morning(self) -> None:
        """Ann looks after what went wrong in the night."""
        self.give("ann", c.Restart("invoice-1039"))
        self.give(
            "ann",
            c.Update("invoice-1040", Changes(nice=100, payload_json=Raw(b'{"order":1040,"to":"old@example.org"}'))),
        )
        self.give("ann", c.Delete("invoice-1041"))
        self.give("ann", c.Cancel("sweep-later", keep=True, error_reason="not needed any more", expire_in=24 * 3600))
        self.give("ann", c.Cancel("report-2026-03-12"))

    def fire(self, schedule: Schedule) -> None:
        """What a schedule does once one of its instants has come: bob's closing is skipped, for it came too late."""
        assert schedule.next is not None
        following = schedule.next + timedelta(seconds=schedule.every or 0)
        if schedule.name == "closing":
            self.give("clock", c.SkipSchedule(schedule.name, None))
        else:
            self.give("clock", c.FireSchedule(schedule.name, schedule.next, following))

    def restrict(self) -> None:
        """Bob pauses two tubes, one of them by mistake, and limits two."""
        self.give("bob", c.Pause("books"), c.Pause("mail"), c.Limit("images", 1), c.Limit("default", None, 1, 3600.0))
        self.later(40, lambda: self.give("bob", c.Resume("mail")))

    def statements(self) -> None:
        """A batch: three statements, an archive when all have ended, and praise if none has failed; a book of pages."""
        members = [
            Ticket(f"statement-{number}", "statement", payload={"page": number}, tube="mail", group="statements")
            for number in range(1, 4)
        ]
        self.add("shop", *members)
        archive = Ticket("archive-statements", "archive", tube="mail")
        praise = Ticket("praise-statements", "mail", tube="mail")
        self.give(
            "shop",
            c.Add(archive.id, archive, after_group="statements"),
            c.Add(praise.id, praise, after_group="statements", on_failure="cancel"),
        )
        close = Ticket("close-books", "close", runat=NOW + timedelta(hours=2), tube="books")
        self.give("shop", c.Add(close.id, close, after=("archive-statements", "newsletter"), on_failure="cancel"))
        slow = [Ticket(f"page-{number}", "page", tube="books", group="pages") for number in range(1, 7)]
        self.add("shop", *slow)
        book = Ticket("book", "bind", tube="books")
        self.give("shop", c.Add(book.id, book, after=("close-books",), after_group="pages"))

    def schedule(self) -> None:
        """Bob lets a digest be added every ten minutes, and more that is not to be."""
        for name, every, cron in (("digest", 600.0, None), ("closing", None, "45 7 11 3 *"), ("mistake", 60.0, None)):
            first = self.now + timedelta(seconds=every or 900)
            told = c.SetSchedule(
                name, "digest", Raw(b'{"to":"bob"}'), "mail", 700, first, cron=cron, every=every, catch_up="none"
            )
            self.give("bob", told)
        self.give("bob", c.RemoveSchedule("mistake"))


def _plan(night: Night) -> None:
    number, hours = 1000, 0.0
    while hours < 13.9:
        night.at(hours, lambda number=number: night.order(number))  # type: ignore[misc]
        number += 1
        busy = 1.0 if hours < 6 or hours > 12 else 1.7
        hours += night.chance.uniform(0.09, 0.3) * busy
    for day, hour in ((10, 1.0), (11, 5.99), (12, 14.5)):
        report = Ticket(f"report-2026-03-{day}", "report", payload={"day": f"2026-03-{day}"}, nice=300)
        night.at(
            min(hour, 4), lambda report=report, hour=hour: night.add("shop", report, delay=max(1, (hour - 4) * 3600))
        )
    sweep = Ticket("sweep", "sweep", payload={"older_than_days": 30}, nice=900)
    night.at(2.5, lambda: night.add("clock", sweep))
    night.at(2.5 + 5 / 3600, lambda: night.add("shop", sweep))  # while it runs: so it runs once more
    night.at(3.0, lambda: night.add("shop", Ticket("sweep-later", "sweep", payload=None), delay=20 * 3600))
    night.at(3.2, lambda: night.give("shop", c.Retry("sweep-later", delay=18 * 3600, changes=Changes(nice=900))))
    night.at(3.5, lambda: night.add("shop", Ticket("newsletter", "newsletter", payload={"issue": 12}, tube="bulk")))
    night.at(6.0, night.deploy)
    night.at(10.75, night.crash)
    night.at(11.5, night.damage_and_repair)
    night.at(12.0, lambda: night.keep(RetentionRules(archive=EVERYTHING)))
    night.at(12.0, lambda: night.keep(RetentionRules(compress=EVERYTHING)))
    night.at(12.5, lambda: snapshot.take(night.where))
    night.at(13.0, night.morning)
    night.at(13.25, night.restrict)
    night.at(13.5, night.statements)
    night.at(13.5, night.schedule)
    night.at(13.9, lambda: night.add("shop", *(Ticket(f"sweep-{place}", "sweep") for place in ("disk", "cache"))))


def build(where: Path, *, trimmed: bool = False) -> None:
    """Make the queue at `where`, which must not exist.

    With `trimmed`, its two oldest segments are removed at the end: the one event that the night itself lacks, since all
    else is to have its whole history.
    """
    night = Night(where)
    _plan(night)
    night.run()
    if trimmed:
        for _ in range(2):
            night.keep(RetentionRules(trim=EVERYTHING), lambda _upto: True)
    night.log.abandon()
    snapshot.take(where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("queue", type=Path, help="where to make it; must not exist")
    where = parser.parse_args().queue
    if where.exists():
        sys.exit(f"{where} exists; name a place that does not")
    build(where)


if __name__ == "__main__":
    main()
