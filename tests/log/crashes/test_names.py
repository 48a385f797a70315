"""One process makes names and cannot bring them to the disk; the next one builds on them; then the power fails.

SIGKILL leaves the cache, so the next process finds a directory or a file under its name, and must not take that for a
name that is on disk. The same goes for the same process after a sync that failed.
"""

from pathlib import Path

import pytest
from log_steps import NOW, added, carry_out, load, moment, put
from simulated_files import Plan, PowerLoss, SimulatedFiles

from kharon.log.directory import DirectoryLog
from kharon.log.retention import Retention, RetentionRules, Threshold
from kharon.log.snapshot import KEPT, take, trimmable

WHERE = Path("/queue")
TINY = 700  # bytes: a segment is full after two records
ALL = Threshold(bytes=0)
POLICY = RetentionRules(archive=ALL)


def opened(files: SimulatedFiles) -> DirectoryLog:
    log = DirectoryLog(WHERE, TINY, files)
    log.load_snapshot()
    list(log.open(NOW))
    return log


def written() -> SimulatedFiles:
    """A disk with a log of some segments, which nobody has open, and with a directory for archives."""
    files = SimulatedFiles()
    files.make_directory(Path("/mount"))
    files.sync_directory(Path("/"))
    log = opened(files)
    for number in range(8):
        put(log, added(f"t{number}"), at=number)
    log.close(moment(9))
    return files


def keeper(log: DirectoryLog, files: SimulatedFiles, policy: RetentionRules, root: Path | None = None) -> Retention:
    return Retention(log, policy, root, lambda seq: seq <= trimmable(WHERE, files))


def without_power(files: SimulatedFiles) -> SimulatedFiles:
    """The disk that has kept the least that it may."""
    return files.survivor(lambda _count: 0)


def check_whole(files: SimulatedFiles, *ids: str) -> None:
    """Check that the tickets of `written`, and these, are there."""
    log = DirectoryLog(WHERE, TINY, files)
    projection = load(log)
    log.abandon()
    assert set(projection.tickets) == {*(f"t{number}" for number in range(8)), *ids}


ROOTS = pytest.mark.parametrize("root", [None, Path("/mount")])


@ROOTS
def test_what_was_archived_after_a_kill_is_there_after_a_loss_of_power(root):
    """One process is killed at each operation of a step; the next one does it, and then the power fails."""
    whole, stop = written(), 0
    while True:
        files = whole.killed()
        log = opened(files)
        files.plan = Plan(stop=stop)
        try:
            carry_out(log, keeper(log, files, POLICY, root), 1)
        except PowerLoss:
            files = files.killed()
            log = opened(files)
            carry_out(log, keeper(log, files, POLICY, root), 1)
        else:
            break
        check_whole(without_power(files))
        stop += 1
    assert stop > 30


@ROOTS
def test_what_was_archived_after_a_sync_that_failed_is_there_after_a_loss_of_power(root):
    """The keeper tries again, in the same process."""
    whole, number = written(), 0
    failures = []
    while True:
        files = whole.killed()
        log = opened(files)
        retention = keeper(log, files, POLICY, root)
        files.plan = Plan(fail=number)
        try:
            carry_out(log, retention, 1)
        except OSError:
            failures.append(files.plan.failed)
            if log._tail is None:  # that was the log's own file, and ends it
                log.abandon()
                log = opened(files)
                retention = keeper(log, files, POLICY, root)
            carry_out(log, retention, 1)
        else:
            if not files.plan.failed:
                break
        check_whole(without_power(files))
        number += 1
    assert failures.count("sync_directory") >= 4


def test_what_was_trimmed_after_a_snapshots_process_was_killed_is_in_a_snapshot_after_a_loss_of_power():
    """The queue goes on, and has another taken, by which it trims."""
    whole, stop = written(), 0
    while True:
        files = whole.killed()
        log = opened(files)
        files.plan = Plan(stop=stop)
        try:
            take(WHERE, files)
        except PowerLoss:
            files.plan = Plan()
        else:
            break
        ids = [f"u{number}" for number in range(4 * KEPT)]
        for number, id in enumerate(ids, 1):
            put(log, added(id), at=10 + number)
            if number % 4 == 0:
                take(WHERE, files)
        carry_out(log, keeper(log, files, RetentionRules(trim=ALL)), 99)
        assert log.first > 1
        check_whole(without_power(files), *ids)
        stop += 1
    assert stop > 10
