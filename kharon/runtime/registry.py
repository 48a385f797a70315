"""Who waits for what, by its name: each enters before it asks whether it is so already, and leaves no trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["Registry"]


class _Waiter(Protocol):
    def closed(self) -> None:
        """Hear that nothing more will be told."""


_W = TypeVar("_W", bound=_Waiter)


class Registry(Generic[_W]):
    """All who wait.

    Args:
        make: makes one who waits.

    Attributes:
        by_name: those who wait, by the name of what they wait for; no name without them.
    """

    def __init__(self, make: Callable[[], _W]) -> None:
        self.by_name: dict[str, set[_W]] = {}
        self._make = make

    @contextlib.contextmanager
    def begin(self, name: str) -> Iterator[_W]:
        """Begin a wait; it ends with the block."""
        waiter = self._make()
        self.by_name.setdefault(name, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiters = self.by_name[name]
            waiters.remove(waiter)
            if not waiters:
                del self.by_name[name]

    def closed(self) -> None:
        """Tell all who wait that nothing more will be told. O(their number)."""
        for waiters in self.by_name.values():
            for waiter in waiters:
                waiter.closed()
