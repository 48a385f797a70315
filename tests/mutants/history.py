"""Bugs in what is read instead of the history, or kept of it: snapshots; compressed, archived and trimmed segments.

And in reading what another process, or another version, writes.
"""

from __future__ import annotations

from typing import Final

from .mutant import Mutant

__all__ = ["MUTANTS"]

_SNAPSHOT: Final = "kharon/log/snapshot.py"
_RETENTION: Final = "kharon/log/retention.py"
_KEEPER: Final = "kharon/runtime/retention.py"
_MOVES: Final = "kharon/log/moves.py"
_SEGMENT: Final = "kharon/log/segment.py"
_DIRECTORY: Final = "kharon/log/directory.py"
_TESTS: Final = ("tests/log/test_snapshot.py",)
_NOTHING_LOST: Final = ("tests/log/test_retention_loses_nothing.py",)

MUTANTS: Final = (
    # --- snapshots ----------------------------------------------------------------------------------------------------
    Mutant(
        name="snapshot-beyond-what-is-durable",
        thought="A snapshot should be as new as can be, so the tail is folded into it too.",
        file=_SNAPSHOT,
        before="finished = [path for path in there[:-1] if first_of(path) > chain.seq]",
        after="finished = [path for path in there if first_of(path) > chain.seq]",
        tests=_TESTS,
    ),
    Mutant(
        name="snapshot-not-read-back",
        thought="What was written and synced is what was meant.",
        file=_SNAPSHOT,
        before=", check=check)\n",
        after=")\n",
        tests=_TESTS,
    ),
    Mutant(
        name="snapshot-not-synced",
        thought="It was read back, so it is there.",
        file="kharon/log/newfile.py",
        before="        yield from _synced(FileSync(temporary, file), failed)\n",
        after="        if check is None:\n            yield from _synced(FileSync(temporary, file), failed)\n",
        tests=("tests/log/test_what_survives.py",),
    ),
    Mutant(
        name="snapshots-name-not-synced",
        thought="A snapshot can be taken again, so its name need not be on disk before an older one is dropped.",
        file="kharon/log/newfile.py",
        before="        yield from _synced(names, failed)\n",
        after="        if check is None:\n            yield from _synced(names, failed)\n",
        tests=("tests/log/test_what_survives.py",),
    ),
    Mutant(
        name="one-snapshot-kept",
        thought="The newest snapshot was verified, so the one before it is not needed.",
        file=_SNAPSHOT,
        before="KEPT: Final = 2\n",
        after="KEPT: Final = 1\n",
        tests=_TESTS,
    ),
    Mutant(
        name="snapshot-not-fitted-to-the-log",
        thought="A snapshot that verifies is right.",
        file=_SNAPSHOT,
        before="            _check_fits(files, snapshot, path, segments)\n",
        after="",
        tests=_TESTS,
    ),
    Mutant(
        name="bad-snapshot-stops-the-opening",
        thought="A snapshot that is damaged is damage, like any other.",
        file=_SNAPSHOT,
        before="        except (CorruptLog, UnknownFormat, FileNotFoundError) as error:",
        after="        except (UnknownFormat, FileNotFoundError) as error:",
        tests=_TESTS,
    ),
    Mutant(
        name="successor-lost-in-a-snapshot",
        thought="A successor comes back when the log is replayed.",
        file=_SNAPSHOT,
        before="successor=None if ticket.successor is None else _fields(ticket.successor),",
        after="successor=None,",
        tests=_TESTS,
    ),
    Mutant(
        name="empty-start-when-the-log-is-gone",
        thought="A directory without a segment is a new queue.",
        file="kharon/log/directory.py",
        before="            if there is not None:\n",
        after="            if there is not None and self._list():\n",
        tests=("tests/log/test_snapshot.py::test_with_snapshots_and_without_a_log_it_refuses",),
    ),
    # --- retention ----------------------------------------------------------------------------------------------------
    Mutant(
        name="compressed-copy-not-compared",
        thought="A frame of zstd carries a checksum, so the copy need not be compared with the original.",
        file=_RETENTION,
        before="segment.bytes, self._compare(segment.path, target))",
        after="segment.bytes, digest(self._files, segment.path))",
        tests=_NOTHING_LOST,
    ),
    Mutant(
        name="original-removed-before-its-record",
        thought="The copy is complete and on disk, so the original can go, and the record can follow.",
        file=_KEEPER,
        before="""\
            await self._record(event)
            retention.settle(step)
            await trio.to_thread.run_sync(retention.finish, step)
""",
        after="""\
            retention.settle(step)
            await trio.to_thread.run_sync(retention.finish, step)
            await self._record(event)
""",
        tests=_NOTHING_LOST,
    ),
    Mutant(
        name="trimmed-without-a-record",
        thought="A record says where a segment is now; of one that is gone there is nothing to say.",
        file=_KEEPER,
        before="            await self._record(event)\n",
        after='            if step.action != "trim":\n                await self._record(event)\n',
        tests=_NOTHING_LOST,
    ),
    Mutant(
        name="trimmed-up-to-the-newest-snapshot",
        thought="The newest snapshot holds all up to its seq, so nothing before that is needed.",
        file=_SNAPSHOT,
        before="return found[-1] if len(found) == KEPT else 0",
        after="return found[0] if len(found) == KEPT else 0",
        tests=("tests/log/test_trimmed.py::test_it_is_trimmed_up_to_the_older_snapshot_and_no_further",),
    ),
    Mutant(
        name="trimmed-on-the-strength-of-one-snapshot",
        thought="A snapshot that is usable is enough to open with.",
        file=_SNAPSHOT,
        before="return found[-1] if len(found) == KEPT else 0",
        after="return found[-1] if found else 0",
        tests=("tests/log/test_trimmed.py::test_it_opens_with_either_snapshot_and_never_without",),
    ),
    Mutant(
        name="later-trim-before-an-earlier-one-is-done",
        thought="A file that could not be removed is removed when the queue is opened again.",
        file=_RETENTION,
        before="        self._remove_left()\n        segment = step.segment\n",
        after="        segment = step.segment\n",
        tests=("tests/log/test_trimmed.py::test_nothing_more_is_trimmed_before_what_was_to_be_removed_is_gone",),
    ),
    Mutant(
        name="removal-not-synced",
        thought="If a file that was removed comes back after a loss of power, it is removed again.",
        file=_RETENTION,
        before="            self._files.sync_directory(self._left[0].parent)\n",
        after="",
        tests=_NOTHING_LOST,
    ),
    Mutant(
        name="name-of-a-copy-not-synced",
        thought="The bytes of the copy are on disk, and its name follows.",
        file="kharon/log/newfile.py",
        before="        yield from _synced(names, failed)\n",
        after="        if replace is False or check is not None:\n            yield from _synced(names, failed)\n",
        tests=_NOTHING_LOST,
    ),
    Mutant(
        name="copy-counts-before-the-original",
        thought="Of a segment that is there twice the newer file is the better one.",
        file=_DIRECTORY,
        before="return [paths[0] for _, paths in sorted(places_of(self._where, self._files, self._archives).items())]",
        after="return [paths[-1] for _, paths in sorted(places_of(self._where, self._files, self._archives).items())]",
        tests=("tests/log/test_retention.py::test_a_copy_that_does_not_unpack_is_no_reason_to_remove_the_original",),
    ),
    Mutant(
        name="damaged-one-of-two-kept",
        thought="What a record speaks of was compared when that was written.",
        file=_MOVES,
        before="            if same and (old, copy) in spoken:\n",
        after="            if (old, copy) in spoken:\n",
        tests=("tests/log/test_trimmed.py::test_a_bad_copy_is_removed",),
    ),
    Mutant(
        name="trimmed-beginning-believed",
        thought="A log that begins at a later record was trimmed; its first header says what it follows.",
        file=_SEGMENT,
        before="        self._check_beginning()\n",
        after="",
        tests=("tests/log/test_retention.py::test_trimming_by_hand_is_noticed",),
    ),
    Mutant(
        name="trimmed-beginning-confirmed-by-its-seq-alone",
        thought="That a record says up to where it was trimmed is proof enough.",
        file=_SEGMENT,
        before="            if event.last_hash != trusted.hash:\n",
        after="            if event.last != trusted.seq:\n",
        tests=("tests/log/test_retention.py::test_a_beginning_that_was_written_anew_is_noticed",),
    ),
    # --- following ----------------------------------------------------------------------------------------------------
    Mutant(
        name="follower-takes-written-for-durable",
        thought="A record with another one behind it was written before that, so it is on disk.",
        file="kharon/audit/tailing.py",
        before="self._vouch(record.durable if self._durable else record.seq)",
        after="self._vouch(record.seq - 1 if self._durable else record.seq)",
        tests=("tests/test_tailing.py::test_a_record_is_given_once_a_later_line_vouches_for_it",),
    ),
    # --- versions -----------------------------------------------------------------------------------------------------
    Mutant(
        name="unknown-event-passed-over-when-opening",
        thought="What a later version wrote is no concern of this one, and the chain is whole.",
        file=_DIRECTORY,
        before="            reading = Reading(self._list, self._read)\n",
        after="            reading = Reading(self._list, self._read, lenient=True)\n",
        tests=("tests/log/test_old_and_new.py::test_what_a_later_one_wrote_is_not_opened_and_not_touched",),
    ),
    Mutant(
        name="upcasters-newest-first",
        thought="Each upcaster sees to its own fields, so their order does not matter.",
        file="kharon/model/versions.py",
        before="            for upcast in upcasters:\n",
        after="            for upcast in reversed(upcasters):\n",
        tests=("tests/model/test_versions.py",),
    ),
)
