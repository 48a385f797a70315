"""For tests: virtual time, a log that fails on demand, and given/when/then for the rules.

    with MockClock: `kharon.open(":memory:", clock=kharon.testing.TrioClock())`      hours in milliseconds
    `given(ticket).when(command).then(*events)`                                      the rules, without a queue
    `kharon.open(FailingLog(MemoryLog(), fail="sync"))`                              a disk that breaks

`check_log` is what every `EventLog` must pass. Nothing in Kharon imports this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import trio

from kharon.log.protocol import EventLog, LogReader
from kharon.log.record import Record
from kharon.model.commands import Command, Context
from kharon.model.decide import decide
from kharon.model.events import Event, TicketEvent
from kharon.model.evolve import evolve
from kharon.model.ticket import Ticket

__all__ = ["EPOCH", "FailingLog", "TrioClock", "given"]

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""The instant at which a `TrioClock` begins, unless told otherwise."""


class TrioClock:
    """A clock that goes with Trio's: under `trio.testing.MockClock` a day passes as fast as nothing happens in it.

    Args:
        start: the instant at which Trio's clock stands when `now` is first asked, timezone-aware.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        self._start = start
        self._zero: float | None = None

    def now(self) -> datetime:
        """Return the present instant. Must be called inside of `trio.run`."""
        time = trio.current_time()
        if self._zero is None:
            self._zero = time
        return self._start + timedelta(seconds=time - self._zero)

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back: what an operator or NTP does to the machine's."""
        self._start += timedelta(seconds=seconds)


class FailingLog:
    """Any log, with a disk that breaks when told to.

    Args:
        log: what works until then.
        fail: the name of the method that fails: "append", "write" or "sync"; None: none yet. May be set at any time.
        error: what it raises.
        after: how many more calls of that method work first.

    Attributes:
        calls: how often each of "append", "write", "sync" was called, failures included.
    """

    def __init__(
        self, log: EventLog, *, fail: str | None = None, error: Exception | None = None, after: int = 0
    ) -> None:
        self._log = log
        self.fail = fail
        self.error = error or OSError(5, "Input/output error")
        self.after = after
        self.calls = {"append": 0, "write": 0, "sync": 0}

    def _maybe_fail(self, name: str) -> None:
        self.calls[name] += 1
        if name == self.fail:
            if self.after <= 0:
                raise self.error
            self.after -= 1

    @property
    def seq(self) -> int:
        """That of the log."""
        return self._log.seq

    @property
    def written(self) -> int:
        """That of the log."""
        return self._log.written

    @property
    def durable(self) -> int:
        """That of the log."""
        return self._log.durable

    @property
    def first(self) -> int:
        """That of the log."""
        return self._log.first

    def open(self, now: datetime) -> Iterator[Record]:
        """Open the log."""
        return self._log.open(now)

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        """Append, or fail."""
        self._maybe_fail("append")
        return self._log.append(events, at, by)

    def write(self) -> None:
        """Write, or fail."""
        self._maybe_fail("write")
        self._log.write()

    def sync(self) -> None:
        """Sync, or fail."""
        self._maybe_fail("sync")
        self._log.sync()

    def reader(self, after: int = 0, id: str | None = None) -> LogReader:
        """Read the log."""
        return self._log.reader(after, id)

    def close(self, now: datetime) -> None:
        """Close the log."""
        self._log.close(now)

    def abandon(self) -> None:
        """Abandon the log."""
        self._log.abandon()


class given:  # noqa: N801 - reads as a sentence
    """The rules in one line: `given(ticket or events).when(command).then(events)`.

    Args:
        before: a ticket; or None; or events, which are folded one second apart, from `EPOCH` on, with seqs from 1.
        now: the instant of the decision; by default as many seconds after `EPOCH` as there were events.
        jitter, lease: the rest of the context.
    """

    def __init__(self, *before: Any, now: datetime | None = None, jitter: float = 0.0, lease: float = 30.0) -> None:
        self.ticket: Ticket | None = None
        self.seq = 0
        for item in before:
            if isinstance(item, TicketEvent):
                self.seq += 1
                self.ticket = evolve(self.ticket, item, self.seq, EPOCH + timedelta(seconds=self.seq - 1))
            else:
                self.ticket = item
        self._context = Context(now or EPOCH + timedelta(seconds=self.seq), jitter, lease)
        self._command: Command | None = None

    def when(self, command: Command) -> given:
        """Say which command is to be decided."""
        self._command = command
        return self

    def events(self) -> tuple[TicketEvent, ...]:
        """Decide, and return the events.

        Raises:
            KharonError: as `decide` does.
        """
        if self._command is None:
            raise TypeError("say .when(command) first")
        return decide(self.ticket, self._command, self._context)

    def then(self, *events: TicketEvent) -> Ticket | None:
        """Assert that these events come of it, in this order; return the ticket after them."""
        decided = self.events()
        assert decided == events, f"\n  decided:  {decided}\n  expected: {events}"
        ticket = self.ticket
        for offset, event in enumerate(decided, 1):
            ticket = evolve(ticket, event, self.seq + offset, self._context.now)
        return ticket

    def raises(self, error: type[Exception], *words: str) -> None:
        """Assert that it is refused with this error, and that its message has each of these words."""
        try:
            decided = self.events()
        except error as refused:
            missing = [word for word in words if word not in str(refused)]
            assert not missing, f"{refused!r} does not say {missing}"
        else:
            raise AssertionError(f"not refused: {decided}")
