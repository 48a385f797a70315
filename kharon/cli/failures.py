"""How a failed command ends: one line on stderr, and an exit code.

0   done; for `verify`: the log is whole, and its snapshots and indexes agree with it
1   the log says no: no such ticket; the log, a snapshot or an index is damaged or altered; the anchor is missing
2   the log could not be read: a wrong argument, no queue there, no permission, a later version's log, a full disk
130 ended by Ctrl-C        141 the reader of the output closed it
"""

from __future__ import annotations

from typing import Any

from kharon.errors import CorruptLog, TicketNotFound

__all__ = ["NO", "UNABLE", "Usage", "as_json", "code_of", "line_of"]

NO = 1
UNABLE = 2


class Usage(Exception):
    """An argument is wrong. The message names it and says what is accepted."""


def code_of(error: Exception) -> int:
    """Return the exit code for an error."""
    return NO if isinstance(error, (CorruptLog, TicketNotFound)) else UNABLE


def line_of(error: Exception) -> str:
    """Return one line of text for an error. The caller must escape it (`safe`)."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    format_message = getattr(error, "format_message", None)  # Typer's own
    if callable(format_message):
        text = str(format_message())
        return text + ("" if text.endswith((".", "?")) else ".") + _remedy(error)
    return str(error) or type(error).__name__


def _remedy(error: Any) -> str:
    """Return how to correct an error that Typer found, which only says what is wrong."""
    context = getattr(error, "ctx", None)
    if context is None:
        return ""
    command = "kharon" if context.parent is None else f"kharon {context.info_name}"
    dash = " Put an argument that begins with - after --." if getattr(error, "option_name", None) else ""
    return f"{dash} See {command} --help"


def as_json(error: Exception) -> dict[str, Any]:
    """Return an error as `--json` prints it on stderr."""
    fields: dict[str, Any] = {"error": type(error).__name__, "message": line_of(error)}
    if isinstance(error, CorruptLog):
        fields |= {"file": error.file, "line": error.line, "byte": error.byte, "why": error.why}
    return fields
