"""`async with kh.atomic() as tx:`: carries out commands in one commit, all or none."""

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
    """A block that collects commands, and carries them out in one commit when it ends: all, or none.

    Its verbs are those of `Kharon`, with the same arguments. They are not awaited, and return None. A wrong argument
    raises at once. At the end of the block the commands are decided in order, each in the state that the one before it
    left. The block ends when the commit is durable. If a command is refused, nothing has changed, and its error is
    raised, with the number of the command. If the block raises, nothing changes either.

    In a handler, one block that settles the ticket and adds the next ones makes a step that cannot be lost: after a
    crash either both happened, or the ticket runs again.

    Attributes:
        tickets: after the block, a list with the ticket of each command, as the commit left it. An item is None if the
            commit removed the ticket, or if the command is about a tube or a schedule.

    Raises, at the end of the block:
        KharonError: as the verb of the refused command raises.

    Raises, from its verbs and on entering:
        InvalidTransition: it is used before it has begun or after its end, or it is begun twice.

    Cost: that of its commands, and one wait for the commit. Deciding takes about 15 µs for each command, and no other
    task runs meanwhile.
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
