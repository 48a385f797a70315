"""Virtual time: a clock that follows Trio's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import trio

__all__ = ["EPOCH", "TrioClock"]

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""The instant at which a `TrioClock` begins by default, UTC."""


class TrioClock:
    """A clock that follows Trio's: under `trio.testing.MockClock` days pass in milliseconds.

    Args:
        start: the instant that the first call of `now` returns, timezone-aware.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        self._start = start
        self._zero: float | None = None

    def now(self) -> datetime:
        """Return the present instant. Must be called inside `trio.run`."""
        time = trio.current_time()
        if self._zero is None:
            self._zero = time
        return self._start + timedelta(seconds=time - self._zero)

    def step(self, seconds: float) -> None:
        """Set the clock forward by so many seconds, or back, as an operator or NTP may do to the machine's clock."""
        self._start += timedelta(seconds=seconds)
