"""Every record about one ticket, found by the index beside the sealed segments (`kharon.log.index`), not by reading all."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from kharon.log.record import Record

__all__ = ["Progress", "history"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many bytes of those segments that have no index were read, and how many there are in all."""


def history(
    path: str | os.PathLike[str], id: str, *, index: bool = True, progress: Progress | None = None
) -> list[Record]:
    """Return every record about the ticket `id`, oldest first; none if there never was such a ticket."""
    raise NotImplementedError
