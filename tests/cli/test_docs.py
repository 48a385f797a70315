"""The commands and programs of docs/audit.md, and the commands `$ kharon …` of README.md, print what is shown there.

A page's blocks are run in order, in one directory, where the scenario's queue is called `queue`. To write the outputs
anew, after a change that is meant, and then read the difference:

    KHARON_WRITE_EXPECTED=1 python -m pytest tests/cli/test_docs.py && git diff docs README.md
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import scenario

import kharon

PROJECT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE = 120  # seconds


@pytest.fixture
def shell(tmp_path):
    """Runs a line of a page as a reader would; what it exports holds for those behind it."""
    (tmp_path / "bin").mkdir()
    for name, more in (("kharon", "-m kharon"), ("python", "")):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error {more} "$@"\n')
        command.chmod(0o755)
    where = tmp_path / "page"
    where.mkdir()
    (where / "tests").symlink_to(PROJECT / "tests")
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")},
        "PYTHONPATH": str(PROJECT),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "COLUMNS": "80",
        "TZ": "UTC",
        "KHARON_NOW": "2026-03-11T08:00Z",
    }

    def run(*command):
        ran = subprocess.run(
            command,
            cwd=where,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        assert command[0] != "python" or ran.returncode == 0, ran.stdout.decode()
        return ran.stdout.decode()

    run.where = where
    return run


def run_line(shell, line):
    if line.startswith("python tests/cli/scenario.py"):
        scenario.build(shell.where / line.split()[-1])
        return ""
    return shell("bash", "-c", line)


def run_console(shell, text):
    """A console's block with the outputs that its commands have now."""
    lines = [line for line in text.splitlines() if line.startswith("$ ")]
    return "".join(f"{line}\n{run_line(shell, line[2:])}" for line in lines)


def checked(path, text):
    """Compare a page with what it should be, or write it."""
    if os.environ.get("KHARON_WRITE_EXPECTED"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_audit(shell):
    path = PROJECT / "docs" / "audit.md"
    page = path.read_text(encoding="utf-8")
    shown, last = [], ""

    def now(found):
        nonlocal last
        kind, text = found[1], found[2]
        shown.append(kind)
        if kind == "console":
            if "anchor-2026-03-10.txt\n" in text and "cat " in text:
                keep_anchor(shell.where)
            text = run_console(shell, text)
        elif kind == "python":
            pytest.importorskip("duckdb")
            last = shell("python", "-c", text)
        else:
            text = last
        return f"```{kind}\n{text}```"

    checked(path, BLOCK.sub(now, page))
    assert {kind: shown.count(kind) for kind in shown} == {"console": 14, "python": 2, "text": 1}


def keep_anchor(where):
    """What `kharon anchor queue` printed at ten in the evening."""
    record = next(record for record in kharon.read(where / "queue") if record.seq == scenario.ANCHORED)
    anchor = kharon.Anchor(scenario.LOG_ID, record.seq, record.hash)
    (where / "anchor-2026-03-10.txt").write_text(f"{anchor}\n")


def test_the_readme(shell):
    path = PROJECT / "README.md"
    page = path.read_text(encoding="utf-8")
    scenario.build(shell.where / "queue")
    shown = []

    def now(found):
        kind, text = found[1], found[2]
        if kind != "console" or not text.startswith("$ kharon "):
            return found[0]
        text = run_console(shell, text)
        shown.append(text)
        return f"```{kind}\n{text}```"

    checked(path, BLOCK.sub(now, page))
    assert len(shown) == 3
