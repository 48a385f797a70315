"""The verbs that `Kharon` and `Atomic` share, each of which `requests` states once.

A `Verb` is made of a function of `requests`, which turns a user's arguments into commands. Of a `Kharon` it is an async
method that carries the commands out; of an `Atomic` it is a method that keeps them for the end of the block. Both have
the arguments of the function, for type checkers and at run time. What a command does is not known here.
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

__all__ = ["Awaited", "Gathered", "Tickets", "Verb", "carry_out", "many", "nothing", "one", "perhaps"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
Tickets: TypeAlias = list[Ticket | None]
"""For each command its ticket, as the commit left it; None: it was removed, or the command is about no ticket."""
_OF_ATTEMPTS: Final = (c.Cancel, c.Extend)


class Awaited:
    """The base of a class whose verbs are async methods."""

    async def _carry_out(self, commands: Sequence[c.Request]) -> Tickets:
        """Carry commands out; return the ticket of each."""
        raise NotImplementedError


class Gathered:
    """The base of a class whose verbs gather commands."""

    def _take(self, commands: Sequence[c.Request]) -> None:
        """Keep commands for later."""
        raise NotImplementedError


class Verb(Generic[_P, _T]):
    """A verb: an attribute of a class that is an `Awaited` or a `Gathered`.

    Args:
        request: makes the command, or the commands, of a user's arguments. Its docstring is that of the verb.
        answer: makes the result of the tickets that the commands leave.
    """

    def __init__(self, request: Callable[_P, c.Request | Sequence[c.Request]], answer: Callable[[Tickets], _T]) -> None:
        def commands(*args: _P.args, **kwargs: _P.kwargs) -> Sequence[c.Request]:
            made = request(*args, **kwargs)
            return made if isinstance(made, Sequence) else (made,)

        async def awaited(self: Awaited, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            try:
                asked = commands(*args, **kwargs)
            except Exception:
                await trio.lowlevel.checkpoint()  # also if the arguments are refused, before it has come to the store
                raise
            return answer(await self._carry_out(asked))

        def gathered(self: Gathered, *args: _P.args, **kwargs: _P.kwargs) -> None:
            self._take(commands(*args, **kwargs))

        self._awaited = _dressed(awaited, request, answer.__annotations__["return"])
        self._gathered = _dressed(gathered, request, "None")
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


def _dressed(method: Callable[..., Any], request: Callable[..., Any], returns: str) -> Callable[..., Any]:
    """Return a method with the name, the docstring and the arguments of a function."""
    signature = inspect.signature(request)
    subject = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    functools.update_wrapper(method, request)
    method.__annotations__ = {**request.__annotations__, "return": returns}
    method.__signature__ = signature.replace(  # type: ignore[attr-defined] # which `inspect` looks for
        parameters=[subject, *signature.parameters.values()], return_annotation=returns
    )
    return method


def one(tickets: Tickets) -> Ticket:
    """Return the ticket of a command that removes none."""
    (ticket,) = tickets
    assert ticket is not None
    return ticket


def perhaps(tickets: Tickets) -> Ticket | None:
    """Return the ticket of a command; None: it was removed."""
    (ticket,) = tickets
    return ticket


def many(tickets: Tickets) -> list[Ticket]:
    """Return the tickets of commands that remove none."""
    return [ticket for ticket in tickets if ticket is not None]


def nothing(_tickets: Tickets) -> None:
    """Return None: the command is about no ticket, or removes it."""


async def carry_out(store: Store, attempts: Attempts, commands: Sequence[c.Request], by: str) -> Tickets:
    """Submit a user's commands, and tell the attempts that run in this process; return the tickets.

    Cost: that of the commands.
    """
    if not any(isinstance(command, _OF_ATTEMPTS) for command in commands):
        return await store.submit(commands, by)
    with attempts.settling(commands):
        tickets = await store.submit(commands, by)
    for command, ticket in zip(commands, tickets, strict=True):
        if isinstance(command, c.Extend) and ticket is not None:
            attempts.extend(ticket, command.seconds)
    return tickets
