"""`kharon.open`: a queue is opened, and closed again in good order.

What it is told is checked here; which store the queue has is decided by `open_store`.
"""

from __future__ import annotations

import functools
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from trio.lowlevel import enable_ki_protection

from kharon.errors import InvalidSettings
from kharon.runtime.kharon import Kharon
from kharon.runtime.queue import Queue
from kharon.settings import Settings
from kharon.store.opening import WallClock, Where, open_store
from kharon.store.protocol import Clock

__all__ = ["open_queue"]


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
        where: Where,
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
        self._queue = Queue(functools.partial(open_store, where), settings, clock, Kharon)

    @enable_ki_protection  # what has been opened is closed, in good order, whenever a Ctrl-C comes
    async def __aenter__(self) -> Kharon:
        await self._queue.store.open()
        return Kharon(self._queue, self._queue.settings.actor)

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._queue.crew.stop()
        finally:
            await self._queue.store.close()
