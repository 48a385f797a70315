"""What a command that could not do its work ends with: one line on stderr, and an exit code.

0   done; for `verify`: the log is whole, and nothing that is believed beside it says anything else
1   the log says no: there is no such ticket, it, a snapshot or an index is damaged or altered, it lacks the anchor
2   it could not be asked: a wrong argument, no queue there, no permission, a later version's log, a full disk
130 ended by Ctrl-C        141 whoever read the output went away
"""

from __future__ import annotations

from typing import Any

from kharon.errors import CorruptLog, TicketNotFound

__all__ = ["NO", "UNABLE", "Usage", "as_json", "code_of", "line_of"]

NO = 1
UNABLE = 2


class Usage(Exception):
    """An argument cannot be so. The message names it and says what could."""


def code_of(error: Exception) -> int:
    """Return the exit code for an error."""
    return NO if isinstance(error, (CorruptLog, TicketNotFound)) else UNABLE


def line_of(error: Exception) -> str:
    """Return one line for an error; what of it comes from a log has still to be made `safe`."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    format_message = getattr(error, "format_message", None)  # Typer's own
    if callable(format_message):
        text = str(format_message())
        return text + ("" if text.endswith((".", "?")) else ".") + _remedy(error)
    return str(error) or type(error).__name__


def _remedy(error: Any) -> str:
    """Return what helps against an error of Typer's, which says no more than what is wrong."""
    context = getattr(error, "ctx", None)
    if context is None:
        return ""
    command = "kharon" if context.parent is None else f"kharon {context.info_name}"
    dash = " What begins with - and is no option goes behind --." if getattr(error, "option_name", None) else ""
    return f"{dash} See {command} --help"


def as_json(error: Exception) -> dict[str, Any]:
    """Return an error as `--json` gives it on stderr."""
    fields: dict[str, Any] = {"error": type(error).__name__, "message": line_of(error)}
    if isinstance(error, CorruptLog):
        fields |= {"file": error.file, "line": error.line, "byte": error.byte, "why": error.why}
    return fields
