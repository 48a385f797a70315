"""Reading on disks that fail: each operation of it, of the log's own reading and of an audit's."""

from __future__ import annotations

import errno
import io
import itertools
import os
from pathlib import Path

import pytest
from log_steps import added, moment, put
from simulated_files import SimulatedFiles, check_named

import kharon
from kharon.audit import read as audit_read
from kharon.log.directory import DirectoryLog
from kharon.log.files import OS_FILES, naming
from kharon.log.record import Record
from kharon.log.repair import repair
from kharon.log.snapshot import take

from .everywhere import ERRORS, ways_to_fail
from .world import TINY, WHERE, three_segments

pytestmark = pytest.mark.usefixtures("quiet")


def with_snapshot() -> SimulatedFiles:
    files, _ = three_segments()
    assert take(WHERE, files) is not None
    return files.survivor(lambda count: count - 1)


def open_with_snapshot(files: SimulatedFiles) -> object:
    """Return what a store would have: the tickets of the snapshot, and the records behind it."""
    log = DirectoryLog(WHERE, files=files)
    try:
        snapshot = log.load_snapshot()
        assert snapshot is not None
        return snapshot, list(log.open(moment(9000)))
    finally:
        log.abandon()


def read_on(files: SimulatedFiles) -> object:
    log = DirectoryLog(WHERE, files=files)
    try:
        list(log.open(moment(9000)))
        reader = log.reader()
        return [record for _ in range(4) for record in reader.read(4, log.written)]
    finally:
        log.abandon()


def plan_a_repair(files: SimulatedFiles) -> object:
    return repair(WHERE, files=files)


def take_a_snapshot(files: SimulatedFiles) -> object:
    for name in files.list(WHERE / "snapshots"):
        files.unlink(WHERE / "snapshots" / name)
    return take(WHERE, files)


@pytest.mark.parametrize("read", [open_with_snapshot, read_on, plan_a_repair, take_a_snapshot])
def test_every_operation_of_reading_fails(read, record_property):
    """It gives what it would have given, or an error that names the file; and afterwards all is there as it was."""
    disk = with_snapshot()
    whole = disk.killed()
    expected = read(whole)
    count = 0
    for plan in ways_to_fail(whole.plan.done):
        broken = disk.killed()
        broken.plan = plan
        try:
            assert read(broken) == expected
        except OSError as error:
            check_named(error)
        again = broken.killed()
        assert read(again) == expected
        assert open_with_snapshot(again) == open_with_snapshot(disk.killed())
        count += 1
    record_property("operations that failed", count)
    assert count > 100


def failing(number: int, error: int | None) -> type[audit_read.FixedSizeFile]:
    """A file that fails at the n-th read of a pass, or from there on gives less than was asked for."""
    count = itertools.count()

    class Failing(audit_read.FixedSizeFile):
        def readinto(self, buffer):
            with naming(self.path):
                if next(count) >= number:
                    if error is not None:
                        raise OSError(error, os.strerror(error))
                    buffer = memoryview(buffer)[:7]
                return super().readinto(buffer)

    return Failing


def records_of(path: Path) -> list[Record]:
    return list(kharon.read(path))


@pytest.mark.parametrize("read", [kharon.verify, records_of])
def test_every_read_of_an_audit_fails(tmp_path, monkeypatch, read):
    where = tmp_path / "queue"
    log = DirectoryLog(where, TINY)
    list(log.open(moment(0)))
    for number in range(8):
        put(log, added(f"t{number}"))
    log.close(moment(1))
    expected, failed = read(where), 0
    for error in (*ERRORS[:3], None):
        for number in itertools.count():
            with monkeypatch.context() as patch:
                patch.setattr(audit_read, "FixedSizeFile", failing(number, error))
                try:
                    assert read(where) == expected
                except OSError as caught:
                    check_named(caught, error)
                    failed += 1
                else:
                    if error is not None or number > 30:
                        break
        assert read(where) == expected
    assert failed > 20


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="there is no file here that cannot be read")
@pytest.mark.parametrize("size", [1, -1])
@pytest.mark.parametrize("open_file", [OS_FILES.read, lambda path: io.BufferedReader(Endless(path))])
def test_an_error_of_reading_names_the_file(open_file, size):
    """The operating system's own, of a file that is open already, does not."""
    with open_file(Path("/proc/self/mem")) as file:
        if size == -1 and isinstance(file.raw, Endless):
            size = 100_000  # an audit reads by lines
        with pytest.raises(OSError, match="/proc/self/mem") as caught:
            file.read(size)
    assert caught.value.errno == errno.EIO


class Endless(audit_read.FixedSizeFile):
    def __init__(self, path):
        super().__init__(path)
        self.stat = os.stat_result([*self.stat[:6], 1 << 20, *self.stat[7:]])  # it says that it has no bytes
