"""The heartbeat: extends the leases of the handlers that run, each before it ends.

An extension is twice as long as the one before it, so that a long run writes few records; `LONGEST` bounds how long a
handler that hangs can be unnoticed by the clock. It runs in the event loop, and so sees no more than that: handlers
that await, and threads, are extended for as long as they run; one that holds up the loop is not, and when the loop
comes back a lease whose end has passed, by Trio's clock or by the wall's, is left to lapse.
"""

from __future__ import annotations

import logging
import math
from typing import Final

import trio

from kharon.errors import LeaseLost, StorageFull
from kharon.model import commands as c
from kharon.runtime.attempts import Attempt, Attempts
from kharon.settings import Settings
from kharon.store.protocol import Clock, Store

__all__ = ["LONGEST", "beat"]

_logger = logging.getLogger("kharon")
LONGEST: Final = 3600.0
"""Seconds that one extension is at most."""
_LEFT: Final = 1 / 3  # of the last extension, or of the lease, when the next one is asked for
_TRY_SECONDS: Final = 1.0  # between two tries on a full disk, where the store itself tries each second


async def beat(store: Store, settings: Settings, clock: Clock, attempts: Attempts) -> None:
    """Extend the leases of what runs, until cancelled.

    Raises:
        Closed, CommitOutcomeUnknown: the queue is closed, or broke.

    Cost: O(attempts) for each look; one at least each `max_poll_interval`, so that a step of the clock is noticed.
    """
    lease = settings.policy().process_time
    begins = lease * (1 - _LEFT)  # nothing that begins in time, from now on, is due before
    attempts.patience = begins
    while True:
        attempts.late = trio.Event()
        async with trio.open_nursery() as nursery:
            for attempt in attempts:
                if _due_in(attempt, clock, lease) <= 0:
                    nursery.start_soon(_extend, store, attempt, lease)
        pause = min(begins, settings.max_poll_interval, *(_due_in(attempt, clock, lease) for attempt in attempts))
        # More than the pause, since instants are rounded: another look would be needed.
        with trio.move_on_after(max(0.0, pause) + 1e-6):
            await attempts.late.wait()


def _due_in(attempt: Attempt, clock: Clock, lease: float) -> float:
    """Return the seconds until an attempt is to be extended; infinity if it is not to be."""
    now = trio.current_time()
    left = min(attempt.scope.deadline - now, (attempt.lease_until - clock.now()).total_seconds())
    if attempt.taken is not None or left <= 0:
        return math.inf
    return max(left - min(attempt.extension or lease, LONGEST) * _LEFT, attempt.extend_at - now)


async def _extend(store: Store, attempt: Attempt, lease: float) -> None:
    ticket = attempt.ticket
    assert ticket.worker is not None
    seconds = min(attempt.extension * 2 or lease, LONGEST)
    try:
        (extended,) = await store.submit((c.Extend(ticket.id, ticket.claim, seconds=seconds),), ticket.worker)
    except LeaseLost:
        _logger.debug("ticket %r (%s): its claim is over, and is extended no more", ticket.id, ticket.type)
        attempt.extend_at = math.inf
    except StorageFull as full:
        _logger.debug("ticket %r (%s): its lease could not be extended yet: %s", ticket.id, ticket.type, full)
        attempt.extend_at = trio.current_time() + min(_TRY_SECONDS, lease * _LEFT / 4)
    else:
        assert extended is not None
        attempt.extension = seconds
        attempt.extend(seconds)
        _logger.debug("ticket %r (%s): lease extended by %g s", ticket.id, ticket.type, seconds)
