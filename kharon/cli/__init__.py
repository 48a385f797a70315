"""The command `kharon`: a queue's directory, looked at from a shell. `main` is its entry.

It needs the extra `kharon[cli]` (Typer, Rich). Nothing here takes a queue's lock, writes more in it than the index of
`history`, or minds an application that writes it at the same time. What a queue is asked is in `kharon.audit`; here are
arguments, tables and exit codes. Whatever is not needed to print a help text is imported when it is: `kharon --help`
must not wait for Trio.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_MISSING = "kharon: the command needs Typer and Rich, which come with an extra: pip install 'kharon[cli]'\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (`kharon.cli.failures` says which there are).

    Args:
        arguments: those of the command line, without the program's name; None: the process's.
    """
    try:
        import rich  # noqa: F401, PLC0415 - to know at once, not when the first table is drawn
        import typer  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"rich", "typer"}:
            raise
        sys.stderr.write(_MISSING)
        return 2
    from kharon.cli.app import run  # noqa: PLC0415

    return run(sys.argv[1:] if arguments is None else list(arguments))
