"""A running example: its lines of output, and its end."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds; never reached unless something hangs


class Process:
    """A running example, whose lines of output can be waited for."""

    def __init__(self, name, *args, cwd):
        self._errors = (cwd / f"{name}.stderr").open("w+b")
        self._popen = subprocess.Popen(
            [sys.executable, "-W", "error", str(PROJECT / "examples" / name), *map(str, args)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.pid = self._popen.pid
        self.lines = []
        self._queue = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._popen.stdout:
            self._queue.put(line.decode("utf-8", "backslashreplace").rstrip("\n"))
        self._queue.put(None)

    def line(self):
        """The next line of output; None at its end."""
        line = self._queue.get(timeout=PATIENCE)
        if line is not None:
            self.lines.append(line)
        return line

    def line_with(self, text):
        """The next line of output that holds `text`."""
        while (line := self.line()) is not None:
            if text in line:
                return line
        pytest.fail(f"no line with {text!r} in {self.lines}; stderr: {self.errors}")

    @property
    def errors(self):
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "backslashreplace")

    @property
    def running(self):
        return self._popen.poll() is None

    def send(self, number):
        self._popen.send_signal(number)

    def ended(self):
        """Read to the end of its output; return the exit code."""
        while self.line() is not None:
            pass
        return self._popen.wait(timeout=PATIENCE)

    def kill(self):
        self._popen.kill()
        return self.ended()

    def close(self):
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait(timeout=PATIENCE)
        self._reader.join(timeout=PATIENCE)
        self._popen.stdout.close()
        self._errors.close()
