"""`async with kh.atomic() as tx:`: commands that are carried out together, in one commit, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Self

import trio

from kharon.errors import InvalidTransition
from kharon.model import commands as c
from kharon.model.ticket import Ticket
from kharon.runtime.attempts import Attempts
from kharon.runtime.requests import Verbs
from kharon.runtime.verbs import Gathered, carry_out
from kharon.store.protocol import Store

__all__ = ["Atomic"]

_ANOTHER: Final = "begin another with `async with kh.atomic() as tx:`"


class Atomic(Verbs, Gathered, AbstractAsyncContextManager["Atomic"]):
    """Commands that gather until the block ends, and then are one commit, or nothing.

    The verbs are those of `Kharon`, with the same arguments; none is awaited, and none returns anything. A wrong
    argument raises at once. At the end of the block the commands are decided in their order, each seeing the effects of
    those before it, and the block ends when all of it is durable. If one is refused, nothing has happened, and its
    error is raised, saying which command it was. If the block raises, nothing happens either.

    In a handler, settling the ticket and adding the next ones in one block makes a step that cannot be lost: after a
    crash either both happened, or the ticket runs again.

    Attributes:
        tickets: after the block, for each command its ticket, as the commit left it; None if the commit removed it, or
            if the command is about a tube or a schedule.

    Raises, at the end of the block:
        KharonError: as the verb of the refused command raises.

    Raises, from its verbs and on entering:
        InvalidTransition: it is used before it has begun or after its end, or begun twice.

    Cost: that of its commands, and one wait for the commit. They are decided in one stretch, about 15 µs each, in which
    no other task runs.
    """

    def __init__(self, store: Store, by: str, attempts: Attempts) -> None:
        self.tickets: list[Ticket | None] = []
        self._store = store
        self._by = by
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
        self.tickets = await carry_out(self._store, self._attempts, self._commands, self._by)

    def _check(self) -> None:
        if not self._begun:
            raise InvalidTransition("this atomic block has not begun; use it as `async with kh.atomic() as tx:`")
        if self._ended:
            raise InvalidTransition(f"this atomic block has ended; {_ANOTHER}")

    def _take(self, commands: Sequence[c.Request]) -> None:
        self._check()
        self._commands += commands
