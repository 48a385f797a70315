"""`async with kh.atomic() as tx:`: commands that are carried out together, in one commit, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Self

import trio

from kharon.errors import InvalidTransition
from kharon.model import commands as c
from kharon.model.delays import Delay
from kharon.model.ticket import Ticket
from kharon.runtime import requests
from kharon.runtime.attempts import Attempts
from kharon.runtime.requests import CatchUp, OnConflict, OnFailure, Seconds
from kharon.settings import Settings
from kharon.store.protocol import Store

__all__ = ["Atomic"]

_ANOTHER: Final = "begin another with `async with kh.atomic() as tx:`"


class Atomic(AbstractAsyncContextManager["Atomic"]):
    """Commands that gather until the block ends, and are then one commit, or nothing.

    The verbs are those of `Kharon`, with the same arguments; none is awaited, and none returns anything. A wrong
    argument raises at once. At the end of the block the commands are decided in their order, each seeing what those
    before it did, and only when all of it is durable does the block end. If one is refused nothing has happened, and
    its error is raised, saying which it was. If the block raises, nothing happens either.

    In a handler, settling the ticket and adding what follows from it in one block makes a step that cannot be lost:
    after a crash either both happened, or the ticket runs again.

    Attributes:
        tickets: after the block, for each command its ticket, as the commit left it; None if it removed it, or is about
            a tube or a schedule.

    Raises, at the end of the block:
        KharonError: as the verb of the command that is refused does.

    Raises, from its verbs and on entering:
        InvalidTransition: it is used before it has begun or after its end, or begun twice.

    Cost: that of its commands, and one wait for the commit. They are decided in one stretch, about 15 µs each, in which
    no other task runs.
    """

    def __init__(self, store: Store, by: str, settings: Settings, attempts: Attempts) -> None:
        self.tickets: list[Ticket | None] = []
        self._store = store
        self._by = by
        self._settings = settings
        self._attempts = attempts
        self._commands: list[c.Request] = []
        self._begun = self._ended = False

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        if self._begun:
            raise InvalidTransition(f"this atomic block has begun before; {_ANOTHER}")
        self._begun = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        if error is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if not self._commands:
            await trio.lowlevel.checkpoint()
            return
        if any(isinstance(command, c.SetSchedule) for command in self._commands):
            await trio.lowlevel.checkpoint()  # before it can be refused
            since = self._store.fires_after
            self._commands = [
                requests.set_later(since, command) if isinstance(command, c.SetSchedule) else command
                for command in self._commands
            ]
        with self._attempts.settling(self._commands):
            self.tickets = await self._store.submit(self._commands, self._by)
        for command, ticket in zip(self._commands, self.tickets, strict=True):
            if isinstance(command, c.Extend) and ticket is not None:
                self._attempts.extend(ticket, command.seconds)

    def _check(self) -> None:
        if not self._begun:
            raise InvalidTransition("this atomic block has not begun; use it as `async with kh.atomic() as tx:`")
        if self._ended:
            raise InvalidTransition(f"this atomic block has ended; {_ANOTHER}")

    def _take(self, command: c.Request) -> None:
        self._check()
        self._commands.append(command)

    def add(
        self,
        ticket: Ticket,
        *,
        delay: Delay | None = None,
        on_conflict: OnConflict = "replace",
        after: Iterable[str] = (),
        after_group: str | None = None,
        on_failure: OnFailure = "run",
    ) -> None:
        """As `Kharon.add`."""
        self._take(requests.add(ticket, delay, on_conflict, after, after_group, on_failure))

    def add_many(
        self,
        tickets: Iterable[Ticket],
        *,
        delay: Delay | None = None,
        on_conflict: OnConflict = "replace",
        after: Iterable[str] = (),
        after_group: str | None = None,
        on_failure: OnFailure = "run",
    ) -> None:
        """As `Kharon.add_many`; if one of the tickets cannot be so, none is taken."""
        commands = requests.add_many(tickets, delay, on_conflict, after, after_group, on_failure)
        self._check()
        self._commands += commands

    def ack(
        self,
        t: Ticket | str,
        *,
        keep: bool = False,
        result: Any = None,
        expire_in: Seconds | None = None,
        tube: str | None = None,
    ) -> None:
        """As `Kharon.ack`."""
        self._take(requests.ack(t, keep=keep, result=result, expire_in=expire_in, tube=tube))

    def done(
        self, t: Ticket | str, *, result: Any = None, expire_in: Seconds | None = None, tube: str | None = None
    ) -> None:
        """As `Kharon.done`."""
        self._take(requests.done(t, result=result, expire_in=expire_in, tube=tube))

    def fail(
        self,
        t: Ticket | str,
        *,
        error_reason: str | None = None,
        expire_in: Seconds | None = None,
        tube: str | None = None,
    ) -> None:
        """As `Kharon.fail`."""
        self._take(requests.fail(t, error_reason=error_reason, expire_in=expire_in, tube=tube))

    def cancel(
        self,
        t: Ticket | str,
        *,
        error_reason: str | None = None,
        keep: bool = False,
        expire_in: Seconds | None = None,
        tube: str | None = None,
    ) -> None:
        """As `Kharon.cancel`."""
        self._take(requests.cancel(t, error_reason=error_reason, keep=keep, expire_in=expire_in, tube=tube))

    def retry(
        self, t: Ticket | str, *, delay: Delay | None = None, error_reason: str | None = None, **changes: Any
    ) -> None:
        """As `Kharon.retry`."""
        self._take(requests.retry(t, self._settings.policy, delay=delay, error_reason=error_reason, **changes))

    def release(self, t: Ticket | str, **changes: Any) -> None:
        """As `Kharon.release`."""
        self._take(requests.release(t, **changes))

    def extend(self, t: Ticket | str, seconds: Seconds) -> None:
        """As `Kharon.extend`."""
        self._take(requests.extend(t, seconds))

    def restart(self, id: str) -> None:
        """As `Kharon.restart`."""
        self._take(requests.restart(id))

    def update(self, id: str, **changes: Any) -> None:
        """As `Kharon.update`."""
        self._take(requests.update(id, **changes))

    def delete(self, id: str) -> None:
        """As `Kharon.delete`."""
        self._take(requests.delete(id))

    def pause(self, tube: str) -> None:
        """As `Kharon.pause`."""
        self._take(requests.pause(tube))

    def resume(self, tube: str) -> None:
        """As `Kharon.resume`."""
        self._take(requests.resume(tube))

    def limit(
        self, tube: str, *, claimed: int | None = None, claims: int | None = None, period: Seconds | None = None
    ) -> None:
        """As `Kharon.limit`."""
        self._take(requests.limit(tube, claimed=claimed, claims=claims, period=period))

    def schedule(
        self,
        name: str,
        cron: str | None = None,
        *,
        every: Seconds | None = None,
        ticket: Ticket,
        tz: str = "UTC",
        catch_up: CatchUp = "one",
    ) -> None:
        """As `Kharon.schedule`; what comes first counts from the end of the block, and may be refused there, too."""
        since = self._store.fires_after
        self._take(requests.set_schedule(since, name, cron, every=every, ticket=ticket, tz=tz, catch_up=catch_up))

    def unschedule(self, name: str) -> None:
        """As `Kharon.unschedule`."""
        self._take(requests.remove_schedule(name))
