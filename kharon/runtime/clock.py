"""What time it is, when nobody says otherwise. For virtual time see `kharon.testing.TrioClock`."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["WallClock"]


class WallClock:
    """The machine's clock: due times survive a restart, and a step of it is noticed within `max_poll_interval`."""

    def now(self) -> datetime:
        """Return the present instant in UTC."""
        return datetime.now(UTC)
