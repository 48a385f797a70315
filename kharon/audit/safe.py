r"""Text from a log, made fit to be shown: the one function that every piece of it passes on its way to a terminal.

A payload, a reason, an id in a log that somebody else wrote may hold anything: sequences that colour the terminal, move
its cursor, set its title or paste into it; marks that turn the direction of writing round, so that text reads otherwise
than it is; characters that nobody sees. Here they become `\x1b`, `\u202e` and the like: visible, and without effect.
What is printable stays as it is, whatever the script. Markup of Rich's is not known here: nothing that this package
prints is read as markup.

For exact bytes there is `--json`, where everything beyond printable ASCII is an escape of JSON's.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["safe"]

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Printable by Unicode's categories, and yet shown as nothing: fillers, the grapheme joiner, selectors without a glyph.
_UNSEEN: Final = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\U000e0100-\U000e01ef]")


def safe(text: str) -> str:
    """Return text in which every character is one that can be seen; all others as escapes.

    Escaped are: control characters (C0, DEL, C1, and so every escape sequence), format characters (marks of direction,
    joiners, zero-width ones, tags), separators of lines and paragraphs, every space but U+0020, lone surrogates,
    private and unassigned characters, fillers.

    Cost: O(length); nothing is copied where nothing is to do.
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
