"""The command `kharon`, which reads a queue's directory from a shell. `main` is its entry.

It needs the extra `kharon[cli]` (Typer, Rich). No command takes a queue's lock, or writes anything in it except the
index of `history`; an application may write the queue at the same time. `kharon.audit` answers the questions; this
package has the arguments, tables and exit codes. Modules that a help text does not need are imported by the commands,
since `kharon --help` must not wait for Trio.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_MISSING = "kharon: the command needs Typer and Rich, which come with an extra: pip install 'kharon[cli]'\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (`kharon.cli.failures` lists them).

    Args:
        arguments: the command line without the program's name; None: the process's.
    """
    try:
        import rich  # noqa: F401, PLC0415 - to fail here, not at the first table
        import typer  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"rich", "typer"}:
            raise
        sys.stderr.write(_MISSING)
        return 2
    from kharon.cli.app import run  # noqa: PLC0415

    return run(sys.argv[1:] if arguments is None else list(arguments))
