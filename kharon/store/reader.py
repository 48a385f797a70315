"""`LocalReader`: reads the records of a store of one process, in slices, and only durable ones.

The store tells it which records are durable, and when there are more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kharon.log.protocol import LogReader
from kharon.log.record import Record

__all__ = ["LocalReader"]

_READ_SLICE = 256  # records between two checkpoints: less than 1 ms


class LocalReader:
    """Durable records, in order, read from the log in slices: a `RecordReader`.

    Args:
        reader: reads the log.
        readable: returns the seq up to which records may be read now.
        wait_beyond: waits until records after a seq may be read.
    """

    def __init__(
        self,
        reader: LogReader,
        readable: Callable[[], Awaitable[int]],
        wait_beyond: Callable[[int], Awaitable[None]],
    ) -> None:
        self.at_end = False
        self._reader = reader
        self._readable = readable
        self._wait_beyond = wait_beyond

    async def read(self) -> list[Record]:
        """Return the next wanted records; perhaps none, although more follow."""
        until = await self._readable()
        found = self._reader.read(_READ_SLICE, until)
        self.at_end = self._reader.seq >= until
        return found

    async def wait(self) -> None:
        """Wait until there are records after those that were read."""
        await self._wait_beyond(self._reader.seq)

    def close(self) -> None:
        """Close the files that the reader holds."""
        self._reader.close()
