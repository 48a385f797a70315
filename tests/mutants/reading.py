"""Bugs in lines, chains and seals: what a line says of itself, and what binds it to all before it."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import RECORD, SCAN, SEGMENT, TEST_RECORD, TEST_ROTATION, TEST_SEGMENT

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    # --- lines --------------------------------------------------------------------------------------------------------
    Mutant(
        name="hash-of-reserialised-json",
        thought="The hash is of what a line says, so it is taken of the parsed line, written out again.",
        file=RECORD,
        function="check_line",
        before="    claimed = line[9:73]\n",
        after="""\
    claimed = line[9:73]
    try:
        body = ascii_json(_encode(msgspec.json.decode(b"{" + body)))[1:]
    except _UNREADABLE:
        pass
""",
        tests=(TEST_RECORD,),
    ),
    Mutant(
        name="crc-not-checked",
        thought="The hash covers the same bytes, so the crc adds nothing.",
        file=RECORD,
        function="check_line",
        before="""\
    if line[82:90] != b"%08x" % zlib.crc32(body):
        raise BadLine("its bytes were altered: the crc does not match them")
""",
        after="",
        tests=(TEST_RECORD,),
    ),
    Mutant(
        name="hash-not-checked",
        thought="The crc finds every damage that a disk does.",
        file=RECORD,
        function="check_line",
        before="if previous is not None and claimed != sha256(",
        after="if previous == claimed and claimed != sha256(",
        tests=(TEST_RECORD,),
    ),
    Mutant(
        name="length-not-checked-before-parsing",
        thought="No line is ever written that is too long, so none is read.",
        file=RECORD,
        function="check_line",
        before='    if len(line) > most:\n        raise BadLine(f"longer than {most} bytes")\n',
        after="",
        tests=(TEST_RECORD,),
    ),
    Mutant(
        name="depth-left-to-the-parser",
        thought="A JSON parser has a limit of its own for nesting.",
        file=RECORD,
        function="parse_record",
        before='    check_depth(line, _MAX_NESTING, "a record")\n    try:\n',
        after="    try:\n",
        tests=(TEST_RECORD,),
    ),
    Mutant(
        name="only-the-body-counted-before-writing",
        thought="The limit is for what is in the line; its two first fields are ours.",
        file=RECORD,
        function="Chain.commit",
        before="if len(line) > MAX_LINE_BYTES:",
        after="if len(body) > MAX_LINE_BYTES:",
        tests=(TEST_RECORD,),
    ),
    Mutant(
        name="refused-commit-moves-the-chain",
        thought="The chain can move along with each line.",
        file=RECORD,
        function="Chain.commit",
        before="            lines.append(line)\n",
        after="            lines.append(line)\n            self.seq, self.hash, self.at = seq, hash, at\n",
        tests=(TEST_RECORD,),
    ),
    Mutant(
        name="clock-step-reorders-the-log",
        thought="The time of a record is the time that the clock says.",
        file=RECORD,
        function="Chain.commit",
        before="        if self.at is not None and at < self.at:\n            at = self.at\n",
        after="",
        tests=(TEST_RECORD,),
    ),
    # --- commits and chains -------------------------------------------------------------------------------------------
    Mutant(
        name="parts-of-a-commit-taken-singly",
        thought="Each record of the last commit is whole by itself, so what there is of it can be kept.",
        file=SEGMENT,
        function="read_records",
        before="""\
    if commit:
        why = f"the commit ends after {len(commit)} of its {commit[0].part[1]} records"
        raise BrokenSegment(path, number + 1, byte, commit_byte, chain.seq + 1, why)
""",
        after="""\
    if commit:
        chain.seq, chain.hash, chain.at = commit[-1].seq, commit[-1].hash, commit[-1].at
        yield from commit
""",
        tests=(TEST_SEGMENT,),
    ),
    Mutant(
        name="chain-not-linked-across-segments",
        thought="A header says which hash it follows, so each segment can be checked by itself.",
        file=SEGMENT,
        function="read_segment",
        before="""\
        header = parse_header(line, check_line(line, chain.hash))
        _check_header(header, chain, log)
""",
        after="""\
        header = parse_header(line, check_line(line, None))
        check_line(line, header.previous)
        _check_header(header, Chain(chain.seq, header.previous), log)
""",
        tests=(TEST_SEGMENT, TEST_ROTATION),
    ),
    Mutant(
        name="missing-last-segment-not-noticed",
        thought="The log ends where its last file ends.",
        file=SCAN,
        function="LogScan.records",
        before="""\
                if self._seal is not None:
                    why = f"it is sealed, so a segment beginning at record {self.chain.seq + 1} follows; it is missing"
                    raise CorruptLog(str(self.places[-1].path), 0, 0, why)
""",
        after="",
        tests=(TEST_ROTATION,),
    ),
    Mutant(
        name="missing-seal-not-noticed",
        thought="The next segment's header says what it follows, so the seal in front of it need not be there.",
        file=SCAN,
        function="LogScan._leave_header",
        before="        if before is None or before.sealed:\n            return\n",
        after="        if before is None or before.last + 1 == self.places[-1].first:\n            return\n",
        tests=(TEST_ROTATION,),
    ),
    Mutant(
        name="seal-names-another-successor",
        thought="That there is a seal is what counts; the headers link the segments.",
        file=SCAN,
        function="LogScan._begin",
        before="if self._seal is not None and self._seal.next != header.hash:",
        after="if self._seal is not None and self._seal.sealed != header.first - 1:",
        tests=(TEST_ROTATION,),
    ),
    Mutant(
        name="anything-taken-for-a-torn-seal",
        thought="What stands behind the last record of a segment with a successor is the rest of its seal.",
        file=SCAN,
        function="LogScan._is_torn_seal",
        before="return file.seek(0, os.SEEK_END) - broken.commit_byte <= len(seal)",
        after="return len(seal) > 0",
        tests=(TEST_ROTATION,),
    ),
    # --- witnesses ----------------------------------------------------------------------------------------------------
    Mutant(
        name="torn-tail-cut-though-vouched-for",
        thought="An end that is not right was never finished; that is what a crash does.",
        file=SEGMENT,
        function="refuse_damage",
        before="if is_proved_durable(file, broken, lenient=lenient):",
        after="if broken.byte < broken.commit_byte:",
        tests=(TEST_SEGMENT,),
    ),
    Mutant(
        name="witness-off-by-one",
        thought="A line vouches for those before the one that it names.",
        file=SEGMENT,
        function="is_proved_durable",
        before="item.durable) >= broken.commit_seq:",
        after="item.durable) > broken.commit_seq:",
        tests=(TEST_SEGMENT,),
    ),
    Mutant(
        name="witness-only-behind-a-newline",
        thought="Lines begin behind newlines.",
        file=SEGMENT,
        function="is_proved_durable",
        before="for beginning in _BEGINNINGS.finditer(line):",
        after="for beginning in filter(None, [_BEGINNINGS.match(line)]):",
        tests=(TEST_SEGMENT,),
    ),
    Mutant(
        name="seal-is-no-witness",
        thought="Records say what is durable; a seal is none.",
        file=SEGMENT,
        function="is_proved_durable",
        before="item = parse_seal(rest) if is_seal(rest) else parse_record(rest, hash, lenient=True)",
        after="item = parse_record(rest, hash, lenient=True)",
        tests=(TEST_ROTATION,),
    ),
)
