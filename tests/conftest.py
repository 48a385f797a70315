"""Prints, after a run, what tests have counted with `record_property(name, number)`: summed up by file and name.

Of texts, `record_property(name, text)`, it prints how many different ones a directory's tests have named: a place that
several of them reach is counted once. The figures in docs/durability.md are these.
"""

from collections import Counter

import pytest


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
