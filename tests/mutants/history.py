"""Bugs in what is read instead of the history, or kept of it: snapshots; compressed, archived and trimmed segments.

And in reading what another process, or another version, writes.
"""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    AUDIT_FOLLOW,
    AUDIT_SNAPSHOTS,
    BACKGROUND,
    DIRECTORY,
    LOCATIONS,
    REPLACE,
    RETENTION,
    SCAN,
    SNAPSHOT,
    TEST_AUDIT_SNAPSHOTS,
    TEST_BACKGROUND_RETENTION,
    TEST_BACKGROUND_SNAPSHOTS,
    TEST_CRASHES_RETENTION,
    TEST_CRASHES_WHAT_SURVIVES,
    TEST_FOLLOW,
    TEST_RETENTION,
    TEST_ROTATION_ELSEWHERE,
    TEST_SNAPSHOT,
    TEST_TRIMMED,
    TEST_VERSIONS,
    TEST_VERSIONS_ON_DISK,
    VERSIONS,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    # --- snapshots ----------------------------------------------------------------------------------------------------
    Mutant(
        name="snapshot-beyond-what-is-durable",
        thought="A snapshot should be as new as can be, so the tail is folded into it too.",
        file=SNAPSHOT,
        function="take",
        before="finished = [path for path in there[:-1] if first_of(path) > chain.seq]",
        after="finished = [path for path in there if first_of(path) > chain.seq]",
        tests=(TEST_SNAPSHOT,),
    ),
    Mutant(
        name="snapshot-not-read-back",
        thought="What was written and synced is what was meant.",
        file=SNAPSHOT,
        function="_write",
        before=", check=check)",
        after=")",
        tests=(TEST_SNAPSHOT,),
    ),
    Mutant(
        name="snapshot-not-synced",
        thought="It was read back, so it is there.",
        file=REPLACE,
        function="replace_file_steps",
        before="            yield from _synced(FileSync(temporary, file), failed)\n",
        after="            if check is None:\n                yield from _synced(FileSync(temporary, file), failed)\n",
        tests=(TEST_CRASHES_WHAT_SURVIVES,),
    ),
    Mutant(
        name="snapshots-name-not-synced",
        thought="A snapshot can be taken again, so its name need not be on disk before an older one is dropped.",
        file=REPLACE,
        function="replace_file_steps",
        before="            yield from _synced(names, failed)\n",
        after="            if check is None:\n                yield from _synced(names, failed)\n",
        tests=(TEST_CRASHES_WHAT_SURVIVES,),
    ),
    Mutant(
        name="one-snapshot-kept",
        thought="The newest snapshot was verified, so the one before it is not needed.",
        file=SNAPSHOT,
        before="KEPT: Final = 2\n",
        after="KEPT: Final = 1\n",
        tests=(TEST_SNAPSHOT,),
    ),
    Mutant(
        name="snapshot-not-fitted-to-the-log",
        thought="A snapshot that verifies is right.",
        file=SNAPSHOT,
        function="usable",
        before="            _check_fits(files, snapshot, path, segments)\n",
        after="",
        tests=(TEST_SNAPSHOT,),
    ),
    Mutant(
        name="bad-snapshot-stops-the-opening",
        thought="A snapshot that is damaged is damage, like any other.",
        file=SNAPSHOT,
        function="usable",
        before="        except (CorruptLog, UnknownFormat, FileNotFoundError) as error:",
        after="        except (UnknownFormat, FileNotFoundError) as error:",
        tests=(TEST_SNAPSHOT,),
    ),
    Mutant(
        name="successor-lost-in-a-snapshot",
        thought="A successor comes back when the log is replayed.",
        file=SNAPSHOT,
        function="_stored",
        before="stored.successor = _stored(ticket.successor)",
        after="stored.successor = None",
        tests=(TEST_SNAPSHOT,),
    ),
    Mutant(
        name="empty-start-when-the-log-is-gone",
        thought="A directory without a segment is a new queue.",
        file=DIRECTORY,
        function="DirectoryLog._check_new",
        before="        if proof is not None:\n",
        after="        if proof is not None and self._list():\n",
        tests=(f"{TEST_SNAPSHOT}::test_with_snapshots_and_without_a_log_it_refuses",),
    ),
    # --- retention ----------------------------------------------------------------------------------------------------
    Mutant(
        name="compressed-copy-not-compared",
        thought="A frame of zstd carries a checksum, so the copy need not be compared with the original.",
        file=RETENTION,
        function="Retention.prepare",
        before="segment.bytes, self._compare(segment.path, target))",
        after="segment.bytes, self._digest(segment.path))",
        tests=(TEST_CRASHES_RETENTION,),
    ),
    Mutant(
        name="original-removed-before-its-record",
        thought="The copy is complete and on disk, so the original can go, and the record can follow.",
        file=BACKGROUND,
        function="RetentionTask._carry_out",
        before="""\
            await record(event)
            retention.switch(step)
            await trio.to_thread.run_sync(retention.finish, step)
""",
        after="""\
            retention.switch(step)
            await trio.to_thread.run_sync(retention.finish, step)
            await record(event)
""",
        tests=(TEST_CRASHES_RETENTION,),
    ),
    Mutant(
        name="trimmed-without-a-record",
        thought="A record says where a segment is now; of one that is gone there is nothing to say.",
        file=BACKGROUND,
        function="RetentionTask._carry_out",
        before="            await record(event)\n",
        after='            if step.action != "trim":\n                await record(event)\n',
        tests=(TEST_CRASHES_RETENTION,),
    ),
    Mutant(
        name="trimmed-up-to-the-newest-snapshot",
        thought="The newest snapshot holds all up to its seq, so nothing before that is needed.",
        file=SNAPSHOT,
        function="trimmable",
        before="return found[-1] if len(found) == KEPT else 0",
        after="return found[0] if len(found) == KEPT else 0",
        tests=(f"{TEST_TRIMMED}::test_it_is_trimmed_up_to_the_older_snapshot_and_no_further",),
    ),
    Mutant(
        name="trimmed-on-the-strength-of-one-snapshot",
        thought="A snapshot that is usable is enough to open with.",
        file=SNAPSHOT,
        function="trimmable",
        before="return found[-1] if len(found) == KEPT else 0",
        after="return found[-1] if found else 0",
        tests=(f"{TEST_TRIMMED}::test_it_opens_with_either_snapshot_and_never_without",),
    ),
    Mutant(
        name="later-trim-before-an-earlier-one-is-done",
        thought="A file that could not be removed is removed when the queue is opened again.",
        file=RETENTION,
        function="Retention.prepare",
        before="        self._remove_left()\n        segment = step.segment\n",
        after="        segment = step.segment\n",
        tests=(f"{TEST_TRIMMED}::test_nothing_more_is_trimmed_before_what_was_to_be_removed_is_gone",),
    ),
    Mutant(
        name="removal-not-synced",
        thought="If a file that was removed comes back after a loss of power, it is removed again.",
        file=RETENTION,
        function="Retention._remove_left",
        before="            self._files.sync_directory(self._left[0].parent)\n",
        after="",
        tests=(TEST_CRASHES_RETENTION,),
    ),
    Mutant(
        name="name-of-a-copy-not-synced",
        thought="The bytes of the copy are on disk, and its name follows.",
        file=REPLACE,
        function="replace_file_steps",
        before="            yield from _synced(names, failed)\n",
        after="            if not replace or check is not None:\n                yield from _synced(names, failed)\n",
        tests=(TEST_CRASHES_RETENTION,),
    ),
    Mutant(
        name="copy-counts-before-the-original",
        thought="Of a segment that is there twice the newer file is the better one.",
        file=DIRECTORY,
        function="DirectoryLog._list",
        before="[paths[0] for _, paths in sorted(locate_segments(self._where, self._files, self._archives)",
        after="[paths[-1] for _, paths in sorted(locate_segments(self._where, self._files, self._archives)",
        tests=(f"{TEST_RETENTION}::test_a_copy_that_does_not_unpack_is_no_reason_to_remove_the_original",),
    ),
    Mutant(
        name="damaged-one-of-two-kept",
        thought="What a record speaks of was compared when that was written.",
        file=LOCATIONS,
        function="finish_moves",
        before="if same and (old, copy) in spoken:",
        after="if (old, copy) in spoken:",
        tests=(f"{TEST_TRIMMED}::test_a_bad_copy_is_removed",),
    ),
    Mutant(
        name="trimmed-beginning-believed",
        thought="A log that begins at a later record was trimmed; its first header says what it follows.",
        file=SCAN,
        function="LogScan.records",
        before="        self._check_beginning()\n",
        after="",
        tests=(f"{TEST_RETENTION}::test_trimming_by_hand_is_noticed",),
    ),
    Mutant(
        name="trimmed-beginning-confirmed-by-its-seq-alone",
        thought="That a record says up to where it was trimmed is proof enough.",
        file=SCAN,
        function="LogScan._confirm",
        before="if event.last_hash != trusted.hash:",
        after="if event.last != trusted.seq:",
        tests=(f"{TEST_RETENTION}::test_a_beginning_that_was_written_anew_is_noticed",),
    ),
    Mutant(
        name="refused-step-keeps-the-rest-waiting",
        thought="What comes first is to be done first, so the rest waits until it can be.",
        file=BACKGROUND,
        function="RetentionTask._step",
        before="self._clock.now(), tuple(self._refused))",
        after="self._clock.now())",
        tests=(
            f"{TEST_BACKGROUND_RETENTION}::test_what_is_refused_keeps_nothing_else_from_being_done_and_is_said_once",
        ),
    ),
    Mutant(
        name="copy-told-by-its-path-alone",
        thought="A queue at the same path is the same queue.",
        file=LOCATIONS,
        function="owns_archive",
        before="return sum(old == new for old, new in zip(was, now, strict=False)) >= _SURE",
        after="return was[-1] == now[-1]",
        tests=(TEST_TRIMMED,),
    ),
    Mutant(
        name="due-snapshot-looked-for-behind-commits-only",
        thought="A segment is begun because something was committed, so it is enough to look behind that.",
        file=DIRECTORY,
        function="DirectoryLog._begin_segment",
        before="        self.on_new_segment()\n",
        after="",
        tests=(TEST_ROTATION_ELSEWHERE,),
    ),
    Mutant(
        name="finished-while-a-snapshot-was-taken-counted-twice",
        thought="What the snapshot holds is subtracted once it is there.",
        file=BACKGROUND,
        function="SnapshotTask._run",
        before="""\
                    self._log.unsaved = 0  # also after a failure: the next segments make another snapshot due
                    await self._take()
""",
        after="""\
                    held = self._log.unsaved
                    await self._take()
                    self._log.unsaved -= held
""",
        tests=(TEST_BACKGROUND_SNAPSHOTS,),
    ),
    # --- verifying snapshots ------------------------------------------------------------------------------------------
    Mutant(
        name="first-snapshot-of-a-trimmed-log-believed",
        thought="Of a trimmed log the oldest snapshot is all that there is to begin with, so it is what it has to be.",
        file=AUDIT_SNAPSHOTS,
        function="SnapshotCheck._judge",
        before="if snapshot.log != log or (seq == end.seq and not _stands_at(snapshot, end)):",
        after="if fold.projection and (snapshot.log != log or (seq == end.seq and not _stands_at(snapshot, end))):",
        tests=(f"{TEST_AUDIT_SNAPSHOTS}::test_one_that_does_not_fit_is_not_what_the_rest_is_folded_onto",),
    ),
    # --- following ----------------------------------------------------------------------------------------------------
    Mutant(
        name="follower-takes-written-for-durable",
        thought="A record with another one behind it was written before that, so it is on disk.",
        file=AUDIT_FOLLOW,
        function="Follower._take",
        before="self._vouch(record.durable if self._durable else record.seq)",
        after="self._vouch(record.seq - 1 if self._durable else record.seq)",
        tests=(f"{TEST_FOLLOW}::test_a_record_is_given_once_a_later_line_vouches_for_it",),
    ),
    Mutant(
        name="follower-keeps-what-was-taken-back",
        thought="What was read of a segment is still there when it is read again.",
        file=AUDIT_FOLLOW,
        function="Follower._begin",
        before="        self._held.clear()\n",
        after="",
        tests=(f"{TEST_FOLLOW}::test_what_a_writer_without_room_takes_back_was_not_given",),
    ),
    Mutant(
        name="follower-gives-again-what-it-has-ready",
        thought="What is vouched for stays, so it need not be dropped before the segment is read again.",
        file=AUDIT_FOLLOW,
        function="Follower._begin",
        before="self._ready.pop()",
        after="break",
        tests=(f"{TEST_FOLLOW}::test_what_a_writer_without_room_takes_back_was_not_given",),
    ),
    Mutant(
        name="follower-looks-once",
        thought="The directory says where the segments are.",
        file=AUDIT_FOLLOW,
        function="Follower._look",
        before="            return paths\n        return self._list()\n",
        after="            return paths\n        return paths\n",
        tests=(f"{TEST_FOLLOW}::test_a_segment_that_moves_while_they_are_listed_is_not_missing",),
    ),
    # --- versions -----------------------------------------------------------------------------------------------------
    Mutant(
        name="unknown-event-passed-over-when-opening",
        thought="What a later version wrote is no concern of this one, and the chain is whole.",
        file=DIRECTORY,
        function="DirectoryLog._read_and_recover",
        before="reading = LogScan(self._list, self._read)",
        after="reading = LogScan(self._list, self._read, lenient=True)",
        tests=(f"{TEST_VERSIONS_ON_DISK}::test_what_a_later_one_wrote_is_not_opened_and_not_touched",),
    ),
    Mutant(
        name="upcasters-newest-first",
        thought="Each upcaster sees to its own fields, so their order does not matter.",
        file=VERSIONS,
        function="_reader.read",
        before="for upcast in upcasters:",
        after="for upcast in reversed(upcasters):",
        tests=(TEST_VERSIONS,),
    ),
    Mutant(
        name="trimmed-behind-snapshots-that-nobody-verified",
        thought="Two snapshots are there, and a snapshot is verified when it is written.",
        file=BACKGROUND,
        function="SnapshotTask.may_trim",
        before="return upto <= self._trimmable and upto <= kept_since(",
        after="return upto <= kept_since(",
        tests=(f"{TEST_BACKGROUND_SNAPSHOTS}::test_nothing_may_be_trimmed_by_snapshots_that_nobody_has_verified",),
    ),
    Mutant(
        name="recorded-step-given-up-when-stopped",
        thought="A step that is cancelled is done again when the queue is opened next.",
        file=BACKGROUND,
        function="RetentionTask._carry_out",
        before="        with trio.CancelScope(shield=True):\n            await record(event)\n",
        after="        with trio.CancelScope():\n            await record(event)\n",
        tests=(f"{TEST_BACKGROUND_RETENTION}::test_a_step_that_was_recorded_when_it_is_stopped_is_finished",),
    ),
)
