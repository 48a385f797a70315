"""Descriptors that a forked child lets go of, since they are its parent's: the lock, the log's files, pipes to helpers.

A lock of flock(2) belongs to the open file, which a child shares: it would last until the last child has ended. So the
child closes its copies before it does anything else. This covers `os.fork`, and so `multiprocessing` and process pools,
but no fork that an extension makes on its own. Nothing here ends what the parent has open.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol, TypeVar

__all__ = ["close_in_children"]


class _Closable(Protocol):
    def close(self) -> object: ...


_Held = TypeVar("_Held", bound=_Closable)
_held: weakref.WeakSet[_Closable] = weakref.WeakSet()


def close_in_children(held: _Held) -> _Held:
    """Return `held`; every child that is forked from now on closes it. O(1), and for each fork O(what is held)."""
    _held.add(held)
    return held


def _let_go() -> None:
    for each in list(_held):
        with contextlib.suppress(OSError):
            each.close()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows, which has no fork
    os.register_at_fork(after_in_child=_let_go)
