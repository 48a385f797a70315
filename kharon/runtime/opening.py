"""`kharon.open`: a queue is opened, and closed again in good order."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Final

from trio.lowlevel import enable_ki_protection

from kharon.errors import CorruptLog, InvalidSettings
from kharon.log.directory import DirectoryLog
from kharon.log.memory import MemoryLog
from kharon.log.protocol import EventLog
from kharon.runtime.clock import WallClock
from kharon.runtime.kharon import Kharon
from kharon.runtime.queue import Queue
from kharon.settings import Settings
from kharon.store.protocol import Clock

__all__ = ["open_queue"]

MEMORY: Final = ":memory:"
_REMEDY: Final = (
    "nothing was changed. kharon.repair(path) says what mending it would lose, and kharon.repair(path, confirm=True) "
    "mends it; a copy of the directory from before the damage may lose less"
)


class open_queue(AbstractAsyncContextManager[Kharon]):  # noqa: N801 - it is `kharon.open`
    """Open a queue: `async with kharon.open("queue") as kh:`.

    Args:
        where: a directory, made if it does not exist, and found once: the process may change its working directory
            while the queue is open; ":memory:" for a queue that ends with the block; or an `EventLog` of your own.
        settings: the queue's.
        clock: what tells the time; None: the machine's clock.

    Raises, on entering:
        QueueLocked: the directory is open already, here or in another process.
        CorruptLog: its log is damaged; or its beginning was trimmed, and no snapshot of it is usable. Its note, which a
            traceback shows, says what can be done.
        UnknownFormat: a later version of Kharon wrote it.
        KharonError: the directory is no queue, or should not be trusted with one: somebody else owns it or may write
            it, it is read-only, or on a network file system; or some of it is compressed, and zstd is not installed.
            The message says what to do.
        OSError: it cannot be read or written.

    Leaving the block stops the workers, releasing what they run, and closes the log. What the block raised leaves it
    unchanged. A queue that a process died with is opened as it was, but for its claims, which lapse: those attempts
    count, so that a ticket which kills its process comes to an end.

    Cost: to open, O(tickets) of the newest snapshot and O(records) behind it; without one O(records).
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | EventLog,
        settings: Settings | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        settings = Settings() if settings is None else settings
        if not isinstance(settings, Settings):
            raise InvalidSettings(f"settings: a kharon.Settings, not {type(settings).__name__}")
        clock = WallClock() if clock is None else clock
        if isinstance(clock, type) or not callable(getattr(clock, "now", None)):
            given = f"the class {clock.__name__}" if isinstance(clock, type) else type(clock).__name__
            raise InvalidSettings(f"clock: an object whose now() is an aware datetime, as TrioClock(); not {given}")
        log, in_thread = _log(where, settings)
        self._queue = Queue(log, settings, clock, Kharon, in_thread=in_thread)

    @enable_ki_protection  # what has been opened is closed, in good order, whenever a Ctrl-C comes
    async def __aenter__(self) -> Kharon:
        try:
            await self._queue.store.open()
        except CorruptLog as corrupt:
            corrupt.add_note(_REMEDY)
            raise
        if self._queue.snapshots is not None:
            self._queue.snapshots.start()
        if self._queue.keeper is not None:
            self._queue.keeper.start()
        return Kharon(self._queue, self._queue.settings.actor)

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._queue.crew.stop()
        finally:
            if self._queue.snapshots is not None:
                await self._queue.snapshots.stop()
            if self._queue.keeper is not None:
                await self._queue.keeper.stop()
            await self._queue.store.close()


def _log(where: str | os.PathLike[str] | EventLog, settings: Settings) -> tuple[EventLog, bool]:
    """Return the log for a place, and whether it may be opened in a thread."""
    if isinstance(where, (str, os.PathLike)):
        name = os.fspath(where)
        if name == MEMORY:
            return MemoryLog(settings.memory_records), False
        if not name or "://" in name:
            raise InvalidSettings(f'where: {name!r} is neither a directory nor ":memory:"')
        log = DirectoryLog(
            Path(name).absolute(),  # wherever the process goes while the queue is open
            settings.segment_bytes,
            reserve_bytes=settings.reserve_bytes,
            allow_network_filesystem=settings.allow_network_filesystem,
        )
        return log, True
    if not callable(getattr(where, "append", None)) or not callable(getattr(where, "sync", None)):
        raise InvalidSettings(f'where: a directory, ":memory:", or an EventLog; not {type(where).__name__}')
    return where, False
