"""Progress of a reading: `watch_bytes` calls a function each time bytes of a segment are read.

    with watch_bytes(advance):
        kharon.replay(path)             # advance(count) is called at each read

One hook serves every reader of logs, so that none needs an argument for it. It holds in the block, for the thread or
task that entered it. Nothing here knows terminals or time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

__all__ = ["report_bytes", "watch_bytes"]

_watcher: ContextVar[Callable[[int], None] | None] = ContextVar("kharon_audit_watcher", default=None)


@contextlib.contextmanager
def watch_bytes(watcher: Callable[[int], None]) -> Iterator[None]:
    """Call `watcher` with the number of bytes of each read in the block. The innermost block's watcher is called."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def report_bytes(count: int) -> None:
    """Report that `count` bytes were read. Does nothing outside of `watch_bytes`."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(count)
