"""The commands, their arguments, and what becomes of an error: declared with Typer.

Typer, and not Cyclopts: its help text is there in less than half of the time (measured 60 ms of processor time against
140 ms), plain, in 80 columns and without markup; that a command costs more (160 ms against 70 ms, for the pydantic that
it validates with) weighs less beside the reading of a log. Each function here only declares a command and hands over to
the module that does it, which is imported then.

Data goes to stdout and talk to stderr. An error is one line on stderr, `kharon: …`; with `--json` one object,
`{"error":"TicketNotFound","message":"…"}`. Exit codes are in `failures`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from kharon import __version__
from kharon.cli.failures import UNABLE, Usage, as_json, code_of, line_of
from kharon.cli.output import Output, forgiving
from kharon.cli.times import NOW, instant, now, seconds, seq_or_instant
from kharon.errors import KharonError

if TYPE_CHECKING:
    from kharon.audit.measure import By
    from kharon.cli.tickets import Filter

__all__ = ["run"]

_EPILOG = (
    "A TIME is ISO 8601 with a timezone (2026-03-11T04:00Z, '2026-03-11 04:00+01'), how long ago (90s, 15m, 2h, 3d, "
    f"1h30m), or now; {NOW} in the environment says what now is. No command takes the queue's lock, or writes more "
    "than the index of history, which may be deleted; all may be run while an application writes the queue. Exit "
    "codes: 0 done; 1 the log says no (no such ticket, damaged, altered, anchor missing); 2 it could not be asked."
)


class _Gone(Exception):
    """Whoever read the output went away: said so because Typer would end the process with a code of its own."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _Gone from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"kharon {__version__}\n")
        raise typer.Exit


@app.callback(epilog=_EPILOG)
def _kharon(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Look at a queue: what is in it, what happened, why, and whether anybody altered it."""


Queue = Annotated[Path, typer.Argument(metavar="QUEUE", help="The queue's directory.", show_default=False)]
Id = Annotated[str, typer.Argument(metavar="ID", help="The ticket's id.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="JSON: one object a line, ASCII.")]
Status_ = Annotated[
    str | None,
    typer.Option(
        "--status", metavar="STATUS", help="pending, done, failed, cancelled; ready, claimed, delayed, blocked."
    ),
]
Type_ = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only this type.")]
Tube = Annotated[str | None, typer.Option("--tube", metavar="TUBE", help="Only this tube.")]
Group_ = Annotated[str | None, typer.Option("--group", metavar="GROUP", help="Only this group.")]
Due = Annotated[bool, typer.Option("--due", help="Only what could be claimed, in the order in which it would be.")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="At most so many.")]
Place = Annotated[str, typer.Argument(metavar="TIME|SEQ", help="A time, or a record's seq.", show_default=False)]


def _filter(
    status: str | None, type: str | None, tube: str | None, group: str | None, limit: int | None, *, due: bool
) -> Filter:
    from kharon.cli.tickets import Filter

    return Filter(status=status, type=type, tube=tube, group=group, due=due, limit=limit)


@app.command()
def ls(
    queue: Queue,
    status: Status_ = None,
    type: Type_ = None,
    tube: Tube = None,
    group: Group_ = None,
    due: Due = False,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List tickets."""
    from kharon.cli.tickets import listed

    listed(Output(json=json), queue, _filter(status, type, tube, group, limit, due=due), now())


@app.command()
def show(queue: Queue, id: Id, json: Json = False) -> None:
    """Show one ticket, with payload and result."""
    from kharon.cli.tickets import shown

    shown(Output(json=json), queue, id, now())


@app.command()
def history(queue: Queue, id: Id, json: Json = False) -> None:
    """Tell a ticket's life: records, attempts, where time went."""
    from kharon.cli.records import told_history

    told_history(Output(json=json), queue, id, now())


@app.command()
def why(
    queue: Queue,
    id: Id,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="The queue's Settings.max_attempts: the log does not know it. 0: no end; default: 25.",
        ),
    ] = None,
    tubes: Annotated[
        str | None, typer.Option(metavar="TUBE,…", help="The tubes that workers claim from; default: the ticket's own.")
    ] = None,
    json: Json = False,
) -> None:
    """Say why a ticket is, or is not, running now."""
    from kharon.cli.tickets import explained

    known: dict[str, Any] = {"tubes": None if tubes is None else tuple(tubes.split(","))}
    if max_attempts is not None:
        known["max_attempts"] = max_attempts or None
    explained(Output(json=json), queue, id, now(), known)


@app.command("as-of")
def as_of(
    queue: Queue,
    when: Place,
    status: Status_ = None,
    type: Type_ = None,
    tube: Tube = None,
    group: Group_ = None,
    due: Due = False,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List tickets as they were after a record, or at a time."""
    from kharon.cli.tickets import as_of as listed_as_of

    wanted = _filter(status, type, tube, group, limit, due=due)
    listed_as_of(Output(json=json), queue, seq_or_instant(when, "TIME|SEQ", now()), wanted)


@app.command()
def diff(
    queue: Queue,
    a: Annotated[str, typer.Argument(metavar="A", help="From: a time, or a record's seq.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="To: the same, not earlier.", show_default=False)],
    json: Json = False,
) -> None:
    """Say what was added, removed, changed from A to B."""
    from kharon.cli.tickets import told_difference

    present = now()
    told_difference(Output(json=json), queue, seq_or_instant(a, "A", present), seq_or_instant(b, "B", present))


@app.command()
def tubes(queue: Queue, json: Json = False) -> None:
    """List tubes: what is in each, and what is paused or limited."""
    from kharon.cli.tubes import told_tubes

    told_tubes(Output(json=json), queue, now())


@app.command()
def schedules(queue: Queue, json: Json = False) -> None:
    """List what adds tickets again and again: when, next, last."""
    from kharon.cli.tubes import told_schedules

    told_schedules(Output(json=json), queue, now())


@app.command()
def tail(
    queue: Queue,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    after: Annotated[
        int | None, typer.Option(metavar="SEQ", min=0, help="All behind this seq; 0: from the beginning.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="All from this time on.")] = None,
    lines: Annotated[
        int | None, typer.Option("-n", "--lines", metavar="N", min=0, help="Only the last N; default 10.")
    ] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Only this ticket.")] = None,
    event: Annotated[str | None, typer.Option(metavar="EVENT", help="Only this event: failed, TicketFailed, …")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what this worker or person did; or clock.")
    ] = None,
    type: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only about tickets of this type.")] = None,
    tube: Annotated[
        str | None, typer.Option("--tube", metavar="TUBE", help="Only about this tube, or tickets in it.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="GROUP", help="Only about members of this group.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the last records, and those that come.

    A record is about its ticket as it was before and as it is after: one that moves a ticket is about both tubes. One
    about a schedule is about what that adds. --type, --tube and --group hold together, and read the log from its start.
    """
    from kharon.cli.records import Wanted, tailed

    begin = None if since is None else instant(since, "--since", now())
    last = 10 if lines is None and after is None and begin is None else lines
    wanted = Wanted(after=after, since=begin, last=last, id=id, by=by, event=event, type=type, tube=tube, group=group)
    tailed(Output(json=json), queue, wanted, go_on=follow)


@app.command()
def stats(
    queue: Queue,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Count only what came at this time or later.")
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="type|tube|hour", help="One line for each.")] = None,
    json: Json = False,
) -> None:
    """Count events, and measure waits, runs and failures."""
    from kharon.cli.stats import told_stats

    begin = None if since is None else instant(since, "--since", now())
    told_stats(Output(json=json), queue, _by(by), begin)


def _by(text: str | None) -> By | None:
    match text:
        case None | "type" | "tube" | "hour":
            return text
        case _:
            raise Usage(f"--by: {text!r} is none of type, tube, hour")


@app.command()
def verify(
    queue: Queue,
    anchor: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What kharon anchor printed once; - is stdin.")
    ] = None,
    json: Json = False,
) -> None:
    """Prove that the log is what was written."""
    from kharon.cli.verify import verified

    verified(Output(json=json), queue, anchor)


@app.command()
def anchor(queue: Queue, json: Json = False) -> None:
    """Print what verify --anchor needs, to be kept elsewhere."""
    from kharon.cli.verify import anchored

    anchored(Output(json=json), queue)


@app.command()
def export(
    queue: Queue,
    to: Annotated[
        Path, typer.Option(metavar="FILE", help="….parquet, .duckdb, .sqlite, .csv or .jsonl", show_default=False)
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Write all records as a table for other tools."""
    from kharon.cli.verify import exported

    exported(Output(json=json), queue, to, force=force)


@app.command()
def report(
    queue: Queue,
    id: Annotated[
        str | None, typer.Argument(metavar="ID", help="A ticket, for its timeline.", show_default=False)
    ] = None,
    to: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The page, HTML; - is stdout.", show_default=False)
    ] = ...,  # type: ignore[assignment]  # Typer's way to say that it must be given
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Draw the queue over time, or a ticket, as an HTML page."""
    from kharon.cli.report import reported

    reported(Output(json=json), queue, id, to, now(), force=force)


@app.command()
def simulate(
    queue: Queue,
    workers: Annotated[int | None, typer.Option(metavar="N", help="How many workers; default: as recorded.")] = None,
    process_time: Annotated[
        str | None, typer.Option(metavar="DURATION", help="The lease; default: the one recorded most often.")
    ] = None,
    backoff: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION|BASE:MAX[:JITTER]",
            help="A fixed delay (30s), or exponential (2:5m, 1.5:15:2); default: as recorded.",
        ),
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(metavar="N", help="0: no end; default: as recorded, or 25.")
    ] = None,
    json: Json = False,
) -> None:
    """Run what was recorded under other settings, and compare.

    What tickets were told to wait for, and pauses and limits of tubes, hold as recorded. Schedules are left out: the
    tickets that they added are added when they were.
    """
    from kharon.cli.stats import told_simulation

    changes: dict[str, Any] = {}
    if workers is not None:
        changes["workers"] = workers
    if process_time is not None:
        changes["process_time"] = seconds(process_time, "--process-time")
    if backoff is not None:
        changes["backoff"] = _backoff(backoff)
    if max_attempts is not None:
        changes["max_attempts"] = max_attempts or None
    told_simulation(Output(json=json), queue, changes, backoff)


def _backoff(text: str) -> Any:
    from kharon.model.delays import BackoffDelay, FixedDelay

    base, *rest = text.split(":")
    if not rest:
        return FixedDelay(seconds(base, "--backoff"))
    if len(rest) > 2:
        raise Usage(f"--backoff: {text!r} has too many parts; write DURATION, or BASE:MAX, or BASE:MAX:JITTER")
    try:
        number = float(base)
    except ValueError:
        raise Usage(f"--backoff: {base!r} is no number; the base is what the delay grows by, such as 1.5") from None
    most, *jitter = (seconds(part, "--backoff") for part in rest)
    return BackoffDelay(number, most, *jitter)


# --- running one ------------------------------------------------------------------------------------------------------


def run(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    forgiving(sys.stdout)
    forgiving(sys.stderr)
    try:
        code = _run(arguments or ["--help"])
        sys.stdout.flush()
    except (_Gone, BrokenPipeError):
        code = 141
        _let_go()
    except OSError as error:  # the output could not be written
        code = UNABLE
        Output(json="--json" in arguments).refuse(line_of(error), as_json(error))
        _let_go()
    return code


def _let_go() -> None:
    """Give what is left in stdout's buffer somewhere to go when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    output = Output(json="--json" in arguments)
    try:
        code = app(args=arguments, prog_name="kharon", standalone_mode=False)
    except (_Gone, BrokenPipeError):
        raise
    except (KharonError, Usage, OSError, typer.TyperException) as error:
        sys.stdout.flush()
        output.refuse(line_of(error), as_json(error))
        return code_of(error)
    except Exception as error:
        if os.environ.get("KHARON_TRACEBACK"):
            raise
        text = f"{type(error).__name__}: {error}; this is a mistake of Kharon's: KHARON_TRACEBACK=1 shows where"
        output.refuse(text, {"error": "InternalError", "message": text})
        return UNABLE
    return code if isinstance(code, int) else 0
