"""Who watches a reading is told of the bytes that are read, and nobody else."""

from __future__ import annotations

import contextvars

from queues import queue, segments_of

import kharon
from kharon.audit.watching import tell, watched


def test_every_byte_is_told_once(tmp_path):
    queue(tmp_path / "queue")
    size = sum(path.stat().st_size for path in segments_of(tmp_path / "queue"))
    for read in (kharon.replay, kharon.verify, lambda path: list(kharon.read(path))):
        told = []
        with watched(told.append):
            read(tmp_path / "queue")
        assert sum(told) == size
        read(tmp_path / "queue")
        assert sum(told) == size, "nobody watches behind the block"


def test_the_inner_one_watches():
    outer, inner = [], []
    with watched(outer.append):
        tell(1)
        with watched(inner.append):
            tell(2)
        contextvars.Context().run(tell, 4)
        tell(8)
    tell(16)
    assert (outer, inner) == ([1, 8], [2])
