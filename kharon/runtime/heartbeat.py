"""The heartbeat: extends the lease of each handler that runs, before it ends.

Each extension is twice as long as the one before it, so that a long run writes few records. `LONGEST` bounds how long a
hanging handler can go unnoticed. The heartbeat runs in the event loop. Handlers that await, and threads, are extended
for as long as they run. A handler that blocks the loop is not: a lease that ended meanwhile, by Trio's clock or by the
wall clock, lapses.
"""

from __future__ import annotations

import logging
import math
from typing import Final

import trio

from kharon.errors import LeaseLost, StorageFull
from kharon.log.messages import say
from kharon.model import commands as c
from kharon.runtime.attempts import Attempt, Attempts
from kharon.settings import Settings
from kharon.store.protocol import Clock, Store

__all__ = ["LONGEST", "beat"]

LONGEST: Final = 3600.0
"""The seconds of one extension, at most."""
_REMAINING_SHARE: Final = 1 / 3  # of the last extension, or of the lease: extend when this share is left
_RETRY_SECONDS: Final = 1.0  # between two attempts on a full disk, to which the store writes once a second


async def beat(store: Store, settings: Settings, clock: Clock, attempts: Attempts) -> None:
    """Extend the leases of the running attempts, until cancelled.

    Raises:
        Closed, CommitOutcomeUnknown: the queue is closed, or a write failed.

    Cost: O(attempts) for each round; at least one round each `max_poll_interval`, so that a clock step is noticed.
    """
    lease = settings.policy().process_time
    begins = lease * (1 - _REMAINING_SHARE)  # no attempt that begins in time is due earlier
    attempts.late_below = begins
    while True:
        attempts.late = trio.Event()
        async with trio.open_nursery() as nursery:
            for attempt in attempts:
                if _due_in(attempt, clock, lease) <= 0:
                    nursery.start_soon(_extend, store, attempt, lease)
        pause = min(begins, settings.max_poll_interval, *(_due_in(attempt, clock, lease) for attempt in attempts))
        # A little more than the pause: instants are rounded, and a wake-up too early would cost another round.
        with trio.move_on_after(max(0.0, pause) + 1e-6):
            await attempts.late.wait()


def _due_in(attempt: Attempt, clock: Clock, lease: float) -> float:
    """Return the seconds until an attempt is to be extended; infinity: never."""
    now = trio.current_time()
    left = min(attempt.scope.deadline - now, (attempt.lease_until - clock.now()).total_seconds())
    if attempt.taken is not None or left <= 0:
        return math.inf
    return max(left - min(attempt.extension or lease, LONGEST) * _REMAINING_SHARE, attempt.extend_at - now)


async def _extend(store: Store, attempt: Attempt, lease: float) -> None:
    """Extend the lease of one attempt, unless its claim is over or the disk is full."""
    ticket = attempt.ticket
    assert ticket.worker is not None
    seconds = min(attempt.extension * 2 or lease, LONGEST)
    try:
        (extended,) = await store.submit((c.Extend(ticket.id, ticket.claim, seconds=seconds),), ticket.worker)
    except LeaseLost:
        say(logging.DEBUG, "ticket %r (%s): its claim is over, so its lease is not extended", ticket.id, ticket.type)
        attempt.extend_at = math.inf
    except StorageFull as full:
        say(logging.DEBUG, "ticket %r (%s): its lease could not be extended yet: %s", ticket.id, ticket.type, full)
        attempt.extend_at = trio.current_time() + min(_RETRY_SECONDS, lease * _REMAINING_SHARE / 4)
    else:
        assert extended is not None
        attempt.extension = seconds
        attempt.extend(seconds)
        say(logging.DEBUG, "ticket %r (%s): lease extended by %g s", ticket.id, ticket.type, seconds)
