"""Durations as people read them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from kharon.audit.words import length


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "0 s"),
        (0.0005, "0 ms"),
        (0.001, "1 ms"),
        (0.2, "200 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 m"),
        (256, "4 m 16 s"),
        (3599.6, "1 h"),
        (3660, "1 h 1 m"),
        (86_400 * 2 + 3600 * 4 + 59, "2 d 4 h"),
        (-256, "-4 m 16 s"),
        (timedelta(minutes=90), "1 h 30 m"),
    ],
)
def test_a_length(seconds, text):
    assert length(seconds) == text
