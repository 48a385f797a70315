"""Fixtures for all tests, and figures and files that are reported after a run.

Numbers that tests record with `record_property(name, number)` are summed up by file and name. Of texts,
`record_property(name, text)`, it prints how many different ones a directory's tests have named: a place that several of
them reach is counted once. The figures in docs/explanation/guarantees.md are these. What people are to look at is in
the folder that KHARON_ARTEFACTS names, if there is one in the environment.
"""

import functools
import logging
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from inspect import iscoroutinefunction
from pathlib import Path

import extras
import pytest
import trio

LONG = 10 * 24 * 3600.0  # seconds of virtual time: idle workers look at the clock each 15

# A shell starts what runs in its background with Ctrl-C ignored, and so would be the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """Where a queue may be; nothing is there."""
    return tmp_path / "queue"


@pytest.fixture
def quiet():
    """No warnings: each recovery that cuts warns of it, and some tests have too many to keep for a failure's report."""
    logger = logging.getLogger("kharon")
    logger.disabled = True
    yield
    logger.disabled = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that would wait for ever in virtual time fails after much of it: workers look at their clock on and on.

    Not one with files: while a thread or a process works for it, virtual time runs away.
    """
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if "autojump_clock" in names and "tmp_path" not in names and iscoroutinefunction(item.obj):
            item.obj = _ending(item.obj)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    with extras.skipping():
        return (yield)


def _ending(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def ending(*args: object, **kwargs: object) -> None:
        with trio.fail_after(LONG):
            await test(*args, **kwargs)

    return ending


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    texts: set[tuple[str, str, str]] = set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "call":  # its teardown repeats them
                for name, number in report.user_properties:
                    if isinstance(number, int):
                        counts[report.location[0], name] += number
                    elif isinstance(number, str):
                        texts.add((report.location[0].rpartition("/")[0], name, number))
    counts.update((folder, name) for folder, name, _text in texts)
    if counts:
        terminalreporter.section("counted")
        for (file, name), number in sorted(counts.items()):
            terminalreporter.line(f"{file}: {number:,} {name}")
    if folder := os.environ.get("KHARON_ARTEFACTS"):
        kept = sorted(path.name for path in Path(folder).glob("*"))
        terminalreporter.section("kept to be looked at")
        terminalreporter.line(f"{folder}: {', '.join(kept) or 'nothing'}")
