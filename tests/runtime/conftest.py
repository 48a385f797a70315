import signal

import pytest


@pytest.fixture
def ctrl_c():
    """Python's own answer to SIGINT, which a process that was started in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
