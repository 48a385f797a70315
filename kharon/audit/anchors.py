"""Anchors: the name of one record, kept where who writes the log cannot change it, so that a rewrite is noticed.

What one is, and its text. Where it is taken from, and that a log still contains it, is for `reading` to say.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from kharon.errors import InvalidAnchor

__all__ = ["Anchor"]

_LINE: Final = re.compile(r"kharon-anchor ([0-9a-f]{32}) (0|[1-9][0-9]{0,18}) ([0-9a-f]{64})", re.ASCII)


@attrs.frozen(slots=True)
class Anchor:
    """A record that a log must contain for ever. `str` gives one line of text, which `parse` reads.

    Attributes:
        log: the log's id, 32 hex digits.
        seq: the record's; 0: none was known to be on disk yet, so only the log's id is anchored.
        hash: the record's, 64 hex digits; zeros if there was none.
    """

    log: str
    seq: int
    hash: str

    def __str__(self) -> str:
        return f"kharon-anchor {self.log} {self.seq} {self.hash}"

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """Return the anchor that a line of text stands for; space around it does not matter.

        Raises:
            InvalidAnchor: it is none.
        """
        found = _LINE.fullmatch(text.strip())
        if found is None:
            shown = text.strip()[:100]
            raise InvalidAnchor(
                f"{shown!r} is no anchor; one is a line like 'kharon-anchor <log id: 32 hex digits> <seq> <hash: 64 "
                f"hex digits>', as kharon.anchor gave it"
            )
        return cls(found[1], int(found[2]), found[3])
