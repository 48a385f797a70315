"""`Verb`: makes the methods of `Kharon` and `Atomic` from the functions of `requests`, which state each verb once.

Such a function turns a user's arguments into commands. On a `Kharon` the verb is an async method that carries the
commands out; on an `Atomic` it is a method that keeps them until the block ends. Both have the arguments of the
function, for type checkers and at run time. This module does not know what a command does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from types import MethodType
from typing import Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, overload

import trio

from kharon.model import commands as c
from kharon.model.ticket import Ticket
from kharon.runtime.attempts import Attempts
from kharon.store.protocol import Store

__all__ = ["Awaited", "Gathered", "Tickets", "Verb", "carry_out", "many", "nothing", "one", "one_or_none"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
Tickets: TypeAlias = list[Ticket | None]
"""The ticket of each command after the commit; None: it was removed, or the command is not about a ticket."""
_FOR_ATTEMPTS: Final = (c.Cancel, c.Extend)


class Awaited:
    """The base of a class whose verbs are async methods."""

    async def _carry_out(self, commands: Sequence[c.Request]) -> Tickets:
        """Carry out commands, and return the ticket of each."""
        raise NotImplementedError


class Gathered:
    """The base of a class whose verbs collect commands."""

    def _take(self, commands: Sequence[c.Request]) -> None:
        """Keep commands for later."""
        raise NotImplementedError


class Verb(Generic[_P, _T]):
    """A verb: an attribute of a subclass of `Awaited` or `Gathered`.

    Args:
        request: turns a user's arguments into one command or several. Its docstring is the verb's.
        answer: turns the tickets of the commands into the result of the verb.
    """

    def __init__(self, request: Callable[_P, c.Request | Sequence[c.Request]], answer: Callable[[Tickets], _T]) -> None:
        def commands(*args: _P.args, **kwargs: _P.kwargs) -> Sequence[c.Request]:
            made = request(*args, **kwargs)
            return made if isinstance(made, Sequence) else (made,)

        async def awaited(self: Awaited, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            try:
                asked = commands(*args, **kwargs)
            except Exception:
                await trio.lowlevel.checkpoint()  # an async method is a checkpoint even if it refuses its arguments
                raise
            return answer(await self._carry_out(asked))

        def gathered(self: Gathered, *args: _P.args, **kwargs: _P.kwargs) -> None:
            self._take(commands(*args, **kwargs))

        self._awaited = _with_signature(awaited, request, answer.__annotations__["return"])
        self._gathered = _with_signature(gathered, request, "None")
        self._gathered.__doc__ = f"As `Kharon.{request.__name__}`."

    @overload
    def __get__(self, subject: Awaited, owner: type[Any]) -> Callable[_P, Coroutine[Any, Any, _T]]: ...
    @overload
    def __get__(self, subject: Gathered, owner: type[Any]) -> Callable[_P, None]: ...
    @overload
    def __get__(self, subject: None, owner: type[Any]) -> Callable[..., Any]: ...
    def __get__(self, subject: object, owner: type[Any]) -> Callable[..., Any]:
        method = self._awaited if issubclass(owner, Awaited) else self._gathered
        return method if subject is None else MethodType(method, subject)


def _with_signature(method: Callable[..., Any], request: Callable[..., Any], returns: str) -> Callable[..., Any]:
    """Return the method with the name, the docstring and the arguments of `request`."""
    signature = inspect.signature(request)
    subject = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    functools.update_wrapper(method, request)
    method.__annotations__ = {**request.__annotations__, "return": returns}
    method.__signature__ = signature.replace(  # type: ignore[attr-defined] # `inspect` reads it
        parameters=[subject, *signature.parameters.values()], return_annotation=returns
    )
    return method


def one(tickets: Tickets) -> Ticket:
    """Return the ticket of one command that does not remove it."""
    (ticket,) = tickets
    assert ticket is not None
    return ticket


def one_or_none(tickets: Tickets) -> Ticket | None:
    """Return the ticket of one command; None: the command removed it."""
    (ticket,) = tickets
    return ticket


def many(tickets: Tickets) -> list[Ticket]:
    """Return the tickets of commands that remove none."""
    return [ticket for ticket in tickets if ticket is not None]


def nothing(_tickets: Tickets) -> None:
    """Return None, for a command that is not about a ticket, or removes it."""


async def carry_out(store: Store, attempts: Attempts, commands: Sequence[c.Request], by: str) -> Tickets:
    """Submit a user's commands, apply them to the attempts in this process, and return the tickets.

    Cost: that of the commands.
    """
    if not any(isinstance(command, _FOR_ATTEMPTS) for command in commands):
        return await store.submit(commands, by)
    with attempts.settling(commands):
        tickets = await store.submit(commands, by)
    for command, ticket in zip(commands, tickets, strict=True):
        if isinstance(command, c.Extend) and ticket is not None:
            attempts.extend(ticket, command.seconds)
    return tickets
