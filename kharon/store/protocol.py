"""The protocol of a store, which decides commands, keeps their events, and answers questions about the state.

Every store promises that *effects follow durability*: an async method returns or raises, and a change is delivered,
only after the events behind it are durable in the sense of `Settings.fsync`. All async methods are checkpoints. Methods
that change state notice a cancellation before they have decided anything, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias

from kharon.log.record import Record
from kharon.model.commands import Request, Settle
from kharon.model.projection import Change
from kharon.model.schedules import Schedule
from kharon.model.standing import Standing
from kharon.model.ticket import Status, Ticket
from kharon.model.tubes import Tube

__all__ = ["Change", "Clock", "Deliver", "RecordReader", "Store"]


class Clock(Protocol):
    """Gives the present time."""

    def now(self) -> datetime:
        """Return the present instant, timezone-aware, in UTC."""


Deliver: TypeAlias = Callable[[Sequence[Change]], None]
"""Called by a store with the changes of each durable commit of the queue, in order of their seqs. Must not raise.

Commits of all actors and processes are delivered.
"""


class RecordReader(Protocol):
    """Durable records, in order.

    Attributes:
        at_end: whether the last `read` reached the end of the records durable then. False before the first `read`.
    """

    @property
    def at_end(self) -> bool: ...

    async def read(self) -> list[Record]:
        """Return the next wanted records at once; perhaps none, even before the end.

        Raises:
            CorruptLog: the log is damaged.
            KharonError: the next records were removed; or they are compressed, and zstd is not installed.
            Closed: the store is closed.
            OSError: the log cannot be read.
        """

    async def wait(self) -> None:
        """Wait until there are records after those that were read."""

    def close(self) -> None:
        """Close the files that the reader holds."""


class Store(Protocol):
    """The state of one queue."""

    async def open(self) -> None:
        """Recover the state, and lapse the claims of a process that died."""

    async def close(self) -> None:
        """Make everything durable, and close the queue."""

    async def submit(self, commands: Sequence[Request], by: str) -> list[Ticket | None]:
        """Decide commands as one commit, or refuse them all; return the ticket of each after it.

        That is None if the command removed it, or is not about a ticket.
        """

    async def turn(
        self, worker: str, tubes: Sequence[str], settle: Settle | None, *, settle_by: str, claim: bool
    ) -> Ticket | None:
        """Settle a worker's last ticket and claim its next one, both in one commit group.

        A settle whose claim is over is ignored. Not cancellable, since the work has been done.
        """

    async def wait_ready(self, tubes: Sequence[str]) -> None:
        """Wait until a claim from these tubes may succeed."""

    def wake_all(self) -> None:
        """Make every `wait_ready` return; raises `InvalidTransition` in a thread other than the queue's."""

    async def tick(self) -> float:
        """Promote, lapse, expire and fire what is due. Return the seconds until something will be due."""

    async def wait_earlier(self) -> None:
        """Wait until something will be due earlier than the last `tick` returned."""

    async def get(self, id: str) -> Ticket | None:
        """Return a ticket, or None."""

    async def schedules(self) -> list[Schedule]:
        """Return the schedules, by name."""

    async def tube(self, name: str) -> Tube:
        """Return a tube."""

    async def restricted(self) -> list[Tube]:
        """Return the tubes that are paused or limited."""

    async def list(
        self,
        *,
        status: Status | None,
        type: str | None,
        tube: str | None,
        group: str | None,
        limit: int | None,
        after: int,
    ) -> list[Ticket]:
        """Return the first `limit` tickets that match and whose `order` is more than `after`, ascending by `order`."""

    async def why(self, id: str, tubes: Sequence[str]) -> Standing:
        """Return where a ticket stands now, for workers that claim from these tubes."""

    async def pending_count(self, group: str) -> tuple[int, int]:
        """Return the number of pending members of a group, and the seq of the last record that it counts."""

    def reader(self, after: int, id: str | None = None) -> RecordReader:
        """Return a reader of the durable records after the seq `after`: all, or those about the ticket `id`."""

    async def first(self) -> int:
        """Return the seq at which the history begins."""
