"""The records of a queue as an async iterator."""

from __future__ import annotations

from typing import Self

import trio

from kharon.log.record import Record
from kharon.store.protocol import RecordReader

__all__ = ["RecordStream"]


class RecordStream:
    """Durable records as an async iterator. Its end closes it; `aclose` or `async with` closes it earlier.

    Raises, from its iteration:
        CorruptLog: the log is damaged.
        Closed: the queue was closed.
        KharonError: the next records were trimmed, or dropped by a ":memory:" queue, before they were read; or they
            are compressed, and zstd is not installed.
        OSError: the log cannot be read.
    """

    def __init__(self, reader: RecordReader, *, follow: bool) -> None:
        self._reader = reader
        self._follow = follow
        self._next: list[Record] = []
        self._ended = False

    def __aiter__(self) -> RecordStream:
        return self

    async def __anext__(self) -> Record:
        if self._next:
            await trio.lowlevel.checkpoint()
            return self._next.pop()
        try:
            while not self._ended:
                self._next = (await self._reader.read())[::-1]
                if self._next:
                    return self._next.pop()
                if self._reader.at_end:
                    if not self._follow:
                        break
                    await self._reader.wait()
        except Exception:
            self._close()
            raise
        await self.aclose()
        raise StopAsyncIteration

    def _close(self) -> None:
        self._ended = True
        self._next = []
        self._reader.close()

    async def aclose(self) -> None:
        """Stop, and close the files of the stream."""
        self._close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._close()
        await trio.lowlevel.cancel_shielded_checkpoint()
