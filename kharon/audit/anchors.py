"""Anchors: the name of one record, kept where who writes the log cannot change it, so that a rewritten log is noticed."""

from __future__ import annotations

import os

import attrs

__all__ = ["Anchor", "anchor"]


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
        raise NotImplementedError


def anchor(path: str | os.PathLike[str]) -> Anchor:
    """Return the newest record that is known to be on disk, to be kept elsewhere and given to `verify` later."""
    raise NotImplementedError
