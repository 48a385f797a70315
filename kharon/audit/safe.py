r"""Text from a log, made safe to show. All text from a log passes `safe` on its way to a terminal or a page.

A payload, a reason or an id in a log that somebody else wrote may hold any character. Escape sequences colour a
terminal, move its cursor, set its title or paste into it. Direction marks make text read differently from its order.
Other characters are invisible. `safe` turns them into `\x1b`, `\u202e` and the like: visible, and without effect.
Printable text of any script is unchanged. Rich's markup is not handled here, since nothing is printed as markup.

For exact bytes, use `--json`: it writes everything except printable ASCII as JSON escapes.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["safe"]

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Printable by their Unicode categories, but invisible: fillers, the grapheme joiner, selectors without a glyph.
_UNSEEN: Final = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\U000e0100-\U000e01ef]")


def safe(text: str) -> str:
    """Return text in which every character is visible; all others are escaped.

    Escaped are: control characters (C0, DEL, C1, and so every escape sequence), format characters (marks of direction,
    joiners, zero-width ones, tags), separators of lines and paragraphs, every space except U+0020, lone surrogates,
    private and unassigned characters, fillers.

    Cost: O(length); text that needs no escape is not copied.
    """
    if text.isprintable():
        return text if text.isascii() else _UNSEEN.sub(lambda found: _escape(found[0]), text)
    return "".join(
        char if char.isprintable() and not _UNSEEN.match(char) else _SHORT.get(char) or _escape(char) for char in text
    )


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
