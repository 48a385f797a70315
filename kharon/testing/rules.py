"""Tests of the rules in one line, without a queue: `given(ticket).when(command).then(*events)`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from kharon.model.commands import Command, Context
from kharon.model.decide import decide
from kharon.model.events import TicketEvent
from kharon.model.evolve import evolve
from kharon.model.ticket import Ticket
from kharon.testing.clocks import EPOCH

__all__ = ["given"]


class given:  # noqa: N801 - reads as a sentence
    """A test of the rules in one line: `given(ticket or events).when(command).then(events)`.

    Args:
        before: a ticket; or None; or events, which are folded one second apart, from `EPOCH` on, with seqs from 1.
        now: the instant of the decision; by default as many seconds after `EPOCH` as there were events.
        jitter, lease, keep_failed: the rest of the context.
    """

    def __init__(
        self,
        *before: Any,
        now: datetime | None = None,
        jitter: float = 0.0,
        lease: float = 30.0,
        keep_failed: float | None = None,
    ) -> None:
        self.ticket: Ticket | None = None
        self.seq = 0
        for item in before:
            if isinstance(item, TicketEvent):
                self.seq += 1
                self.ticket = evolve(self.ticket, item, self.seq, EPOCH + timedelta(seconds=self.seq - 1))
            else:
                self.ticket = item
        self._context = Context(now or EPOCH + timedelta(seconds=self.seq), jitter, lease, keep_failed=keep_failed)
        self._command: Command | None = None

    def when(self, command: Command) -> given:
        """Set the command to decide; return this object."""
        self._command = command
        return self

    def events(self) -> tuple[TicketEvent, ...]:
        """Decide the command, and return its events.

        Raises:
            KharonError: as `decide` does.
        """
        if self._command is None:
            raise TypeError("say .when(command) first")
        return decide(self.ticket, self._command, self._context)

    def then(self, *events: TicketEvent) -> Ticket | None:
        """Assert that the command yields exactly these events, in this order; return the ticket after them."""
        decided = self.events()
        assert decided == events, f"\n  decided:  {decided}\n  expected: {events}"
        ticket = self.ticket
        for offset, event in enumerate(decided, 1):
            ticket = evolve(ticket, event, self.seq + offset, self._context.now)
        return ticket

    def raises(self, error: type[Exception], *words: str) -> None:
        """Assert that the command is refused with this error, and that its message has each of these words."""
        try:
            decided = self.events()
        except error as refused:
            missing = [word for word in words if word not in str(refused)]
            assert not missing, f"{refused!r} does not say {missing}"
        else:
            raise AssertionError(f"not refused: {decided}")
