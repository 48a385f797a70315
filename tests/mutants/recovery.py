"""Bugs in opening after a crash, and in repair."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    DIRECTORY,
    RECOVERY,
    REPAIR,
    TEST_CRASHES_WHAT_SURVIVES,
    TEST_FAILING_DISK,
    TEST_RECOVERY,
    TEST_REPAIR,
    TEST_ROTATION,
)

__all__ = ["MUTANTS"]

_RECOVERY: Final = f"{TEST_RECOVERY}::test_"  # not all of it: flipping every bit takes its time

MUTANTS: Final = (
    Mutant(
        name="tail-appended-to-in-place-after-a-crash",
        thought="A tail that verifies to its end can be appended to.",
        file=DIRECTORY,
        function="DirectoryLog._read_and_recover",
        before="        if self._closed_cleanly:\n            self._tail = reopen_tail",
        after="        if self._closed_cleanly or reading.broken is None:\n            self._tail = reopen_tail",
        tests=(f"{_RECOVERY}after_an_unclean_stop_the_tail_gets_a_new_inode",),
    ),
    Mutant(
        name="closing-line-trusted-in-the-page-cache",
        thought="Syncing the tail of a log that was closed brings its last line to the disk, if it is not there.",
        file=RECOVERY,
        function="reopen_tail",
        before="    files.overwrite(path, size - len(line), line)\n",
        after="",
        tests=(TEST_CRASHES_WHAT_SURVIVES,),
    ),
    Mutant(
        name="seal-trusted-in-the-page-cache",
        thought="A seal that can be read is there.",
        file=DIRECTORY,
        function="DirectoryLog._read_and_recover",
        before="if reading.bare and reading.before is not None:",
        after="if reading.bare and reading.before is not None and not reading.before.sealed:",
        tests=(TEST_ROTATION, TEST_FAILING_DISK),
    ),
    Mutant(
        name="found-names-not-synced",
        thought="A file that can be opened by its name has its name.",
        file=RECOVERY,
        function="tidy",
        before='    files.sync_directory(where / "log")\n',
        after="",
        tests=(TEST_CRASHES_WHAT_SURVIVES,),
    ),
    Mutant(
        name="cut-bytes-not-kept",
        thought="An unfinished commit was told to nobody, so nobody misses it.",
        file=RECOVERY,
        function="quarantine",
        before="    replace_file(files, kept, copy_chunks(old, length, path))\n",
        after="",
        tests=(f"{_RECOVERY}garbage_behind_the_tail",),
    ),
    Mutant(
        name="quarantine-not-synced",
        thought="The file in quarantine is synced, and its folder too.",
        file=RECOVERY,
        function="quarantine",
        before="    files.sync_directory(where)\n",
        after="",
        tests=(f"{_RECOVERY}what_a_recovery_makes_is_synced_in_order",),
    ),
    Mutant(
        name="quarantine-overwritten",
        thought="Segment and byte are enough of a name.",
        file=RECOVERY,
        function="unused_name",
        before="""\
    while files.kind(path) is not None:
        count += 1
        path = folder / f"{name}.{count}"
""",
        after="",
        tests=(f"{_RECOVERY}nothing_in_quarantine_is_overwritten",),
    ),
    Mutant(
        name="cut-not-said-in-the-log",
        thought="The warning says that bytes were cut.",
        file=RECOVERY,
        function="rewrite_tail",
        before="            lines = chain.commit([cut], now, CLOCK, chain.seq)\n",
        after="",
        tests=(f"{_RECOVERY}the_log_goes_on_behind_a_cut",),
    ),
    Mutant(
        name="repair-without-being-told-to",
        thought="Whoever calls repair wants it repaired.",
        file=REPAIR,
        function="repair",
        before="return _Repairer(diagnosis, files, actor).do(plan) if confirm else plan",
        after="return _Repairer(diagnosis, files, actor).do(plan)",
        tests=(TEST_REPAIR,),
    ),
    Mutant(
        name="repair-drops-before-it-writes",
        thought="What stands behind the damage has been kept aside, so it can go first.",
        file=REPAIR,
        function="_Repairer.do",
        before="""\
        self._write(tail, lines)
        for part, following in zip(diagnosis.parts, diagnosis.parts[1:], strict=False):
            if part.seal is None:
                self._write(part, [seal_line(part.hash, Seal(part.seq, following.header))])
        self._remove_rest(places)
""",
        after="""\
        self._remove_rest(places)
        self._write(tail, lines)
        for part, following in zip(diagnosis.parts, diagnosis.parts[1:], strict=False):
            if part.seal is None:
                self._write(part, [seal_line(part.hash, Seal(part.seq, following.header))])
""",
        tests=(f"{TEST_REPAIR}::test_until_a_repair_has_written_the_tail_all_that_stands_behind_is_there",),
    ),
)
