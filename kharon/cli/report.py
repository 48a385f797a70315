"""The command that writes a page: `report`. `kharon.web` makes the page."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from kharon.audit.target import write_target
from kharon.cli.failures import Usage
from kharon.cli.output import Output
from kharon.cli.queues import reading
from kharon.web.report import report

__all__ = ["write_report"]


def write_report(out: Output, queue: Path, id: str | None, to: Path, now: datetime, *, force: bool) -> None:
    """Write a page about a queue, or about one of its tickets.

    Raises:
        Usage: the file exists, and `force` is not set; or `--json` is given for a page on stdout.
        TicketNotFound: there never was such a ticket.
    """
    on_stdout = str(to) == "-"
    if on_stdout and out.json:
        raise Usage("--json: -o - writes the page itself to stdout; name a file, or leave --json out")
    if not on_stdout:
        _check(to, force=force)
    with reading(out, queue):
        page = report(queue, id, now=now)
    if on_stdout:
        out.page(page)
        return
    _write(to, page, force=force)
    if out.json:
        out.object({"to": str(to), "id": id, "bytes": len(page)})
    else:
        out.say(f"{to}: open it in a browser; it needs nothing else")


def _check(to: Path, *, force: bool) -> None:
    """Check the target before a long log is read."""
    if to.is_dir():
        raise Usage(f"-o: {to} is a directory; name a file in it, such as {to / 'report.html'}")
    if not to.parent.is_dir():
        raise Usage(f"-o: there is no directory {to.parent}; make it, or name another place")
    if to.exists() and not force:
        raise _exists(to)


def _exists(to: Path) -> Usage:
    return Usage(f"-o: {to} exists; name another file, or give --force to replace it")


def _write(to: Path, page: str, *, force: bool) -> None:
    try:
        write_target(to, lambda temporary: _write_page(temporary, page), force=force)
    except FileExistsError:
        raise _exists(to) from None


def _write_page(to: Path, page: str) -> None:
    to.write_text(page, encoding="ascii")
