"""Examples are tested as users run them: as processes. Each is ended, by its pid, whatever happens to its test."""

from __future__ import annotations

import pytest
from processes import Process


@pytest.fixture
def start(tmp_path):
    """`start("quickstart.py", "queue")` is a running example, in `tmp_path`."""
    running = []

    def start(name, *args):
        process = Process(name, *args, cwd=tmp_path)
        running.append(process)
        return process

    yield start
    for process in running:
        process.close()
