"""What running a command in this process gives, and the streams that it writes to."""

from __future__ import annotations

import io
import json

import attrs


@attrs.frozen
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def objects(self):
        """Its output as JSON, which must be ASCII."""
        assert self.out.isascii()
        return [json.loads(line) for line in self.out.splitlines()]


class Stream(io.TextIOWrapper):
    """A stream like the process's: bytes underneath; a terminal if told so."""

    def __init__(self, *, terminal=False, encoding="utf-8"):
        self.bytes = io.BytesIO()
        self.terminal = terminal
        super().__init__(self.bytes, encoding=encoding, newline="\n")

    def isatty(self):
        return self.terminal

    def text(self):
        self.flush()
        return self.bytes.getvalue().decode(self.encoding)
