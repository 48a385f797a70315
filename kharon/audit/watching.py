"""How far a reading has come, for whoever has somebody waiting for it: every read of a segment's bytes is told here.

    with watched(tell): kharon.replay(path)        tell(bytes) is called at each read, with how many were read

One hook for all that reads logs, so that none of it needs an argument for it. It holds for the calls made in the block,
in that thread or task. It knows neither terminals nor time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

__all__ = ["tell", "watched"]

_watcher: ContextVar[Callable[[int], None] | None] = ContextVar("kharon_audit_watcher", default=None)


@contextlib.contextmanager
def watched(watcher: Callable[[int], None]) -> Iterator[None]:
    """Call `watcher` with the number of bytes whenever some are read in the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def tell(count: int) -> None:
    """Tell whoever watches, if anybody does, that `count` bytes were read."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(count)
