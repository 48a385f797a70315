"""Reads a page of the documentation, and runs its blocks of code in order, as a reader would.

A page's blocks share one temporary directory, with `python` and `kharon` on PATH. How each kind of block is run:

* `python` is a program if it calls `trio.run(`, or if it imports kharon and awaits nothing. It runs as a process, with
  warnings as errors, and must end with 0 and an empty stderr. Any other python block is a fragment of one async
  function, in which `kh` (a queue in memory), `kharon` and `trio` are defined.
* `text` right behind a program is exactly what the program prints.
* `console` has lines `$ command` for bash, each followed by its output. A line that ends with a backslash goes on in
  the next one. What differs from run to run (`alike`) is not compared. All commands of a page share one shell.
* `toml`, `json`, `ini` and `sh` are parsed.

An HTML comment on the line before a block says more:

* `<!-- file: app.py -->` saves the block under that name first; a python block is then a program.
  `<!-- file: app.py, not run -->` only saves it.
* `<!-- night -->` runs a console where `queue` is the queue of tests/cli/scenario.py, at the end of its night. Its
  output is the same everywhere, and compared as it is. The same holds from the line on where a page exports KHARON_NOW.

Commands that make virtual environments or use one are not run here: `test_pages.py` proves that `.ci/run` runs them.
"""

from __future__ import annotations

import ast
import configparser
import inspect
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import textwrap
import threading
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import kharon

PROJECT = Path(__file__).parents[2]
SCENARIO = PROJECT / "tests" / "cli" / "scenario.py"
NIGHT = {"TZ": "UTC", "KHARON_NOW": "2026-03-11T08:00Z"}
SHOWN_AS = "/home/ann/app"
"""How a page writes the absolute path of its directory."""
PATIENCE = 120  # seconds
ELSEWHERE = re.compile(r"\$ (python3 -m venv |\.venv/bin/|pip install )")
"""Commands that are not run here."""

FENCE = re.compile(r"^( *)(`{3,})(.*)$")
DIRECTIVES = ("{toctree}", "{eval-rst}")
"""Those of MyST that may be on a page: they hold no code."""
NOTE = re.compile(r"^ *<!-- (file: (?P<file>[\w./-]+)(?P<saved>, not run)?|(?P<night>night)) -->$")


@attrs.frozen
class Block:
    """A block of code of a page.

    Attributes:
        kind: the word behind the fence.
        code: what is in the block, with its newlines.
        line: the number of the fence's line, from 1.
        indent: how many spaces are in front of the fence.
        file: the name under which it is saved first.
        runs: whether a block that is saved is run too.
        night: whether it runs beside the scenario's queue.
    """

    kind: str
    code: str
    line: int
    indent: int = 0
    file: str | None = None
    runs: bool = True
    night: bool = False

    @property
    def is_program(self) -> bool:
        """Whether a python block is a process of its own; else it is a fragment."""
        if self.file is not None:
            return True
        return "trio.run(" in self.code or ("import kharon" in self.code and "await " not in self.code)

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The commands of a console, each with the output that is shown."""
        found: list[tuple[str, str]] = []
        open_line = False
        for line in self.code.splitlines(keepends=True):
            if open_line or line.startswith("$ "):
                command = found.pop()[0] + line if open_line else line
                found.append((command, ""))
                open_line = line.endswith("\\\n")
            else:
                assert found, f"line {self.line}: a console begins with `$ `"
                command, output = found.pop()
                found.append((command, output + line))
        return found


def blocks_of(text: str) -> list[Block]:
    """The blocks of code of a page in their order; directives are none."""
    found = []
    lines = text.splitlines()
    numbered = iter(enumerate(lines))
    for first, line in numbered:
        opened = FENCE.match(line)
        if opened is None:
            continue
        indent, fence, kind = opened.groups()
        end = next(number for number, line in numbered if line.rstrip() == indent + fence)
        if kind.startswith("{"):
            assert kind.startswith(DIRECTIVES), f"line {first + 1}: nothing runs what is in {kind}"
            continue
        note = NOTE.match(lines[first - 1]) if first else None
        found.append(
            Block(
                kind,
                textwrap.dedent("".join(f"{line}\n" for line in lines[first + 1 : end])),
                first + 1,
                len(indent),
                file=note and note["file"],
                runs=not (note and note["saved"]),
                night=bool(note and note["night"]),
            )
        )
    return found


def with_outputs(text: str, outputs: dict[int, str]) -> str:
    """The text of a page where the blocks at these lines have other contents."""
    lines = text.splitlines(keepends=True)
    for block in reversed(blocks_of(text)):
        if block.line in outputs:
            body = textwrap.indent(outputs[block.line], " " * block.indent)
            lines[block.line : block.line + block.code.count("\n")] = body.splitlines(keepends=True)
    return "".join(lines)


# --- what differs from run to run -------------------------------------------------------------------------------------

NUMBER = r"\d+(?:\.\d+)?"
DURATION = rf"{NUMBER} (?:µs|ms|s|m|h|d)\b"
DIFFERS = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z| UTC| ?[+-]\d\d:?\d\d)?"), "(instant)"),
    (re.compile(rf"{DURATION}(?: {DURATION})*"), "(duration)"),
    (re.compile(r"(changed |\()now\b"), r"\1(duration) ago"),  # on a fast machine: less than half a second ago
    (re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{32})\b"), "(hash)"),
    (re.compile(r'"crc":"[0-9a-f]{8}"'), '"crc":"(crc)"'),
    (re.compile(r"\b\d[\d,]*(?:\.\d+)? ?(?:bytes|[kMG]i?B)\b"), "(size)"),
    (re.compile(r"\b(pid|process) \d+"), r"\1 (pid)"),
    (re.compile(r"\bworker-\d+\b"), "worker-(number)"),  # of several that are idle, any may claim
    (re.compile(r"^\[\d+\] \d+\n", re.MULTILINE), ""),  # an interactive shell's number of what is put in its background
    (re.compile(r"^(?:.*: line \d+: +\d+|\[\d+\][+-]?) +(Killed|Terminated)\b.*$", re.MULTILINE), r"\1"),
    (re.compile(r"[ \t]+"), " "),  # columns are as wide as what is in them
    (re.compile(r" $", re.MULTILINE), ""),
]


def alike(output: str) -> str:
    """An output without what differs from run to run, to be compared."""
    for differs, instead in DIFFERS:
        output = differs.sub(instead, output)
    return output


# --- running ----------------------------------------------------------------------------------------------------------


class Shell:
    """A bash in a directory, which runs one command after another until it is closed."""

    LOOP = r"""
while IFS= read -r -d '' command; do
    eval "$command" </dev/null 2>&1 3>&-
    echo >&3
done
"""

    def __init__(self, where: Path, output: Path, environment: dict[str, str]) -> None:
        self.where = where
        self.output = output
        self.printed = 0
        reading, writing = os.pipe()
        with output.open("wb") as printed:
            self.process = subprocess.Popen(
                ["bash", "-c", f"exec 3>&{writing} {writing}>&-\n{self.LOOP}" if writing != 3 else self.LOOP],
                cwd=where,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                start_new_session=True,
            )
        os.close(writing)
        self.ended = os.fdopen(reading, "rb")

    def run(self, command: str) -> str:
        """Run a command; what it printed, and what those in the background did meanwhile."""
        patience = threading.Timer(PATIENCE, self._kill)
        patience.start()
        self.process.stdin.write(command.encode() + b"\0")
        self.process.stdin.flush()
        ended = self.ended.readline()
        patience.cancel()
        printed = self.output.read_bytes()
        self.printed, printed = len(printed), printed[self.printed :].decode()
        assert ended, f"{command!r} has not ended in {PATIENCE} s, or has ended the shell\n{printed}"
        return printed.replace(str(self.where), SHOWN_AS)

    def _kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the shell, and all that it has started."""
        self._kill()
        self.process.wait()
        self.process.stdin.close()
        self.ended.close()


class Reader:
    """Runs a page's blocks in a directory.

    Attributes:
        where: the directory.
        kinds: how many blocks of each kind were run or compared.
        outputs: by the line of a block with an output: what it is now. It is what is shown, if that is alike.
    """

    def __init__(self, page: Path, home: Path) -> None:
        self.page = page
        self.text = page.read_text(encoding="utf-8")
        self.blocks = blocks_of(self.text)
        self.home = home
        self.where = home / "page"
        self.where.mkdir()
        for folder in ("tests", "examples"):
            if f" {folder}/" in "".join(block.code for block in self.blocks if block.kind == "console"):
                (self.where / folder).symlink_to(PROJECT / folder)
        self.environment = self._environment()
        self.shells: dict[bool, Shell] = {}
        self.names: dict[str, Any] = {"kharon": kharon, "trio": trio, "__name__": page.name}
        self.printed: str | None = None
        self.exactly = False
        self.kinds: dict[str, int] = {}
        self.outputs: dict[int, str] = {}

    def _environment(self) -> dict[str, str]:
        (self.home / "bin").mkdir()
        for name, more in (("kharon", "-m kharon"), ("python", ""), ("python3", "")):
            command = self.home / "bin" / name
            command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error {more} "$@"\n')
            command.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", *NIGHT)}
        return {
            **kept,
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",  # what a program printed before it was killed
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "COLUMNS": "80",
            "TZ": "UTC",
        }

    async def read(self) -> None:
        """Run every block, the fragments with a queue in memory.

        Raises:
            AssertionError: a block does not run, or a program prints something else. What consoles print is kept.
        """
        try:
            async with kharon.open(":memory:") as kh:
                self.names["kh"] = kh
                for block in self.blocks:
                    before, self.printed = self.printed, None
                    await self._run(block, before)
                    self.kinds[block.kind] = self.kinds.get(block.kind, 0) + 1
        finally:
            for shell in self.shells.values():
                shell.close()

    async def _run(self, block: Block, before: str | None) -> None:
        place = f"{self.page.name}, line {block.line}"
        if block.file is not None:
            (self.where / block.file).parent.mkdir(parents=True, exist_ok=True)
            (self.where / block.file).write_text(block.code)
        if block.kind == "console":
            self.outputs[block.line] = self._console(block)
        elif block.kind == "text":
            assert before is not None, f"{place}: no program that was run is right before this"
            self.outputs[block.line] = before
        elif block.kind != "python":
            assert block.kind in PARSERS, f"{place}: nothing runs a block of the kind {block.kind!r}"
            PARSERS[block.kind](block.code)
        elif not block.is_program:
            await self._fragment(block, place)
        elif block.runs:
            self._need(block.code)
            self.printed = self._program(block, place)

    def _need(self, code: str) -> None:
        """Skip the page if a package that a program imports is not installed."""
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                self._need_all(each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom):
                self._need_all([node.module or ""])

    def _need_all(self, modules: Iterable[str]) -> None:
        for name in (module.partition(".")[0] for module in modules):
            if name not in sys.stdlib_module_names and not (self.where / f"{name}.py").exists():
                pytest.importorskip(name)

    def _program(self, block: Block, place: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-W", "error", *([block.file] if block.file else ["-c", block.code])],
            cwd=self.where,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert ran.returncode == 0, f"{place}:\n{block.code}\n{ran.stderr}"
        assert not ran.stderr, f"{place}:\n{block.code}\n{ran.stderr}"
        return ran.stdout.replace(str(self.where), SHOWN_AS)

    async def _fragment(self, block: Block, place: str) -> None:
        running = eval(compile(block.code, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), self.names)
        if inspect.iscoroutine(running):
            await running

    def _console(self, block: Block) -> str:
        now = ""
        for command, shown in block.commands:
            output = shown if ELSEWHERE.match(command) else self._command(command, night=block.night)
            if not (block.night or self.exactly) and alike(output) == alike(shown):
                output = shown
            now += command + output
        return now

    def _command(self, command: str, *, night: bool) -> str:
        self.exactly = self.exactly or (command.startswith("$ export ") and "KHARON_NOW=" in command)
        output = self._shell(night=night).run(command[2:])
        if f" {SCENARIO.relative_to(PROJECT)} " in command:
            output = ""  # a warning, of the crash in the night
            keep_anchor(self.where / command.rsplit(maxsplit=1)[-1])
        return output

    def _shell(self, *, night: bool) -> Shell:
        if night not in self.shells:
            where = self.home / "night" if night else self.where
            if night:
                where.mkdir()
                subprocess.run([sys.executable, SCENARIO, where / "queue"], check=True, capture_output=True)
            environment = {**self.environment, **(NIGHT if night else {})}
            self.shells[night] = Shell(where, self.home / f"printed-{night}", environment)
        return self.shells[night]


def keep_anchor(queue: Path) -> None:
    """Write beside the scenario's queue what `kharon anchor` printed at ten in the evening."""
    scenario = runpy.run_path(str(SCENARIO))
    record = next(record for record in kharon.read(queue) if record.seq == scenario["ANCHORED"])
    anchor = kharon.Anchor(scenario["LOG_ID"], record.seq, record.hash)
    (queue.parent / "anchor-2026-03-10.txt").write_text(f"{anchor}\n")


def _ini(code: str) -> None:
    parser = configparser.RawConfigParser(strict=False)  # a unit of systemd may say a thing twice
    parser.read_string(code)


def _sh(code: str) -> None:
    subprocess.run(["bash", "-n"], input=code, text=True, check=True)


PARSERS: dict[str, Callable[[str], object]] = {"toml": tomllib.loads, "json": json.loads, "ini": _ini, "sh": _sh}
