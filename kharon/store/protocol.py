"""What a store does for the runtime: decide commands, keep their events, and answer for the state.

A store promises one thing above all, *effects follow durability*: whatever an async method returns or raises, and
whatever is delivered, comes after the events that it rests on are durable in the sense of `Settings.fsync`. All async
methods are checkpoints. Those that change state notice a cancellation before they have decided anything, or not at all.
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
    """What tells the time of day."""

    def now(self) -> datetime:
        """Return the present instant, timezone-aware, in UTC."""


Deliver: TypeAlias = Callable[[Sequence[Change]], None]
"""Called by a store with the changes of each commit of the queue, whoever made it, in order of their seqs, once the
commit is durable. Must not raise.
"""


class RecordReader(Protocol):
    """Durable records, in order.

    Attributes:
        at_end: whether the last `read` came to the end of what was durable then. False before the first.
    """

    @property
    def at_end(self) -> bool: ...

    async def read(self) -> list[Record]:
        """Return the next wanted records: without waiting for any, and perhaps none, even before the end.

        Raises:
            CorruptLog: the log is not what was written.
            KharonError: the next records are not kept any more; or are compressed, and zstd is not installed.
            Closed: the store is closed.
            OSError: the log cannot be read.
        """

    async def wait(self) -> None:
        """Wait until there are records behind those that were read."""

    def close(self) -> None:
        """Give back what the reader holds."""


class Store(Protocol):
    """The state of one queue."""

    async def open(self) -> None:
        """Recover the state, and end the leases of a process that died."""

    async def close(self) -> None:
        """Make everything durable, and give the queue up."""

    async def submit(self, commands: Sequence[Request], by: str) -> list[Ticket | None]:
        """Decide commands as one commit, or refuse them all; return the ticket of each as it is then.

        That is None, too, for a command that is about no ticket.
        """

    async def turn(
        self, worker: str, tubes: Sequence[str], settle: Settle | None, *, settle_by: str, claim: bool
    ) -> Ticket | None:
        """Settle a worker's last ticket and claim its next one, both in one commit group.

        A settle whose claim is over is dropped. Not cancellable: the work has been done.
        """

    async def wait_ready(self, tubes: Sequence[str]) -> None:
        """Wait until a claim from these tubes may succeed."""

    def wake_all(self) -> None:
        """Let everybody return from `wait_ready`; in another thread than that of the queue `InvalidTransition`."""

    async def tick(self) -> float:
        """Do what time has made due: promote, lapse, expire, fire. Return the seconds until something will be due."""

    async def wait_earlier(self) -> None:
        """Wait until something will be due earlier than the last `tick` said."""

    async def get(self, id: str) -> Ticket | None:
        """Return a ticket, or None."""

    async def schedules(self) -> list[Schedule]:
        """Return what is scheduled, by name."""

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
        """Return the tickets that match, ascending by `order`: the first `limit` whose `order` is more than `after`."""

    async def why(self, id: str, tubes: Sequence[str]) -> Standing:
        """Return where a ticket stands now, if workers claim from these tubes."""

    async def pending_count(self, group: str) -> tuple[int, int]:
        """Return how many members of a group are pending, and the seq of the last record that this counts."""

    def reader(self, after: int, id: str | None = None) -> RecordReader:
        """Return a reader of the durable records behind `after`: all, or those about the ticket `id`."""

    async def first(self) -> int:
        """Return the seq at which the history begins."""
