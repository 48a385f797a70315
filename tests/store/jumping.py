"""A clock that is set back while it is being asked."""

from __future__ import annotations

from kharon.testing import TrioClock

__all__ = ["Jumping"]


class Jumping(TrioClock):
    """A clock that goes back by a minute each time it has been asked, once it is told to."""

    back = 0.0

    def now(self):
        now = super().now()
        self.step(-self.back)
        return now
