"""Anchors: the name of one record, kept out of reach of the log's writers, so that a rewrite of the log is noticed.

`anchor` makes one from a log, `Anchor.parse` from its text, and `AnchorCheck` compares one with a log that is read.
"""

from __future__ import annotations

import contextlib
import os
import re
from bisect import bisect_right
from pathlib import Path
from typing import Final

import attrs

from kharon.audit.read import LogPass, check_queue
from kharon.errors import AnchorMissing, InvalidAnchor
from kharon.log.directory import segments
from kharon.log.index import read_header
from kharon.log.record import Chain, Record
from kharon.log.scan import LogScan

__all__ = ["Anchor", "AnchorCheck", "anchor"]

_DIGIT: Final = r"(?:[0-9a-f](?:\r?\n)?)"  # a mailer may have broken the line anywhere
_LINE: Final = re.compile(
    rf"kharon-anchor\s+({_DIGIT}{{31}}[0-9a-f])\s+(0|[1-9][0-9]{{0,18}})\s+({_DIGIT}{{63}}[0-9a-f])", re.ASCII
)


@attrs.frozen(slots=True)
class Anchor:
    """A record that a log must always contain. `str` returns one line of text, which `parse` reads.

    Attributes:
        log: the log's id, 32 hex digits.
        seq: the record's; 0: no record was known to be on disk yet, so only the log's id is anchored.
        hash: the record's, 64 hex digits; zeros if there was none.
    """

    log: str
    seq: int
    hash: str

    def __str__(self) -> str:
        return f"kharon-anchor {self.log} {self.seq} {self.hash}"

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """Return the anchor that a line of text stands for, which may have been wrapped.

        Whitespace around it is ignored, and so is a byte order mark before it.

        Raises:
            InvalidAnchor: the text is not an anchor.
        """
        text = text.removeprefix("\ufeff").strip()
        found = _LINE.fullmatch(text)
        if found is None:
            shown = text[:100]
            raise InvalidAnchor(
                f"{shown!r} is not an anchor; one is a line like 'kharon-anchor <log id: 32 hex digits> <seq> <hash: "
                f"64 hex digits>', as kharon.anchor returned it"
            )
        return cls("".join(found[1].split()), int(found[2]), "".join(found[3].split()))


def anchor(path: str | os.PathLike[str]) -> Anchor:
    """Return the newest record that is known to be on disk: keep it elsewhere, and give it to `verify` later.

    No later line vouches yet for the very last records of a log that is being written, or was closed just now. A loss
    of power may remove them although nobody rewrote anything. So the anchor is a little further back.

    Args:
        path: the queue's directory; it may be open in any process.

    Raises:
        CorruptLog: the last segment is damaged, other than by an unfinished last commit.
        UnknownFormat: a later version of Kharon wrote it.
        KharonError: there is no queue at `path`.
        OSError: the log cannot be read.

    Cost: O(bytes of the last segment), the only one that is verified; the memory of the hashes of its records.
    """
    directory = Path(path)
    check_queue(directory)
    tail = segments(directory)[-1]
    with tail.open("rb") as file:
        header = read_header(file, str(tail))
    # Every record before this segment is on disk: otherwise the segment would not have been begun.
    hashes = {header.first - 1: header.previous}
    durable = header.first - 1
    log = LogPass(path, Chain(header.first - 1, header.previous), header.log)
    with contextlib.closing(log.reading.records()) as records:
        for record in records:
            hashes[record.seq] = record.hash
            durable = max(durable, record.durable)
    return Anchor(header.log, durable, hashes[durable])


class AnchorCheck:
    """A check that a log contains an anchor: `see` each record, then `finish`.

    Args:
        anchor: the record that must be there.
    """

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor
        self._hash: str | None = None  # of the record with the anchor's seq, once it has been seen

    def see(self, record: Record) -> None:
        """Take the next record of the log. O(1)."""
        if record.seq == self._anchor.seq:
            self._hash = record.hash

    def finish(self, reading: LogScan) -> None:
        """Check that a log that has been read contains the anchor.

        Raises:
            AnchorMissing: it does not.
        """
        anchor, places = self._anchor, reading.places
        first, last = places[0], reading.chain.seq
        if reading.log != anchor.log:
            why = f"this is the log {reading.log}; the anchor is of the log {anchor.log}"
        elif anchor.seq == 0 or self._hash == anchor.hash:
            return
        elif anchor.seq > last:
            why = f"the log ends at record {last}; the anchor is record {anchor.seq}: later records were cut off"
        elif anchor.seq < first.first:
            why = (
                f"the history begins at record {first.first}; the anchor is record {anchor.seq}, which was trimmed: "
                f"keep a newer one"
            )
        else:
            place = places[bisect_right(places, anchor.seq, key=lambda place: place.first) - 1]
            why = f"record {anchor.seq} has the hash {self._hash}; the anchor says {anchor.hash}: the log was rewritten"
            raise AnchorMissing(str(place.path), anchor.seq - place.first + 2, 0, why)
        raise AnchorMissing(str(first.path if anchor.seq <= last else places[-1].path), 0, 0, why)
