"""A command's output: data on stdout, messages on stderr, as tables, lines or JSON; and a progress bar.

Every cell and every line that is not JSON passes `safe` here, so that no caller can forget it. Only a terminal without
`NO_COLOR` gets colour, and only a terminal gets tables cut at its edge: output to a pipe or a file is plain and whole.
JSON is ASCII, one object a line.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

import msgspec

from kharon.audit.safe import safe
from kharon.model.checks import ascii_json

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar", "Output", "Styled", "discard", "is_terminal", "open_closed_streams", "replace_unencodable"]

_GAP: Final = "  "
_LEAST: Final = 20  # columns that a table's last cell always gets, wherever the terminal's edge is
_encode = msgspec.json.Encoder().encode


class Styled(str):
    """Text with a style, in Rich's notation, for a terminal."""

    __slots__ = ("style",)
    style: str

    def __new__(cls, text: str, style: str) -> Self:
        """Return the text with its style."""
        self = super().__new__(cls, text)
        self.style = style
        return self


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _may_colour(stream: TextIO) -> bool:
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Output:
    """The output of one command.

    Args:
        json: whether data, and errors, are JSON.
        stdout, stderr: where to write; None: the process's streams.

    Attributes:
        json: as given.
        width: the columns of the terminal; None if stdout is not a terminal.
        charts: whether stdout can encode block characters.
    """

    def __init__(self, *, json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.json = json
        self._out = stdout or sys.stdout
        self._err = stderr or sys.stderr
        self.width = shutil.get_terminal_size().columns if is_terminal(self._out) else None
        self._colour = _may_colour(self._out)
        self.charts = _can_write(self._out, "▁█")

    # --- data ---------------------------------------------------------------------------------------------------------

    def object(self, fields: object) -> None:
        """Write one object as a line of JSON. A `msgspec.Raw` in it must be ASCII JSON."""
        self._out.write(_json_line(fields))

    def line(self, *cells: str) -> None:
        """Write cells on one line, with nothing between them."""
        self._out.write("".join(self._shown(safe(cell), cell) for cell in cells).rstrip() + "\n")

    def page(self, text: str) -> None:
        """Write a whole file in ASCII unchanged. It must be safe already."""
        self._out.write(text)

    def table(
        self, heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), cut: bool = True
    ) -> None:
        """Write rows under heads, with columns aligned; nothing if there are no rows.

        Args:
            heads: the heads of the columns.
            rows: the rows, each with as many cells as there are heads.
            right: the numbers of the columns that are aligned to the right.
            cut: whether the last column is cut at a terminal's edge, with an ellipsis, but not below 20 columns.
                Nothing is cut if stdout is not a terminal.
        """
        self.growing_table(heads, right=right, cut=cut)(rows)

    def growing_table(
        self, heads: Sequence[str], *, right: Iterable[int] = (), cut: bool = True
    ) -> Callable[[Iterable[Sequence[str]]], None]:
        """Return a function that writes a table in pieces. Its columns become wider if needed, and never narrower."""
        widths = [0] * len(heads)
        flush = frozenset(right)
        edge = self.width if cut else None
        headed = not any(heads)

        def write(rows: Iterable[Sequence[str]]) -> None:
            nonlocal headed
            cells = [[(text := safe(cell), _width(text), cell) for cell in row] for row in rows]
            if not cells:
                return
            if not headed:
                cells.insert(0, [(head, _width(head), Styled(head, "bold")) for head in heads])
                headed = True
            for column in range(len(heads)):
                widths[column] = max(widths[column], *(row[column][1] for row in cells), 0)  # the 0: max wants two
            for row in cells:
                self._row(row, widths, flush, edge)

        return write

    def _row(
        self, row: Sequence[tuple[str, int, str]], widths: Sequence[int], right: frozenset[int], edge: int | None
    ) -> None:
        parts = []
        used = 0
        for column, (text, width, cell) in enumerate(row):
            gap = " " * (widths[column] - width)
            last = column == len(row) - 1
            if last and edge is not None and width > (room := max(edge - used, _LEAST)):
                text = _cropped(text, room)  # noqa: PLW2901 - the part that is shown
                gap = ""
            shown = self._shown(text, cell)
            parts.append(gap + shown if column in right else shown + gap)
            used += widths[column] + len(_GAP)
        self._out.write(_GAP.join(parts).rstrip() + "\n")

    def _shown(self, text: str, cell: str) -> str:
        if not self._colour or not isinstance(cell, Styled) or not text:
            return text
        from rich.color import ColorSystem  # noqa: PLC0415 - only where there is colour
        from rich.style import Style  # noqa: PLC0415

        return Style.parse(cell.style).render(text, color_system=ColorSystem.STANDARD)

    def flush(self) -> None:
        """Flush stdout."""
        self._out.flush()

    # --- messages -----------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Write a message to stderr."""
        self._out.flush()
        self._tell(safe(text) + "\n")

    def _tell(self, text: str) -> None:
        """Write to stderr. A message that cannot be written changes neither the data nor the exit code."""
        try:
            self._err.write(text)
            self._err.flush()
        except BrokenPipeError:
            raise
        except OSError:
            discard(self._err)

    def refuse(self, text: str, fields: dict[str, Any]) -> None:
        """Write the error that ends the command to stderr: a line, or with `--json` an object."""
        if self.json:
            self._tell(_json_line(fields))
        else:
            self._tell(f"kharon: {safe(text)}\n")

    def bar(self, what: str, total: int | None = None) -> Bar:
        """Return a progress bar, to be used in a `with`."""
        return Bar(what, total, self._err)


def _json_line(fields: object) -> str:
    """Return an object as a line of JSON in printable ASCII; JSON itself allows a raw DEL."""
    try:
        data = _encode(fields)
    except UnicodeEncodeError:  # a path need not be UTF-8
        data = _encode(_text_only(fields))
    return ascii_json(data).decode("ascii").replace("\x7f", "\\u007f") + "\n"


def _text_only(value: Any) -> Any:
    """Return a value in which lone surrogates, which a file name may have, are escaped for JSON."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _text_only(inner) for key, inner in value.items()}
    return [_text_only(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _width(text: str) -> int:
    """Return how many columns text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - only where there is more than ASCII

    return cell_len(text)


def _cropped(text: str, width: int) -> str:
    """Return the beginning of text and an ellipsis, together in at most so many columns."""
    if text.isascii():
        return text[: width - 1] + "…"
    from rich.cells import set_cell_size  # noqa: PLC0415

    return set_cell_size(text, width - 1).rstrip() + "…"


class Bar:
    """A progress bar on a terminal. It appears after one second, so that short work shows none.

    Args:
        what: the label.
        total: the amount of work; None: unknown.
        stream: where to draw; nothing is drawn if it is not a terminal.
        clock: a monotonic clock, in seconds.
    """

    _PATIENCE: Final = 1.0

    def __init__(
        self, what: str, total: int | None, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._total = total
        self._stream = stream
        self._clock = clock
        self._watched = is_terminal(stream)
        self._begun = clock()
        self._progress: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def update(self, done: int, total: int | None = None) -> None:
        """Set how much has been done, and, if it is known by now, the total. O(1)."""
        if not self._watched or (self._progress is None and self._clock() - self._begun < self._PATIENCE):
            return
        if total is not None:
            self._total = total
        if self._progress is None:
            self._progress = self._start()
        total = None if self._total is None else max(done, self._total)
        self._progress.update(self._task, completed=done, total=total)

    def _start(self) -> Progress:
        from rich.console import Console  # noqa: PLC0415 - only for long work
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        console = Console(file=self._stream, no_color=not _may_colour(self._stream), highlight=False)
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = progress.add_task(self._what, total=self._total)
        progress.start()
        return progress


def discard(stream: TextIO) -> None:
    """Point a stream at /dev/null, so that Python can flush the rest of its buffer when it ends."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def open_closed_streams() -> None:
    """Open the standard streams that were closed when the process began.

    Otherwise a file that is opened later gets the number of one, and what a library prints lands in that file. Input
    is empty; output to stdout fails, as it does for other commands; messages are dropped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number < 2 else os.O_WRONLY)  # gets this number, the lowest free one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def replace_unencodable(stream: TextIO) -> None:
    """Make a stream escape characters that its encoding lacks, rather than raise."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
