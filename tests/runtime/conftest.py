"""What the tests of the runtime may ask for."""

import signal

import pytest

import kharon
from kharon import Settings
from kharon.testing import TrioClock


@pytest.fixture
def clock():
    """A queue's clock that goes as Trio's does."""
    return TrioClock()


@pytest.fixture
def opened(clock):
    """Opens a queue by that clock, in memory if nothing else is said, with these settings."""

    def open_with(where=":memory:", **settings):
        return kharon.open(where, Settings(**settings), clock=clock)

    return open_with


@pytest.fixture
async def kh(mock_clock):
    """A queue in memory that is open; virtual time stands still."""
    async with kharon.open(":memory:", clock=TrioClock()) as kh:
        yield kh


@pytest.fixture
def ctrl_c():
    """Python's own answer to SIGINT, which a process that was started in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
