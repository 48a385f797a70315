"""Only the code that watches a reading is told of the bytes that are read."""

from __future__ import annotations

import contextvars

from queues import queue, segments_of

import kharon
from kharon.audit.progress import report_bytes, watch_bytes


def test_every_byte_is_told_once(tmp_path):
    queue(tmp_path / "queue")
    size = sum(path.stat().st_size for path in segments_of(tmp_path / "queue"))
    for read in (kharon.replay, kharon.verify, lambda path: list(kharon.read(path))):
        told = []
        with watch_bytes(told.append):
            read(tmp_path / "queue")
        assert sum(told) == size
        read(tmp_path / "queue")
        assert sum(told) == size, "nobody watches behind the block"


def test_the_inner_one_watches():
    outer, inner = [], []
    with watch_bytes(outer.append):
        report_bytes(1)
        with watch_bytes(inner.append):
            report_bytes(2)
        contextvars.Context().run(report_bytes, 4)
        report_bytes(8)
    report_bytes(16)
    assert (outer, inner) == ([1, 8], [2])
