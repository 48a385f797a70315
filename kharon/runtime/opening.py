"""`kharon.open`: opens a queue, and closes it in good order.

This module checks the arguments; `open_store` makes the store.
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
        where: a directory, made if it does not exist; ":memory:" for a queue that ends with the block; or an `EventLog`
            of your own. A relative path is resolved once, so the process may change its working directory later.
        settings: the settings of the queue; None: `Settings()`.
        clock: gives the present time; None: the machine's clock.

    Raises, on entering:
        QueueLocked: the directory is open already, here or in another process.
        CorruptLog: its log is damaged; or its beginning was trimmed, and no snapshot of it is usable. A note of the
            exception, which a traceback shows, says how to repair it.
        UnknownFormat: a later version of Kharon wrote it.
        KharonError: the directory is not a queue; or it is not safe for one, since another user owns it or may write
            it, it is read-only, or it is on a network file system; or parts of it are compressed, and zstd is not
            installed. The message says what to do.
        OSError: it cannot be read or written.

    Leaving the block stops the workers, which releases their tickets, and closes the log. An exception of the block
    leaves it unchanged. After the crash of a process, its queue opens in the state before, except that its claims
    lapse. Those attempts count, so that a ticket which kills its process fails in the end.

    Cost: to open, O(tickets) of the newest snapshot and O(records) after it; without a snapshot O(records).
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

    @enable_ki_protection  # whenever a Ctrl-C comes, an opened queue is closed in good order
    async def __aenter__(self) -> Kharon:
        await self._queue.store.open()
        return Kharon(self._queue, self._queue.settings.actor)

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._queue.workers.stop()
        finally:
            await self._queue.store.close()
