"""Helpers for tests: virtual time, a log that fails on demand, given/when/then, and two conformance suites.

    with MockClock: `kharon.open(":memory:", clock=kharon.testing.TrioClock())`      hours in milliseconds
    `given(ticket).when(command).then(*events)`                                      the rules, without a queue
    `kharon.open(FailingLog(MemoryLog(), fail="sync"))`                              a disk that breaks

Every `EventLog` must pass `check_log`, and every place for a queue `check_store`. Nothing in Kharon imports this
package.
"""

from kharon.testing.clocks import EPOCH, TrioClock
from kharon.testing.logs import FailingLog, check_log
from kharon.testing.rules import given
from kharon.testing.stores import STORE_CHECKS, Place, check_store

__all__ = [
    "EPOCH",
    "STORE_CHECKS",
    "FailingLog",
    "Place",
    "TrioClock",
    "check_log",
    "check_store",
    "given",
]
