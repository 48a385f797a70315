"""Text as it is shown: what cannot be seen, or would do something, is escaped."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kharon.audit.safe import safe


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain text, with \\ and 'quotes'", "plain text, with \\ and 'quotes'"),
        ("naïve 日本 🚀 Ω", "naïve 日本 🚀 Ω"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b31m", "\\x9b31m"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x00\x7f", "\\x00\\x7f"),
        ("x\u202ey", "x\\u202ey"),
        ("a\u200bb", "a\\u200bb"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("a\u3164b", "a\\u3164b"),
        ("a\u3164b\n", "a\\u3164b\\n"),
        ("\u00a0\u3000", "\\xa0\\u3000"),
        ("[red]x[/red]", "[red]x[/red]"),
    ],
)
def test_what_is_shown(text, shown):
    assert safe(text) == shown


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_only_what_can_be_seen_is_left(text):
    shown = safe(text)
    assert shown.isprintable()
    assert not [
        char
        for char in shown
        if unicodedata.bidirectional(char) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    ]
    shown.encode()
    assert safe(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text
