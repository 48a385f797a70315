"""Running tests in copies of the project: in the copy as it is, and in one for each mutant.

What is asked of pytest is its exit code and which test failed first. A test that fails is a catch; a file of tests that
cannot even be imported is not, since any nonsense in the code would do that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from .mutant import Mutant, plant

__all__ = ["PLUGINS", "Copies", "Result", "Verdict"]

NEEDED: Final = ("kharon", "tests", "pyproject.toml")
"""What a copy holds."""
PLUGINS: Final = ("pytest_trio.plugin",)
"""The plugins of pytest that the tests need. Loading whatever else is installed costs more than most of the tests."""
Verdict = Literal["caught", "SURVIVED", "HANGS", "ERROR"]
_UNCHANGED_LIMIT_SECONDS: Final = 1200.0  # for all tests, one behind the other
_GREEN, _RED = 0, 1  # pytest's exit codes: all passed, some failed
_LINES: Final = 25  # of pytest's output, where that is what explains


@dataclass(frozen=True)
class Result:
    """What came of running tests.

    Attributes:
        verdict: "caught": a test failed. "SURVIVED": none did. "HANGS": they did not end in time. "ERROR": they could
            not be run.
        seconds: how long it took.
        test: the id of the test that failed first; "" if none did.
        output: the end of what pytest said.
    """

    verdict: Verdict
    seconds: float
    test: str = ""
    output: str = ""


class Copies:
    """Copies of a project in which tests are run.

    Args:
        root: of the project.
        work: an empty folder for the copies.
        limit_seconds: how long the tests of one mutant may take.
        plugins: the plugins of pytest that its tests need.
    """

    def __init__(self, root: Path, work: Path, limit_seconds: float, plugins: Iterable[str] = PLUGINS) -> None:
        self._work = work
        self._limit = limit_seconds
        self._plugins = [f"-p{name}" for name in plugins]
        self._whole = work / "whole"
        for name in NEEDED:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, self._whole / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            elif source.exists():
                self._whole.mkdir(exist_ok=True)
                shutil.copy2(source, self._whole / name)

    def unchanged(self, tests: Iterable[str]) -> Result:
        """Run tests in the copy as it is, and leave there what Python compiles for the copies of it."""
        return _run(self._whole, [*self._plugins, *tests], _UNCHANGED_LIMIT_SECONDS)

    def with_bug(self, mutant: Mutant) -> Result:
        """Run a mutant's tests in a copy with that bug.

        Raises:
            Stale: it does not apply.
        """
        copy = self._work / mutant.name
        shutil.copytree(self._whole, copy, ignore=shutil.ignore_patterns("scratch", ".*"))
        try:
            plant(mutant, copy)
            return _run(copy, [*self._plugins, *mutant.tests], self._limit)
        finally:
            shutil.rmtree(copy, ignore_errors=True)


def _run(copy: Path, arguments: Iterable[str], limit_seconds: float) -> Result:
    scratch = copy / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "pytest", "-x", "-q", f"--basetemp={scratch / 'tmp'}"]
    command += ["-o", f"cache_dir={scratch / 'cache'}", *arguments]
    # The copy comes in front of a Kharon that is installed.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    begun = time.monotonic()
    with (scratch / "output").open("wb") as output:
        # A session of its own, so that at the limit all that the tests have started ends, and nothing else.
        process = subprocess.Popen(
            command,
            cwd=copy,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds = time.monotonic() - begun
    said = (scratch / "output").read_text(encoding="utf-8", errors="replace").splitlines()
    end = "\n".join(said[-_LINES:])
    if code is None:
        return Result("HANGS", seconds, output=end)
    if code == _GREEN:
        return Result("SURVIVED", seconds, output=end)
    test = _first_failed(scratch / "cache")
    if code != _RED or "::" not in test:  # without it the file itself could not be imported
        return Result("ERROR", seconds, test, end)
    return Result("caught", seconds, test, end)


def _first_failed(cache: Path) -> str:
    """Return the id of the only test that has failed under `-x`, as pytest keeps it for `--last-failed`."""
    path = cache / "v" / "cache" / "lastfailed"
    if not path.exists():
        return ""
    return next(iter(json.loads(path.read_text(encoding="utf-8"))), "")
