"""`open_store`: makes the store of a queue from its place. No other module knows which store a place needs.

A directory, ":memory:" and an `EventLog` each get a `LocalStore` over their log. The store is not opened here:
`Store.open` recovers it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from kharon.errors import InvalidSettings
from kharon.log.directory import DirectoryLog
from kharon.log.memory import MemoryLog
from kharon.log.protocol import EventLog
from kharon.settings import Settings
from kharon.store.background import Background
from kharon.store.local import LocalStore
from kharon.store.protocol import Clock, Deliver, Store

__all__ = ["MEMORY", "WallClock", "Where", "open_store"]

MEMORY: Final = ":memory:"
"""The place of a queue in memory, which ends with its process."""
Where = str | os.PathLike[str] | EventLog
"""A directory, `MEMORY`, or a log."""


class WallClock:
    """The machine's clock: due times survive a restart. A step of it is noticed within `max_poll_interval`.

    For virtual time see `kharon.testing.TrioClock`.
    """

    def now(self) -> datetime:
        """Return the present instant in UTC."""
        return datetime.now(UTC)


def open_store(
    where: Where, settings: Settings, clock: Clock, *, deliver: Deliver, closed: Callable[[], None]
) -> Store:
    """Return the store of the queue at a place. Await its `open` before any other method.

    Args:
        where: a directory, which is made if it does not exist; ":memory:"; or an `EventLog`. A relative path is
            resolved now, so the process may change its working directory later.
        settings: the settings of the queue.
        clock: gives the present time.
        deliver: called with the changes of each durable commit.
        closed: called when the store is closed or broken, so that nothing more is delivered; perhaps twice.

    Raises:
        InvalidSettings: `where` is none of these.
        KharonError: the settings ask for compression, and zstd is not installed.
    """
    log, in_thread = _log(where, settings)
    background = Background(log, settings, clock) if isinstance(log, DirectoryLog) else None
    return LocalStore(log, settings, clock, deliver, closed, in_thread=in_thread, background=background)


def _log(where: Where, settings: Settings) -> tuple[EventLog, bool]:
    """Return the log of a place, and whether it may be opened in a thread."""
    if isinstance(where, (str, os.PathLike)):
        name = os.fspath(where)
        if name == MEMORY:
            return MemoryLog(settings.memory_records), False
        if not name or "://" in name:
            raise InvalidSettings(f'where: {name!r} is neither a directory nor ":memory:"')
        log = DirectoryLog(
            Path(name).absolute(),
            settings.segment_bytes,
            reserve_bytes=settings.reserve_bytes,
            allow_network_filesystem=settings.allow_network_filesystem,
            allow_group_access=settings.allow_group_access,
        )
        return log, True
    if not callable(getattr(where, "append", None)) or not callable(getattr(where, "sync", None)):
        raise InvalidSettings(f'where: a directory, ":memory:", or an EventLog; not {type(where).__name__}')
    return where, False
