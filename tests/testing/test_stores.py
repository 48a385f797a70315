"""The conformance suite for stores: what passes it, and what it finds."""

import pytest
import trio

from kharon.log.memory import MemoryLog
from kharon.testing import STORE_CHECKS, Place, TrioClock


class Custom:
    """A log of somebody's own: every method of an `EventLog`, and no other."""

    def __init__(self):
        self._log = MemoryLog()

    seq = property(lambda self: self._log.seq)
    written = property(lambda self: self._log.written)
    durable = property(lambda self: self._log.durable)
    first = property(lambda self: self._log.first)

    def open(self, now):
        return self._log.open(now)

    def append(self, events, at, by):
        return self._log.append(events, at, by)

    def write(self):
        self._log.write()

    def sync(self):
        self._log.sync()

    def reader(self, after=0, id=None):
        return self._log.reader(after, id)

    def close(self, now):
        self._log.close(now)

    def abandon(self):
        self._log.abandon()


def named(check):
    return check.__name__.removeprefix("check_")


@pytest.mark.parametrize("check", STORE_CHECKS, ids=named)
async def test_memory_passes(check, autojump_clock):
    await check(Place(lambda: ":memory:", clock=TrioClock()))


@pytest.mark.parametrize("check", STORE_CHECKS, ids=named)
async def test_a_log_of_ones_own_passes(check, autojump_clock):
    await check(Place(Custom, clock=TrioClock()))


@pytest.mark.parametrize("check", STORE_CHECKS, ids=named)
async def test_a_directory_passes(check, tmp_path):
    places = iter(range(99))
    made = []

    def make():
        made.append(tmp_path / f"queue-{next(places)}")
        return made[-1]

    with trio.fail_after(60):
        await check(Place(make, lambda: made[-1]))
