"""What the tests of the pages share: logs made of events that they choose, and a ticket with many of them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from msgspec import Raw

from kharon.log.record import Chain
from kharon.model import events as e

BEGIN = datetime(2026, 3, 10, 18, tzinfo=UTC)


def at(seconds):
    return BEGIN + timedelta(seconds=seconds)


def write(where, commits):
    """A queue whose log is these commits: `(seconds, by, events)`."""
    (where / "log").mkdir(parents=True, mode=0o700)
    where.chmod(0o700)
    chain = Chain()
    lines = [chain.header("6b68" * 8, BEGIN)]
    for seconds, by, events in commits:
        lines += chain.commit(events, at(seconds), by, 0)
    (where / "log" / f"{1:020}.jsonl").write_bytes(b"".join(lines))
    return where


def added(id, runat=0.0, type="t", tube="default", payload=b"null", group=None):
    return e.TicketAdded(id, type, Raw(payload), tube, 512, at(runat), group)


def many(count, seed=1):
    """Commits about the ticket "busy": `count` events, most of them claims and retries."""
    chance = random.Random(seed)
    now = 0.0
    yield now, "shop", [added("busy", 5.0)]
    now = 5.0
    for number in range((count - 1) // 2):
        now += chance.choice([0, 0.01, 0.3, 2])
        yield now, "worker-1", [e.TicketClaimed("busy", number + 1, at(now + 60), "worker-1")]
        now += chance.expovariate(1)
        if chance.random() < 0.1:
            yield now, "clock", [e.TicketLapsed("busy", at(now + 1), "the lease ended")]
        else:
            wait = chance.choice([0, 1, 5, 30])
            yield now, "worker-1", [e.TicketRetried("busy", at(now + wait), f"TimeoutError: attempt {number + 1}")]
            now += wait
        now += 1
    if count % 2 == 0:
        yield now, "ann", [e.TicketCancelled("busy", keep=True)]
