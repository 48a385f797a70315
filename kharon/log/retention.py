"""Which sealed segments are compressed, archived or trimmed, and how, one step at a time. Nothing, unless told so.

    plan     which step comes next: pure (`next_step`), on what is found out here
    prepare  the new file, complete, compared with the old one, on disk under its name   slow: run it in a thread
    (the caller records the event that `prepare` returned, and waits until that is on disk)
    settle   readers look for the new file from now on                                  O(segments), on the log's thread
    finish   the old file is removed                                                    slow: run it in a thread

A crash between any two of them loses nothing: `kharon.log.locations` says what becomes of it. A trim that was recorded
and not carried out is planned again, when the queue is opened the next time. A segment holds the same bytes wherever it
is: no record is ever written anew.
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
    archive_for,
    archives,
    chunks,
    digest,
    is_ours,
    name_archive,
    path_in,
    places_of,
)
from kharon.log.replace import write_new
from kharon.log.segment import Place, stem_of, trusted_start
from kharon.log.zstd import MAX_UNPACKED_BYTES, PACKED, load_zstd, open_segment, packed
from kharon.model.events import Event, SegmentArchived, SegmentCompressed, SegmentTrimmed

__all__ = ["Action", "Limit", "MayTrim", "Retention", "Rules", "Sealed", "Step", "never", "next_step"]

Action: TypeAlias = Literal["compress", "archive", "trim"]
MayTrim = Callable[[int], bool]
"""Asked whether the records up to a seq may be removed: whether the state can be found again without them."""


def never(_upto: int) -> bool:
    """Trim nothing: without a snapshot the state is what all records fold to."""
    return False


class Limit(NamedTuple):
    """What is left alone: segments whose last record is younger than `seconds`, and the newest ones that take up
    `bytes` together, the tail included. None: this does not matter.
    """

    seconds: float | None = None
    bytes: int | None = None

    def __bool__(self) -> bool:
        return self.seconds is not None or self.bytes is not None

    def is_beyond(self, age: float, total: int) -> bool:
        """Return whether a segment is beyond the limit: `age` seconds old, `total` bytes with all behind it."""
        return (self.seconds is not None and age > self.seconds) or (self.bytes is not None and total > self.bytes)


class Rules(NamedTuple):
    """Beyond which limit sealed segments are compressed, archived, trimmed; each field is an `Action`."""

    compress: Limit = Limit()
    archive: Limit = Limit()
    trim: Limit = Limit()

    def __bool__(self) -> bool:
        return bool(self.compress or self.archive or self.trim)


class Sealed(NamedTuple):
    """A sealed segment: its records, its file, how large that is, and the time and hash of its last record."""

    first: int
    last: int
    path: Path
    bytes: int
    at: datetime
    hash: str


class Step(NamedTuple):
    """What is to be done next with a sealed segment."""

    action: Action
    segment: Sealed


def next_step(
    sealed: Sequence[Sealed], tail_bytes: int, rules: Rules, folder: Path, now: datetime, may_trim: MayTrim
) -> Step | None:
    """Return what is to be done next; None: nothing. Trimming first, each of them from the oldest segment on.

    Args:
        sealed: the sealed segments, oldest first.
        tail_bytes: how large the one behind them is.
        rules: the limits.
        folder: where segments are that have not been archived.
        now: the time.
        may_trim: whether records may be removed.

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
        small = segment.path.suffix != PACKED and segment.bytes <= MAX_UNPACKED_BYTES
        if compress is None and small and rules.compress.is_beyond(age, reach):
            compress = Step("compress", segment)
        if archive is None and rules.archive.is_beyond(age, reach):
            archive = Step("archive", segment)
    return compress or archive


class Retention:
    """Carries out rules on the segments of an open log.

    Args:
        log: the log.
        rules: what is to be done.
        archive: where to move segments, to a directory named for the log's id, so that queues may share it. It is not
            made: a disk that is not mounted must not be written beneath. None: to `archive` in the queue's directory.
        may_trim: whether the records up to a seq may be removed.

    Raises:
        KharonError: zstd is needed, and not installed.
    """

    def __init__(self, log: DirectoryLog, rules: Rules, archive: Path | None = None, may_trim: MayTrim = never) -> None:
        if rules.compress:
            load_zstd("Settings.compress_after, or compress_beyond_bytes,")
        self._log = log
        self._files = log.files
        self._directory = log.directory
        self._rules = rules
        self._archive_root = None if archive is None else archive.absolute()
        self._may_trim = may_trim
        self._known: dict[Place, Sealed] = {}
        self._archive = Path()  # where the next segment goes
        self._goes: list[Path] = []  # all that is to be trimmed next: a copy of which no record speaks, too
        self._left: list[Path] = []  # what was to be removed, and may not have been
        self._stopped = False

    def plan(self, now: datetime, without: Iterable[Action] = ()) -> Step | None:
        """Return what is to be done next; None: nothing.

        Args:
            now: the time.
            without: what is left out, so that what is refused just now does not keep the rest from being done.

        Raises:
            CorruptLog, OSError: a segment's header cannot be read.

        Cost: O(segments), and a look into each that has not been looked at.
        """
        finished = self._log.finished()
        known = self._known
        self._known = {
            place: known[place] if place in known else self._look(place, following) for place, following in finished
        }
        sealed = list(self._known.values())
        rules = self._rules._replace(**dict.fromkeys(without, Limit()))
        return next_step(sealed, self._log.tail_bytes, rules, self._directory / "log", now, self._may_trim)

    def _look(self, place: Place, following: Place) -> Sealed:
        with self._files.read(place.path) as file:
            size = file.seek(0, os.SEEK_END)
        with open_segment(self._files.read, following.path) as file:
            end = trusted_start(file, following.path)
        assert end.at is not None
        return Sealed(place.first, end.seq, place.path, size, end.at, end.hash)

    def prepare(self, step: Step) -> Event:
        """Do what has to be on disk before the step may be recorded; return the event that records it.

        Raises:
            CorruptLog: what was written does not read like what it was written from.
            KharonError: an archive cannot be reached; or has another segment of the same name.
            OSError: the new file could not be written; or a file of an earlier step cannot be removed. The old file is
                untouched.
            Closed: `stop` was called.

        Cost: O(bytes of the segment), twice.
        """
        self._remove_left()
        segment = step.segment
        if step.action != "compress":
            self._check_archives()
        file = path_in(self._directory, segment.path)
        place = (file, segment.first, segment.last, segment.hash)
        if step.action == "trim":
            self._goes = places_of(self._directory, self._files)[stem_of(segment.path)]
            for path in self._goes:
                self._check_ours(path.parent)
            return SegmentTrimmed(*place)
        if step.action == "archive":
            self._choose_archive()
        target = self._target(step)
        kept_as = path_in(self._directory, target)
        if step.action == "archive":
            self._archive_to(segment.path, target)
            return SegmentArchived(*place, kept_as)
        write_new(self._files, target, packed(self._source(segment.path)))
        return SegmentCompressed(*place, kept_as, segment.bytes, self._compare(segment.path, target))

    def _check_archives(self) -> None:
        """Check that no older segment may be where it cannot be seen: trimming a later one would leave a hole."""
        lost = archives(self._directory, self._files).unreachable
        if lost:
            raise KharonError(
                f"the archive {lost[0]} cannot be reached; until it can, nothing is archived or trimmed. If it is gone "
                f"for good, take it out of {self._directory / ARCHIVE}"
            )

    def _check_ours(self, folder: Path) -> None:
        if not is_ours(self._directory, folder, self._files):
            raise KharonError(
                f"{folder / OWNER} says that this archive is another queue's, of which this one is a copy: nothing is "
                f"trimmed there. If there is no such queue any more, remove that file"
            )

    def _choose_archive(self) -> None:
        if self._archive_root is None:
            root = self._directory / "archive"
        else:
            root = self._archive_root
            if self._files.kind(root) != "directory":
                raise KharonError(f"Settings.archive_directory: {root} is no directory; mount it, or make it")
        self._archive = archive_for(self._directory, root, self._log.log_id, self._files)

    def _archive_to(self, path: Path, target: Path) -> None:
        name_archive(self._directory, target.parent, self._files)
        if self._files.kind(target) is None:
            write_new(self._files, target, self._source(path))
            self._compare(path, target)
        elif self._digest(path) == self._digest(target):
            self._files.sync_directory(target.parent)  # it may have been that which failed when it was written
        else:
            raise KharonError(f"{target} is there already, and is not what {path} holds: somebody else writes there")

    def _source(self, path: Path, *, unpack: bool = False) -> Iterator[bytes]:
        for chunk in chunks(self._files, path, unpack=unpack):
            if self._stopped:
                raise Closed("retention was stopped, and what it was writing given up")
            yield chunk

    def _digest(self, path: Path) -> str:
        return digest(self._source(path, unpack=True))

    def _target(self, step: Step) -> Path:
        path = step.segment.path
        return self._archive / path.name if step.action == "archive" else path.with_name(path.name + PACKED)

    def _compare(self, old: Path, new: Path) -> str:
        try:
            was, now = self._digest(old), self._digest(new)
        except Closed:
            self._files.unlink(new)  # else the next opening would have to compare them
            raise
        if was != now:
            self._files.unlink(new)
            raise CorruptLog(str(new), 0, 0, f"it does not hold what it was written from, {old}; it was removed")
        return was

    def settle(self, step: Step) -> None:
        """Let readers look for the segment where it is now. Called on the log's thread once the record is on disk."""
        self._left += self._goes if step.action == "trim" else [step.segment.path]
        if step.action == "trim":
            self._log.trimmed(step.segment.first)
        else:
            self._log.moved(step.segment.first, self._target(step))

    def finish(self, step: Step) -> None:
        """Remove the old file; that is on disk when this returns, so no older one ever comes back without it.

        Raises:
            OSError: it could not be removed. That is tried again before the next step, since to remove a later segment
                before it would leave a hole; and by the next opening.
        """
        assert step.segment.path in self._left, "finished before it was settled"
        self._remove_left()

    def _remove_left(self) -> None:
        while self._left:
            self._files.unlink(self._left[0])
            self._files.sync_directory(self._left[0].parent)
            del self._left[0]

    def stop(self) -> None:
        """Give up what is being written or compared, at once. May be called from another thread."""
        self._stopped = True
