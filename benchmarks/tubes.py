"""The cost of a claim from a thousand tubes, against a claim from a single tube: seconds, and counted comparisons.

    python benchmarks/tubes.py [--tickets N] [--tubes N]

Each claim is followed by an add and the end of the claim, with the questions in between that a store asks; without a
log or Trio. The same tickets are in one tube, and spread over many; with limits, no tube reaches its own.
"""

from __future__ import annotations

import argparse
import math
import time

from msgspec import Raw

from kharon.model.events import TicketAdded, TicketClaimed, TicketDone, TubeLimited
from kharon.model.projection import Projection
from kharon.testing import EPOCH

CLAIMS = 20_000
NULL = Raw(b"null")


class CountingNice(int):
    """A nice value that counts its comparisons: one for each two keys of an index that are compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountingNice.compared += 1
        return int.__eq__(self, other)

    __hash__ = int.__hash__


class Spread:
    """Return a projection with tickets spread over tubes."""

    def __init__(self, tickets: int, tubes: int, nice: type[int], *, limited: bool) -> None:
        self.tubes = tuple(f"tube-{number}" for number in range(tubes))
        self.nice = nice
        self.number = 0
        self.projection = Projection()
        self.projection.promote(EPOCH)
        if limited:
            for tube in self.tubes:
                self.apply(TubeLimited(tube, 10**6, 10_000, 1.0))
        for _ in range(tickets):
            self.add()
        self.projection.first_ready(self.tubes)

    def apply(self, event: TicketAdded | TicketClaimed | TicketDone | TubeLimited) -> None:
        self.projection.apply(event, self.projection.seq + 1, EPOCH)

    def add(self) -> None:
        self.number += 1
        tube = self.tubes[self.number * 31 % len(self.tubes)]
        self.apply(TicketAdded(f"t{self.number}", "x", NULL, tube, self.nice(self.number * 7919 % 1000), EPOCH))

    def turn(self) -> None:
        """Add a ticket, claim one, and end the claim."""
        projection = self.projection
        self.add()
        projection.next_instant(expiration=True)
        projection.ready_count(self.tubes)
        ticket = projection.first_ready(self.tubes)
        assert ticket is not None
        self.apply(TicketClaimed(ticket.id, 1, EPOCH, "worker-1"))
        projection.next_instant(expiration=True)
        self.apply(TicketDone(ticket.id))


def seconds(tickets: int, tubes: int, *, limited: bool = False) -> float:
    """Return the least of five measurements, since other programs only add to it."""
    spread = Spread(tickets, tubes, int, limited=limited)
    best = math.inf
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(CLAIMS // 5):
            spread.turn()
        best = min(best, (time.perf_counter() - begun) / (CLAIMS // 5))
    return best


def comparisons(tickets: int, tubes: int) -> float:
    spread = Spread(tickets, tubes, CountingNice, limited=False)
    CountingNice.compared = 0
    for _ in range(1000):
        spread.turn()
    return CountingNice.compared / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickets", type=int, default=1_000_000)
    parser.add_argument("--tubes", type=int, default=1000)
    options = parser.parse_args()
    one = seconds(options.tickets, 1)
    print(f"{options.tickets:,} tickets, an add, a claim and its end")
    print(f"    from 1 tube: {one * 1e6:.1f} µs, {comparisons(options.tickets, 1):.0f} comparisons")
    many = seconds(options.tickets, options.tubes)
    compared = comparisons(options.tickets, options.tubes)
    print(f"    from {options.tubes:,} tubes: {many * 1e6:.1f} µs, {compared:.0f} comparisons; ratio {many / one:.2f}")
    limited = seconds(options.tickets, options.tubes, limited=True)
    print(f"    from {options.tubes:,} limited tubes: {limited * 1e6:.1f} µs; ratio {limited / one:.2f}")


main()
