"""Single bad copies and single losses of power in retention, each for one step that looks as if it could be left out.

`test_everywhere` looks at every crash of its scenarios, and takes minutes; these say in a moment what a step is for.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from log_steps import NOW, added, always, carry_out, moment, put, read_from
from simulated_files import SimulatedFiles, disks_of

from kharon.errors import CorruptLog
from kharon.log import retention
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OS_FILES, Files
from kharon.log.retention import Retention, RetentionRules, Threshold
from kharon.log.zstd import compress_chunks
from kharon.model.events import SegmentArchived, SegmentCompressed, SegmentTrimmed
from kharon.store.background import RetentionTask

ALL = Threshold(bytes=0)
COMPRESS, ARCHIVE, TRIM = RetentionRules(compress=ALL), RetentionRules(archive=ALL), RetentionRules(trim=ALL)


class Later:
    """A clock that stands still, a day on."""

    def now(self):
        return moment(86_400)


def begin(where: Path, files: Files = OS_FILES) -> DirectoryLog:
    """A log, held open, of a few segments."""
    log = DirectoryLog(where, 2000, files)
    list(log.open(NOW))
    for number in range(20):
        put(log, added(f"a{number}"), added(f"b{number}"), at=number)
    assert len(log.finished()) >= 3
    return log


@pytest.fixture
def log(tmp_path):
    log = begin(tmp_path / "queue")
    yield log
    log.abandon()


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_compressed_copy_is_compared_before_it_counts(log, monkeypatch):
    """What a compressor got wrong unpacks without complaint: the checksum in it is of what it was given."""
    monkeypatch.setattr(
        retention, "compress_chunks", lambda source: compress_chunks(chunk.replace(b"ann", b"bob") for chunk in source)
    )
    keeping = Retention(log, COMPRESS)
    step = keeping.plan(moment(86_400))
    before = step.segment.path.read_bytes()
    with pytest.raises(CorruptLog, match="does not hold the same as"):
        keeping.prepare(step)
    assert {path.suffix for path in (log.directory / "log").iterdir()} == {".jsonl"}
    assert step.segment.path.read_bytes() == before


@pytest.mark.parametrize(
    ("policy", "kind"), [(COMPRESS, SegmentCompressed), (ARCHIVE, SegmentArchived), (TRIM, SegmentTrimmed)]
)
async def test_the_old_file_goes_only_once_a_record_on_disk_says_so(log, policy, kind):
    old = log.finished()[0][0].path
    seen = []

    async def record(event):
        await trio.lowlevel.checkpoint()
        seen.append((type(event), old.exists(), log.finished()[0][0].path == old))
        put(log, event, at=86_400, by="clock")

    task = RetentionTask(Retention(log, policy, may_trim=always), Later(), 1)
    assert await task._step(record)
    assert seen == [(kind, True, True)], "until then it is there, and it is the one that is read"
    assert not old.exists()
    assert type(read_from(log, log.written - 1)[0].event) is kind


# --- losses of power --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [COMPRESS, ARCHIVE])
def test_the_copy_is_on_disk_before_the_original_goes(policy):
    files = SimulatedFiles()
    log = begin(Path("/queue"), files)
    expected = log.written
    assert len(carry_out(log, Retention(log, policy, may_trim=always), 2)) == 2
    for disk in disks_of(files):
        assert [record.seq for record in DirectoryLog(Path("/queue"), 2000, disk).open(NOW)] == list(
            range(1, expected + 3)
        )


def test_what_was_trimmed_first_does_not_come_back_without_what_was_trimmed_next():
    files = SimulatedFiles()
    log = begin(Path("/queue"), files)
    names = {path.name for path in segments(log.directory, files)}
    assert len(carry_out(log, Retention(log, TRIM, may_trim=always), 3)) == 3
    names |= {path.name for path in segments(log.directory, files)}  # the records of trimming may have begun another
    for disk in disks_of(files):
        left = [path.name for path in segments(log.directory, disk)]
        assert left == sorted(names)[-len(left) :], "that would be a hole"
