"""For stores: `check_store`, the conformance suite that every place for a queue must pass.

It asks through the public API only, so it does not know what keeps the queue: a directory, memory, a log of your own,
or a database. Each check opens a new queue, and says in plain words what is not so. Speed, and what a crash leaves, are
not asked here. Time is: leases lapse and schedules fire, so a check waits for tenths of a second, which cost nothing
under `trio.testing.MockClock`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from kharon.store.protocol import Clock
from kharon.testing.stores import records, several, tickets, work
from kharon.testing.stores.place import Place, Where

__all__ = ["STORE_CHECKS", "Place", "check_store"]

STORE_CHECKS: Final[tuple[Callable[[Place], Awaitable[None]], ...]] = (
    tickets.check_adding,
    tickets.check_listing,
    tickets.check_conflicts,
    tickets.check_reasons,
    tickets.check_verbs,
    tickets.check_results,
    work.check_order,
    work.check_outcomes,
    work.check_policies,
    work.check_leases,
    work.check_fencing,
    work.check_delays,
    work.check_expiry,
    several.check_finalizers,
    several.check_groups,
    several.check_waits,
    several.check_tubes,
    several.check_rates,
    several.check_schedules,
    several.check_atomic,
    records.check_history,
    records.check_cancelling,
    records.check_closing,
    records.check_reopening,
)
"""Every check, each of one subject; `check_store` runs them in this order."""


async def check_store(
    make: Callable[[], Where], reopen: Callable[[], Where] | None = None, *, clock: Clock | None = None
) -> None:
    """Assert that a queue at some place does what Kharon promises. For the tests of a log or a store.

    Args:
        make: returns a new, empty place each time, in any form that `kharon.open` takes: a directory, ":memory:", or an
            `EventLog` that has not been opened.
        reopen: returns the place of the last queue again; None: what was there is gone once it is closed.
        clock: what `kharon.open` is given as `clock`; a `TrioClock` under `MockClock`, else None.

    Raises:
        AssertionError: saying what is not so.
        KharonError: a call was refused that should not be.

    Cost: about five seconds of waiting; with `MockClock` and a place in memory, none. To run each check as a test of
    its own, go through `STORE_CHECKS`.
    """
    for check in STORE_CHECKS:
        await check(Place(make, reopen, clock))
