"""Saying something in the application's log where nothing may be raised.

A user's logging may raise. In a system task that would end the whole run, and in a commit group whoever leads it would
be told that in place of what became of the commit.
"""

from __future__ import annotations

import contextlib
import logging

__all__ = ["say"]

_logger = logging.getLogger("kharon")


def say(level: int, message: str, *args: object) -> None:
    """Log a message. Never raises."""
    with contextlib.suppress(Exception):
        _logger.log(level, message, *args, stacklevel=2)
