"""What the tests of the command share: the queue of `scenario`, and running a command in this process."""

from __future__ import annotations

import contextlib
import math
import time

import extras
import pytest
import scenario
from running import Ran, Stream

from kharon import history
from kharon.cli import main
from kharon.cli.output import Bar


@pytest.fixture(autouse=True)
def _needs_the_command() -> None:
    extras.need("cli")


@pytest.fixture(scope="session")
def queue_of_a_night(tmp_path_factory):
    """The scenario's queue, with the indexes that the first question about a ticket makes. No test changes it."""
    extras.need("zstd")
    where = tmp_path_factory.mktemp("night") / "queue"
    scenario.build(where)
    history(where, "nobody")
    return where


@pytest.fixture
def at_home(monkeypatch):
    """An environment that is the same everywhere: the time, its zone, the terminal, and no bar."""
    monkeypatch.setattr(Bar, "_PATIENCE", math.inf)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("KHARON_NOW", scenario.NOW.isoformat())
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "KHARON_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    time.tzset()
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def run(at_home):
    """`run("ls", path)` runs a command in this process. Keywords: terminal, encoding."""

    def run(*arguments, terminal=False, encoding="utf-8"):
        out, err = (Stream(terminal=terminal, encoding=encoding) for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return Ran(code, out.text(), err.text())

    return run


@pytest.fixture
def kharon(run, queue_of_a_night, monkeypatch):
    """`kharon("ls", "queue")` runs a command where the scenario's queue is called `queue`."""
    monkeypatch.chdir(queue_of_a_night.parent)
    return run
