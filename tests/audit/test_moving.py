"""A ticket's history while another process compresses, archives or trims the segments that it is looked for in."""

from __future__ import annotations

import pytest
from queues import queue

from kharon.audit import history as module


def test_a_segment_that_moves_while_it_is_looked_for_is_found(tmp_path, monkeypatch):
    where = tmp_path / "queue"
    queue(where)
    real = module.segments
    misses = []

    def moving(directory):
        paths = real(directory)
        if len(misses) < 3:
            misses.append(paths[0])
            return [paths[0].with_name("gone.jsonl"), *paths[1:]]
        return paths

    expected = module.history(where, "t1")
    assert expected
    monkeypatch.setattr(module, "segments", moving)
    assert module.history(where, "t1") == expected
    assert len(misses) == 3


def test_one_that_is_gone_for_good_is_an_error(tmp_path, monkeypatch):
    where = tmp_path / "queue"
    queue(where)
    real = module.segments
    monkeypatch.setattr(module, "segments", lambda directory: [real(directory)[0].with_name("gone.jsonl")] * 2)
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        module.history(where, "t1")
