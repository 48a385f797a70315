"""Each command on the scenario's queue, beside what it printed when somebody last looked at it.

To write the kept outputs anew, after a change that is meant, and then read the difference:

    KHARON_WRITE_EXPECTED=1 python -m pytest tests/cli/test_expected.py && git diff tests/cli/expected
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from kharon.model.events import EVENTS

EXPECTED = Path(__file__).parent / "expected"
COMMANDS = {
    "help": "--help",
    "version": "--version",
    "ls": "ls queue",
    "ls-help": "ls --help",
    "ls-failed-mail": "ls queue --status failed --tube mail --limit 1",
    "ls-due": "ls queue --due",
    "ls-json": "ls queue --type invoice --json",
    "ls-none": "ls queue --group nobody",
    "show": "show queue invoice-1042",
    "show-blocked": "show queue book",
    "show-json": "show queue invoice-1042 --json",
    "show-removed": "show queue invoice-1003",
    "show-removed-json": "show queue invoice-1003 --json",
    "show-never": "show queue nobody",
    "history": "history queue invoice-1042",
    "history-released": "history queue report-2026-03-11",
    "history-successor": "history queue sweep",
    "history-json": "history queue sweep --json",
    "why-failed": "why queue invoice-1042",
    "history-unblocked": "history queue archive-statements",
    "history-blocked": "history queue close-books",
    "why-ready": "why queue newsletter",
    "why-paused": "why queue page-2",
    "why-limit": "why queue sweep-cache --max-attempts 6",
    "why-blocked": "why queue close-books",
    "why-group": "why queue book",
    "why-group-json": "why queue book --json",
    "why-not-subscribed": "why queue newsletter --tubes mail,images",
    "why-json": "why queue newsletter --json",
    "as-of-seq": "as-of queue 318",
    "as-of-time": "as-of queue 2026-03-11T04:10Z --tube mail",
    "as-of-ago": "as-of queue 8h --due",
    "as-of-ahead": "as-of queue 9999",
    "diff": "diff queue 300 322",
    "diff-blocked": "diff queue 440 460",
    "diff-times": "diff queue 2026-03-11T06:59:59Z 1h",
    "diff-json": "diff queue 300 322 --json",
    "diff-same": "diff queue 300 300",
    "diff-backwards": "diff queue 300 200",
    "tubes": "tubes queue",
    "tubes-json": "tubes queue --json",
    "schedules": "schedules queue",
    "schedules-json": "schedules queue --json",
    "tail": "tail queue",
    "tail-all": "tail queue --after 0",
    "tail-by": "tail queue --by ann --after 0",
    "tail-id": "tail queue --id sweep --since 12h -n 2",
    "tail-event": "tail queue --event failed -n 3",
    "tail-tube": "tail queue --tube default --after 400",
    "tail-type": "tail queue --type digest -n 5",
    "tail-group": "tail queue --group statements --event added",
    "tail-help": "tail --help",
    "tail-json": "tail queue -n 2 --json",
    "stats": "stats queue",
    "stats-since": "stats queue --since 4h",
    "stats-type": "stats queue --by type",
    "stats-tube": "stats queue --by tube",
    "stats-hour": "stats queue --by hour",
    "stats-json": "stats queue --by tube --json",
    "stats-later": "stats queue --since now",
    "verify": "verify queue",
    "verify-json": "verify queue --json",
    "anchor": "anchor queue",
    "anchor-json": "anchor queue --json",
    "simulate": "simulate queue --workers 1 --backoff 2:5m",
    "simulate-json": "simulate queue --json",
    "naive": "as-of queue 2026-03-11T04:10",
    "no-time": "stats queue --since yesterday",
    "no-queue": "ls elsewhere",
    "no-queue-json": "ls elsewhere --json",
    "no-command": "list queue",
    "no-argument": "show queue",
    "no-option": "ls queue --colour",
    "no-number": "ls queue --limit many",
    "no-status": "ls queue --status waiting",
    "no-event": "tail queue --event begun",
    "no-by": "stats queue --by day",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_what_it_printed(kharon, name):
    line = COMMANDS[name]
    ran = kharon(*shlex.split(line))
    said = f"$ kharon {line}\n{ran.out}"
    if ran.err:
        said += f"--- stderr\n{ran.err}"
    if ran.code:
        said += f"--- exit code {ran.code}\n"
    said = re.sub(r'"bytes":\d+', '"bytes":0', said)  # how well a segment is compressed is zstd's affair
    path = EXPECTED / f"{name}.txt"
    if os.environ.get("KHARON_WRITE_EXPECTED"):
        path.write_text(said, encoding="utf-8")
    assert said == path.read_text(encoding="utf-8")


def test_nothing_is_kept_that_no_command_prints():
    assert {path.stem for path in EXPECTED.iterdir()} == set(COMMANDS)


def test_every_command_is_here(kharon):
    listed = kharon("--help").out.split("Commands:\n")[1].split("\n\n")[0]
    commands = {line.split()[0] for line in listed.splitlines()}
    # tail -f, export and report have tests of their own, too: they do not end, or write files.
    assert commands - {"export", "report"} == {line.split()[0] for line in COMMANDS.values()} & commands


def test_the_scenario_has_every_event(kharon, tmp_path):
    import scenario  # noqa: PLC0415 - beside this file

    scenario.build(tmp_path / "trimmed", trimmed=True)
    seen = {
        fields["event"]
        for queue in ("queue", tmp_path / "trimmed")
        for fields in kharon("tail", queue, "--after", "0", "--json").objects
    }
    assert seen == set(EVENTS)
