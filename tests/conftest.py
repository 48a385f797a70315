"""Prints, after a run, what tests have counted with `record_property(name, number)`: summed up by file and name.

The figures in docs/durability.md are these.
"""

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "call":  # its teardown repeats them
                for name, number in report.user_properties:
                    if isinstance(number, int):
                        counts[report.location[0], name] += number
    if counts:
        terminalreporter.section("counted")
        for (file, name), number in sorted(counts.items()):
            terminalreporter.line(f"{file}: {number:,} {name}")
