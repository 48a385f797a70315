"""Bugs in what answers for the log: the index of a history, anchors, what a terminal is shown."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    AUDIT_READING,
    INDEX,
    INDEXED,
    SAFE,
    SNAPSHOTS,
    TEST_ANCHOR,
    TEST_HISTORY,
    TEST_RETENTION,
    TEST_SAFE,
    TEST_SNAPSHOTS,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    Mutant(
        name="index-of-another-log",
        thought="The name of an index says which segment it is of.",
        file=INDEX,
        before="    if is_of != _is_of(segment) or ",
        after="    if is_of[:2] != _is_of(segment)[:2] or ",
        tests=(TEST_HISTORY,),
    ),
    Mutant(
        name="index-whose-entries-are-believed",
        thought="An index of the right size whose table is whole is whole.",
        file=INDEX,
        before="        return zlib.crc32(block) == crc\n",
        after="        return bool(block)\n",
        tests=(TEST_HISTORY,),
    ),
    Mutant(
        name="record-that-an-index-names-twice",
        thought="Each record that an index finds is checked where it stands, so it belongs into the answer.",
        file=INDEX,
        before="    if any(place >= after for place, after in pairwise(places)):\n",
        after="    if any(place > after for place, after in pairwise(places)):\n",
        tests=(TEST_HISTORY,),
    ),
    Mutant(
        name="index-with-more-entries-than-records",
        thought="An index of the right size is one, however large it is.",
        file=INDEX,
        before=" or count > segment.last - segment.first + 1:\n",
        after=":\n",
        tests=(TEST_HISTORY,),
    ),
    Mutant(
        name="history-of-whoever-shares-a-key",
        thought="What an index finds is about the ticket that was looked for.",
        file=INDEX,
        before="            if is_about(record, id):  # two ids may share a key\n",
        after="            if id:\n",
        tests=(TEST_HISTORY,),
    ),
    Mutant(
        name="history-without-what-was-trimmed",
        thought="What was trimmed is gone, so a reader goes on with the oldest segment that is left.",
        file=INDEXED,
        before="        place, following = place_of(self._places, self.seq + 1)\n",
        after="        place, following = place_of(self._places, self.seq + 1, begin=True)\n",
        tests=(TEST_RETENTION,),
    ),
    Mutant(
        name="nothing-trimmed-without-an-index",
        thought="The process that failed has nothing to say.",
        file=SNAPSHOTS,
        before="        if self._trims and status in {0, _NO_INDEX}:",
        after="        if self._trims and status == 0:",
        tests=(f"{TEST_SNAPSHOTS}::test_what_may_be_trimmed_is_known_though_no_index_could_be_written",),
    ),
    Mutant(
        name="anchor-that-a-crash-may-take",
        thought="The newest record is the best anchor.",
        file=AUDIT_READING,
        before="            durable = max(durable, record.durable)\n",
        after="            durable = record.seq\n",
        tests=(TEST_ANCHOR,),
    ),
    Mutant(
        name="marks-of-direction-reach-the-terminal",
        thought="Only control characters can do anything to a terminal.",
        file=SAFE,
        before="    if text.isprintable():\n",
        after='    if not re.search("[\\x00-\\x1f\\x7f-\\x9f]", text):\n',
        tests=(f"{TEST_SAFE}::test_what_is_shown",),
    ),
)
