"""Where a ticket stands at an instant: the facts that tell why it is running, or is not.

A projection is asked for them, and does not change; a live store and a replayed log give the same. What the facts mean
for a person is not said here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Final

import msgspec

from kharon.model.projection import Projection
from kharon.model.ticket import Status, Ticket, waits_of
from kharon.model.tubes import Tube

__all__ = ["MOST_NAMED", "Standing", "standing_of"]

MOST_NAMED: Final = 5
"""How many members of a group are named, at most."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about one ticket.

    Attributes:
        id: the ticket's.
        now: the instant at which they hold.
        ticket: the ticket; None: there is none.
        tube: its tube, if it is pending; else None.
        subscribed: whether workers claim from its tube; False without a pending ticket.
        members_left: how many members of a group block it; of a ticket that runs and was added again, how many block
            its successor.
        members: the ids of `MOST_NAMED` of them at most, those that joined first.
        ahead: how many due tickets would be claimed before it; None: it cannot be claimed now.
    """

    id: str
    now: datetime
    ticket: Ticket | None
    tube: Tube | None = None
    subscribed: bool = False
    members_left: int = 0
    members: tuple[str, ...] = ()
    ahead: int | None = None


def standing_of(projection: Projection, id: str, now: datetime, tubes: Iterable[str] | None) -> Standing:
    """Return the facts about the ticket of an id.

    Args:
        projection: the state.
        id: the ticket's.
        now: an instant, as a rule later than the projection's.
        tubes: the tubes that workers claim from; None: the ticket's own.

    Cost: O(log n), and O(tickets that have become due since the projection was promoted last).
    """
    ticket = projection.get(id)
    if ticket is None or ticket.status is not Status.PENDING:
        return Standing(id=id, now=now, ticket=ticket)
    tube, groups, waits = projection.tube(ticket.tube, now), projection.groups, waits_of(ticket)
    claimed_from = {ticket.tube} if tubes is None else set(tubes)
    subscribed = ticket.tube in claimed_from
    ahead = None
    if subscribed and tube.open and ticket.claim is None and not ticket.blocked:
        assert ticket.runat is not None
        if ticket.runat <= now:
            ahead = projection.ahead(ticket, claimed_from, now)
    return Standing(
        id=id,
        now=now,
        ticket=ticket,
        tube=tube,
        subscribed=subscribed,
        members_left=groups.left(waits),
        members=tuple(islice(groups.members(waits), MOST_NAMED)),
        ahead=ahead,
    )
