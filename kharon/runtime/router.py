"""The router: maps a ticket's type to its handler.

An `async def` handler runs in Trio, a `def` handler in a thread. It takes the queue, as a view that acts in the name of
its worker, and the ticket. With a payload class, the ticket's payload is an object of that class. This module does not
run handlers.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import attrs
import msgspec

from kharon.errors import HandlerNotFound, InvalidSettings
from kharon.model.checks import check_name
from kharon.model.ticket import Ticket, with_payload

__all__ = ["Handler", "PayloadMismatch", "Route", "Router"]

Handler: TypeAlias = Callable[[Any, Ticket], Awaitable[object]] | Callable[[Any, Ticket], object]
_H = TypeVar("_H", bound=Handler)


class PayloadMismatch(Exception):
    """A ticket's payload does not fit the payload class of its handler. A retry cannot help."""


@attrs.frozen(slots=True)
class Route:
    """A registered handler.

    Attributes:
        handler: the user's function.
        in_thread: whether the function is a `def`, and so runs in a thread.
        decode: turns the payload's JSON into an object; None: the handler gets plain values.
        payload_name: the name of the payload class, for messages.
    """

    handler: Handler
    in_thread: bool
    decode: Callable[[bytes], Any] | None = None
    payload_name: str = ""

    def prepare(self, ticket: Ticket) -> Ticket:
        """Return the ticket with its payload as the handler expects it.

        Raises:
            PayloadMismatch: the payload does not fit the payload class.
        """
        if self.decode is None:
            return ticket
        try:
            payload = self.decode(ticket.payload_json)
        except (
            msgspec.ValidationError,
            ValueError,
            TypeError,
        ) as error:  # validators of an attrs class raise the last two
            raise PayloadMismatch(f"the payload does not fit {self.payload_name}: {error}") from None
        return with_payload(ticket, payload)


class Router:
    """Maps types of tickets to handlers.

        router = Router()

        @router.handler("email")
        async def send_email(kh: Kharon, ticket: Ticket) -> None: ...

    An `async def` handler runs in Trio, a `def` handler in a thread.
    """

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._not_found: Route | None = None

    def handler(self, type: str, *, payload: Any = None) -> Callable[[_H], _H]:
        """Register the decorated function for a type.

        Args:
            type: the tickets' type.
            payload: a class of attrs, msgspec or dataclasses, or any type that msgspec decodes; `ticket.payload` is
                then an object of it. A ticket whose payload does not fit fails at once, since a retry cannot help.

        Raises:
            InvalidTicket: `type` is not a name.
            InvalidSettings: the type has a handler already, the function cannot take two arguments or has a `yield`, or
                msgspec cannot decode `payload`.
        """
        check_name("type", type)

        def register(function: _H) -> _H:
            if type in self._routes:
                raise InvalidSettings(f"type {type!r} has a handler already: {_name(self._routes[type].handler)}")
            self._routes[type] = _route(function, payload)
            return function

        return register

    def not_found(self, function: _H) -> _H:
        """Register the decorated function for all types that have no handler of their own.

        Raises:
            InvalidSettings: there is one already, or the function cannot take two arguments or has a `yield`.
        """
        if self._not_found is not None:
            raise InvalidSettings(f"there is a not_found handler already: {_name(self._not_found.handler)}")
        self._not_found = _route(function, None)
        return function

    @property
    def types(self) -> tuple[str, ...]:
        """The types that have a handler of their own, in the order in which they were registered."""
        return tuple(self._routes)

    @property
    def is_empty(self) -> bool:
        """Whether no handler is registered."""
        return not self._routes and self._not_found is None

    def find(self, type: str) -> Route:
        """Return the route for a type. O(1).

        Raises:
            HandlerNotFound: there is none, and no `not_found` handler.
        """
        route = self._routes.get(type, self._not_found)
        if route is None:
            known = ", ".join(map(repr, self._routes)) or "none"
            raise HandlerNotFound(
                f"no handler for type {type!r} (registered: {known}); register one with @router.handler({type!r}), "
                f"or a @router.not_found for all others"
            )
        return route


def _route(function: Handler, payload: Any) -> Route:
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError) as error:
        raise InvalidSettings(f"{_name(function)} is not a handler: it must take (kh, ticket): {error}") from None
    if any(kind(_innermost(function)) for kind in (inspect.isgeneratorfunction, inspect.isasyncgenfunction)):
        raise InvalidSettings(f"{_name(function)} is not a handler: it has a yield, so calling it would run nothing")
    in_thread = not _is_async(function)
    if payload is None:
        return Route(function, in_thread)
    try:
        decode = msgspec.json.Decoder(payload).decode
        if isinstance(msgspec.inspect.type_info(payload), msgspec.inspect.CustomType):
            raise TypeError(
                "it is not a class of attrs, msgspec or dataclasses"
            )  # Decoder says so only when it decodes
    except (TypeError, NameError) as error:
        raise InvalidSettings(f"{_name(function)}: payloads cannot be decoded as {_name(payload)}: {error}") from None
    return Route(function, in_thread, decode, _name(payload))


def _innermost(function: Any) -> Any:
    while hasattr(function, "func"):  # a functools.partial
        function = function.func
    return function


def _is_async(function: Any) -> bool:
    function = _innermost(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - an object with an async __call__


def _name(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", None) or repr(thing))
