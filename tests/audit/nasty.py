"""Text that must not be shown as it is: what the tests of the audit, the command and the page share."""

from __future__ import annotations

NASTY = {
    "escape sequences": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://example.org\x1b\\link \x1b[2J\x1b[H",
    "C1": "\x9b31m \x9d0;title\x9c \x85 \x90",
    "controls": "\x00\x07\x08\x0b\x0c\x0e\x1a\x7f bell, back\x08\x08\x08\x08",
    "lines": "one\ntwo\r\nthree\u2028four\u2029five\x85six\ttab",
    "bidi": "user\u202egnp.exe \u2066a\u2067b\u2068c\u2069 \u200e\u200f\u061c \u202a\u202b\u202c\u202d",
    "unseen": "a\u200bb\u200c\u200d\u2060\ufeff\u00ad\u180e\u034fi\u115fj\u3164k\uffa0l\u2800m\U000e0041n\U000e0100",
    "markup": "[bold red]x[/] [link=http://example.org]y[/link] :boom: {task} %s {0}",
    "html": "<script>alert(1)</script> &amp; <!-- -->",
    "sql": "'; DROP TABLE records; -- \" OR 1=1",
    "formula": "=cmd|' /C calc'!A0",
    "wide": "\u65e5\u672c\u8a9e \U0001f469\u200d\U0001f467 \uff26\uff55 e\u0301\u0301",
}
