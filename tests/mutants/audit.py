"""Bugs in what answers for the log: the index of a history, anchors, what a terminal is shown."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    AUDIT_ANCHOR,
    AUDIT_HISTORY,
    AUDIT_INDEXES,
    AUDIT_SUBJECTS,
    BACKGROUND,
    CLI_VERIFY,
    INDEX,
    LIVE,
    SAFE,
    TEST_ANCHOR,
    TEST_BACKGROUND_SNAPSHOTS,
    TEST_HISTORY,
    TEST_INDEXES,
    TEST_RETENTION,
    TEST_SAFE,
    TEST_SUBJECTS,
    TEST_VERIFY,
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
        name="index-that-is-believed-for-its-size",
        thought="An index whose sums are right and that has as many entries as it should is the one that was written.",
        file=AUDIT_INDEXES,
        before="        if data == packed:\n",
        after="        if len(data) == len(packed):\n",
        tests=(TEST_INDEXES,),
    ),
    Mutant(
        name="forged-index-that-is-taken-for-a-damaged-one",
        thought="An index with a part that is damaged is not used, so it hides nothing.",
        file=AUDIT_INDEXES,
        before=" and all(data[block] == packed[block] for block in used):\n",
        after=" and len(used) < len(blocks):\n",
        tests=(TEST_INDEXES,),
    ),
    Mutant(
        name="table-of-an-index-that-is-not-compared",
        thought="What an index says of its segment stands in its entries.",
        file=AUDIT_INDEXES,
        before="        if data == packed:\n",
        after="        if data[table.begin :] == packed[table.begin :]:\n",
        tests=(TEST_INDEXES,),
    ),
    Mutant(
        name="index-without-the-events-of-later-versions",
        thought="An event that is not known is about no ticket.",
        file=AUDIT_INDEXES,
        before="                _add_unknown(places, record, line, byte)\n",
        after="                pass\n",
        tests=(TEST_INDEXES,),
    ),
    Mutant(
        name="verify-that-exits-with-zero-for-an-index-that-hides",
        thought="An index is a cache, so it says nothing about the log.",
        file=CLI_VERIFY,
        before="    if report.bad_indexes:\n",
        after="    if report.bad_indexes and report.bad_snapshots:\n",
        tests=(TEST_VERIFY,),
    ),
    Mutant(
        name="ticket-of-a-trimmed-log-by-what-is-left",
        thought="A ticket is what its records make it.",
        file=AUDIT_HISTORY,
        before="    if first_of(segments(Path(path))[0]) > 1:",
        after="    if not records:",
        tests=(TEST_HISTORY,),
    ),
    Mutant(
        name="history-without-what-was-trimmed",
        thought="What was trimmed is gone, so a reader goes on with the oldest segment that is left.",
        file=LIVE,
        before="        place, following = segment_of(self._places, self.seq + 1)\n        self._ends = 0 if",
        after="        place, following = segment_of(self._places, self.seq + 1, begin=True)\n"
        "        self._ends = 0 if",
        tests=(TEST_RETENTION,),
    ),
    Mutant(
        name="nothing-trimmed-without-an-index",
        thought="The process that failed has nothing to say.",
        file=BACKGROUND,
        before="        if self._trims and status in {0, _NO_INDEX}:",
        after="        if self._trims and status == 0:",
        tests=(f"{TEST_BACKGROUND_SNAPSHOTS}::test_what_may_be_trimmed_is_known_though_no_index_could_be_written",),
    ),
    Mutant(
        name="anchor-that-a-crash-may-take",
        thought="The newest record is the best anchor.",
        file=AUDIT_ANCHOR,
        before="            durable = max(durable, record.durable)\n",
        after="            durable = record.seq\n",
        tests=(TEST_ANCHOR,),
    ),
    Mutant(
        name="tail-loses-who-leaves",
        thought="A record is about its ticket as it is from then on; only of one that is removed there is no such.",
        file=AUDIT_SUBJECTS,
        before="        return _subjects(before, after) if was is is_",
        after="        return _subjects(after or before) if was is is_",
        tests=(TEST_SUBJECTS,),
    ),
    Mutant(
        name="tail-is-silent-about-what-follows-a-run",
        thought="A ticket that runs is the one that runs, whatever was added meanwhile.",
        file=AUDIT_SUBJECTS,
        before=" if was is is_ else _subjects(before, after, was, is_)",
        after="",
        tests=(TEST_SUBJECTS,),
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
