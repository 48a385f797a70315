"""Compresses, archives and trims sealed segments, one step at a time. By default it does none of these.

    plan     choose the next step (`next_step`, which is pure)
    prepare  write the new file, compare it with the old one, bring it onto the disk    slow: run it in a thread
    (the caller records the event that `prepare` returned, and waits until that is on disk)
    switch   let readers open the new file from now on                                  O(segments), on the log's thread
    finish   remove the old file                                                        slow: run it in a thread

A crash between any two of them loses nothing: `kharon.log.locations` finishes or undoes the step. A trim that was
recorded but not finished is planned again at the next opening. A segment holds the same bytes in every place: no record
is ever rewritten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from kharon.errors import Closed, CorruptLog, KharonError
from kharon.log.directory import DirectoryLog
from kharon.log.locations import (
    ARCHIVE,
    OWNER,
    choose_archive,
    digest,
    find_archives,
    locate_segments,
    owns_archive,
    read_chunks,
    recorded_path,
    register_archive,
)
from kharon.log.replace import replace_file
from kharon.log.segment import SegmentFile, stem_of, unproved_start
from kharon.log.zstd import MAX_DECOMPRESSED_BYTES, ZSTD_SUFFIX, compress_chunks, load_zstd, open_segment
from kharon.model.events import Event, SegmentArchived, SegmentCompressed, SegmentTrimmed

__all__ = [
    "Action",
    "MayTrim",
    "Retention",
    "RetentionRules",
    "SealedSegment",
    "Step",
    "Threshold",
    "never",
    "next_step",
]

Action: TypeAlias = Literal["compress", "archive", "trim"]
MayTrim = Callable[[int], bool]
"""Returns whether the records up to a seq may be removed, since the state can be restored without them."""


def never(_upto: int) -> bool:
    """Allow no trimming: without snapshots the state can only be folded from all records."""
    return False


class Threshold(NamedTuple):
    """Which segments a rule applies to: those that are old enough, or followed by enough bytes.

    Attributes:
        seconds: a segment whose last record is older than this is beyond the threshold; None: age does not matter.
        bytes: so is one that, with all newer segments and the tail, is larger than this; None: size does not matter.
    """

    seconds: float | None = None
    bytes: int | None = None

    def __bool__(self) -> bool:
        return self.seconds is not None or self.bytes is not None

    def is_beyond(self, age: float, total: int) -> bool:
        """Return whether a segment is beyond it: `age` in seconds, `total` bytes with all newer segments."""
        return (self.seconds is not None and age > self.seconds) or (self.bytes is not None and total > self.bytes)


class RetentionRules(NamedTuple):
    """The threshold of each action on sealed segments; the fields are named by `Action`."""

    compress: Threshold = Threshold()
    archive: Threshold = Threshold()
    trim: Threshold = Threshold()

    def __bool__(self) -> bool:
        return bool(self.compress or self.archive or self.trim)


class SealedSegment(NamedTuple):
    """A sealed segment: its first and last seq, its file and that file's size, and its last record's time and hash."""

    first: int
    last: int
    path: Path
    bytes: int
    at: datetime
    hash: str


class Step(NamedTuple):
    """An action on a sealed segment."""

    action: Action
    segment: SealedSegment


def next_step(
    sealed: Sequence[SealedSegment],
    tail_bytes: int,
    rules: RetentionRules,
    folder: Path,
    now: datetime,
    may_trim: MayTrim,
) -> Step | None:
    """Return the next step; None: nothing is due. Trimming comes first, and each action begins with the oldest segment.

    Args:
        sealed: the sealed segments, oldest first.
        tail_bytes: the size of the tail.
        rules: the thresholds.
        folder: the directory of segments that have not been archived.
        now: the time.
        may_trim: tells whether records may be removed.

    Cost: O(segments).
    """
    totals, total = [], tail_bytes
    for segment in reversed(sealed):
        total += segment.bytes
        totals.append(total)
    compress = archive = None
    for segment, reach in zip(sealed, reversed(totals), strict=True):
        age = (now - segment.at).total_seconds()
        if segment is sealed[0] and rules.trim.is_beyond(age, reach) and may_trim(segment.last):
            return Step("trim", segment)
        if segment.path.parent != folder:
            continue
        small = segment.path.suffix != ZSTD_SUFFIX and segment.bytes <= MAX_DECOMPRESSED_BYTES
        if compress is None and small and rules.compress.is_beyond(age, reach):
            compress = Step("compress", segment)
        if archive is None and rules.archive.is_beyond(age, reach):
            archive = Step("archive", segment)
    return compress or archive


class Retention:
    """Applies rules to the segments of an open log.

    Args:
        log: the log.
        rules: the thresholds.
        archive: the directory to archive to, in a subdirectory named by the log's id, so that queues can share it. It
            must exist: else the mount point of an unmounted disk would be filled. None: `archive` in the queue's
            directory.
        may_trim: tells whether the records up to a seq may be removed.

    Raises:
        KharonError: zstd is needed, and not installed.
    """

    def __init__(
        self, log: DirectoryLog, rules: RetentionRules, archive: Path | None = None, may_trim: MayTrim = never
    ) -> None:
        if rules.compress:
            load_zstd("Settings.compress_after, or compress_beyond_bytes,")
        self._log = log
        self._files = log.files
        self._directory = log.directory
        self._rules = rules
        self._archive_root = None if archive is None else archive.absolute()
        self._may_trim = may_trim
        self._known: dict[SegmentFile, SealedSegment] = {}
        self._archive = Path()  # where the next segment goes
        self._trimming: list[Path] = []  # the files of the segment to trim next, unrecorded copies included
        self._left: list[Path] = []  # files to remove, whose removal may have failed
        self._stopped = False

    def plan(self, now: datetime, without: Iterable[Action] = ()) -> Step | None:
        """Return the next step; None: nothing is due.

        Args:
            now: the time.
            without: actions to leave out, so that one that fails at present does not block the others.

        Raises:
            CorruptLog, OSError: a segment's header cannot be read.

        Cost: O(segments), and reading the header after each new one.
        """
        finished = self._log.finished()
        known = self._known
        self._known = {
            place: known[place] if place in known else self._look(place, following) for place, following in finished
        }
        sealed = list(self._known.values())
        rules = self._rules._replace(**dict.fromkeys(without, Threshold()))
        return next_step(sealed, self._log.tail_bytes, rules, self._directory / "log", now, self._may_trim)

    def _look(self, place: SegmentFile, following: SegmentFile) -> SealedSegment:
        with self._files.read(place.path) as file:
            size = file.seek(0, os.SEEK_END)
        with open_segment(self._files.read, following.path) as file:
            end = unproved_start(file, following.path)
        assert end.at is not None
        return SealedSegment(place.first, end.seq, place.path, size, end.at, end.hash)

    def prepare(self, step: Step) -> Event:
        """Bring onto the disk everything that must precede the step's record; return the event to record.

        Raises:
            CorruptLog: the new file does not hold the same bytes as the old one.
            KharonError: an archive cannot be reached; or it has another segment of the same name.
            OSError: the new file could not be written; or a file of an earlier step cannot be removed. The old file is
                unchanged.
            Closed: `stop` was called.

        Cost: O(bytes of the segment), twice.
        """
        self._remove_left()
        segment = step.segment
        if step.action != "compress":
            self._check_archives()
        file = recorded_path(self._directory, segment.path)
        place = (file, segment.first, segment.last, segment.hash)
        if step.action == "trim":
            self._trimming = locate_segments(self._directory, self._files)[stem_of(segment.path)]
            for path in self._trimming:
                self._check_ours(path.parent)
            return SegmentTrimmed(*place)
        if step.action == "archive":
            self._choose_archive()
        target = self._target(step)
        kept_as = recorded_path(self._directory, target)
        if step.action == "archive":
            self._archive_to(segment.path, target)
            return SegmentArchived(*place, kept_as)
        replace_file(self._files, target, compress_chunks(self._source(segment.path)))
        return SegmentCompressed(*place, kept_as, segment.bytes, self._compare(segment.path, target))

    def _check_archives(self) -> None:
        """Check that every archive can be reached: trimming past an older segment in one would leave a hole."""
        lost = find_archives(self._directory, self._files).unreachable
        if lost:
            raise KharonError(
                f"the archive {lost[0]} cannot be reached; until it can, nothing is archived or trimmed. If it is gone "
                f"for good, take it out of {self._directory / ARCHIVE}"
            )

    def _check_ours(self, folder: Path) -> None:
        if not owns_archive(self._directory, folder, self._files):
            raise KharonError(
                f"{folder / OWNER} says that this archive is another queue's, of which this one is a copy: nothing is "
                f"trimmed there. If that queue no longer exists, remove that file"
            )

    def _choose_archive(self) -> None:
        if self._archive_root is None:
            root = self._directory / "archive"
        else:
            root = self._archive_root
            if self._files.kind(root) != "directory":
                raise KharonError(f"Settings.archive_directory: {root} is not a directory; mount it, or make it")
        self._archive = choose_archive(self._directory, root, self._log.log_id, self._files)

    def _archive_to(self, path: Path, target: Path) -> None:
        register_archive(self._directory, target.parent, self._files)
        if self._files.kind(target) is None:
            replace_file(self._files, target, self._source(path))
            self._compare(path, target)
        elif self._digest(path) == self._digest(target):
            self._files.sync_directory(target.parent)  # an earlier attempt may have failed in this sync
        else:
            raise KharonError(f"{target} exists already, and is not the same as {path}: somebody else writes there")

    def _source(self, path: Path, *, unpack: bool = False) -> Iterator[bytes]:
        for chunk in read_chunks(self._files, path, unpack=unpack):
            if self._stopped:
                raise Closed("retention was stopped, and abandoned the file it was writing")
            yield chunk

    def _digest(self, path: Path) -> str:
        return digest(self._source(path, unpack=True))

    def _target(self, step: Step) -> Path:
        path = step.segment.path
        return self._archive / path.name if step.action == "archive" else path.with_name(path.name + ZSTD_SUFFIX)

    def _compare(self, old: Path, new: Path) -> str:
        try:
            was, now = self._digest(old), self._digest(new)
        except Closed:
            self._files.unlink(new)  # else the next opening would have to compare them
            raise
        if was != now:
            self._files.unlink(new)
            raise CorruptLog(str(new), 0, 0, f"it does not hold the same as {old}, its source; it was removed")
        return was

    def switch(self, step: Step) -> None:
        """Let readers open the new file. Called on the log's thread once the step's record is on disk."""
        self._left += self._trimming if step.action == "trim" else [step.segment.path]
        if step.action == "trim":
            self._log.trimmed(step.segment.first)
        else:
            self._log.moved(step.segment.first, self._target(step))

    def finish(self, step: Step) -> None:
        """Remove the old file, and sync that, so that no older file ever comes back without it.

        Raises:
            OSError: it could not be removed. It is tried again before the next step, since removing a later segment
                first would leave a hole; and by the next opening.
        """
        assert step.segment.path in self._left, "finished before it was settled"
        self._remove_left()

    def _remove_left(self) -> None:
        while self._left:
            self._files.unlink(self._left[0])
            self._files.sync_directory(self._left[0].parent)
            del self._left[0]

    def stop(self) -> None:
        """Abandon the writing or comparing in progress, at once. May be called from another thread."""
        self._stopped = True
