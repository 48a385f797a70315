"""Where a command's output goes: data to stdout, talk to stderr; tables, lines, JSON, and a bar where somebody waits.

Every cell and every line that is not JSON passes `safe` in here, so no caller can forget it. Colour is for a terminal
without `NO_COLOR`, and so is cutting a table at the terminal's edge: what goes into a pipe or a file is plain and
whole. JSON is ASCII, one object a line.
"""

from __future__ import annotations

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

__all__ = ["Bar", "Output", "Styled", "forgiving", "is_terminal"]

_GAP: Final = "  "
_LEAST: Final = 20  # columns of a table's last cell, which says what happened, wherever the terminal's edge is
_encode = msgspec.json.Encoder().encode


class Styled(str):
    """Text, and the style (in Rich's words) that it has on a terminal."""

    __slots__ = ("style",)
    style: str

    def __new__(cls, text: str, style: str) -> Self:
        """Return the text with its style."""
        self = super().__new__(cls, text)
        self.style = style
        return self


def is_terminal(stream: TextIO) -> bool:
    """Return whether a person looks at a stream."""
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
        stdout, stderr: where to write; None: the process's.

    Attributes:
        json: as given.
        width: how many columns the terminal has; None if stdout is none.
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
        """Write one object as a line of JSON. `msgspec.Raw` inside of it is taken to be ASCII JSON already."""
        self._out.write(_json_line(fields))

    def line(self, *cells: str) -> None:
        """Write one line of cells without anything between them."""
        self._out.write("".join(self._shown(safe(cell), cell) for cell in cells).rstrip() + "\n")

    def page(self, text: str) -> None:
        """Write a whole file that is ASCII, as it is: it is meant for a file or a program, and makes itself safe."""
        self._out.write(text)

    def table(
        self, heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), cut: bool = True
    ) -> None:
        """Write rows under heads, columns aligned; nothing at all if there is no row.

        Args:
            heads: of the columns.
            rows: of as many cells each.
            right: the numbers of the columns that are aligned to the right.
            cut: whether the last column ends at a terminal's edge, with an ellipsis, or 20 columns behind its beginning
                if there is no room for more; elsewhere nothing is ever cut.
        """
        self.growing(heads, right=right, cut=cut)(rows)

    def growing(
        self, heads: Sequence[str], *, right: Iterable[int] = (), cut: bool = True
    ) -> Callable[[Iterable[Sequence[str]]], None]:
        """Return what writes a table piece by piece: the columns become wider where they must, and never narrower."""
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
                text = _cropped(text, room)  # noqa: PLW2901 - what is shown of it
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
        """Let what was written be read."""
        self._out.flush()

    # --- talk ---------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Say something to the person at the terminal."""
        self._out.flush()
        self._err.write(safe(text) + "\n")
        self._err.flush()

    def refuse(self, text: str, fields: dict[str, Any]) -> None:
        """Say why the command ends without doing its work: a line, or with `--json` an object."""
        if self.json:
            self._err.write(_json_line(_text_only(fields)))
        else:
            self._err.write(f"kharon: {safe(text)}\n")
        self._err.flush()

    def bar(self, what: str, total: int | None = None) -> Bar:
        """Return a bar for work that may take long: use it in a `with`."""
        return Bar(what, total, self._err)


def _json_line(fields: object) -> str:
    """Return an object as a line in which nothing is raw: JSON lets DEL stand, a terminal should not have it."""
    return ascii_json(_encode(fields)).decode("ascii").replace("\x7f", "\\u007f") + "\n"


def _text_only(value: Any) -> Any:
    """Replace lone surrogates (of a file's name) by what JSON can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return {key: _text_only(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _width(text: str) -> int:
    """Return how many columns of a terminal text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - only where there is more than ASCII

    return cell_len(text)


def _cropped(text: str, width: int) -> str:
    """Return as much of the beginning of text that is wider as goes into so many columns together with an ellipsis."""
    if text.isascii():
        return text[: width - 1] + "…"
    from rich.cells import set_cell_size  # noqa: PLC0415

    return set_cell_size(text, width - 1).rstrip() + "…"


class Bar:
    """How far long work has come: nothing at first, a bar on stderr once a person at a terminal has waited a second.

    Args:
        what: what is being done.
        total: how much there is to do; None: unknown.
        stream: where to draw; nothing is drawn if it is no terminal.
        clock: seconds that only grow.
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

    def at(self, done: int, total: int | None = None) -> None:
        """Say how much has been done, and, if that is known by now, how much there is to do. O(1)."""
        if not self._watched or (self._progress is None and self._clock() - self._begun < self._PATIENCE):
            return
        if total is not None:
            self._total = total
        if self._progress is None:
            self._progress = self._start()
        total = None if self._total is None else max(done, self._total)
        self._progress.update(self._task, completed=done, total=total)

    def _start(self) -> Progress:
        from rich.console import Console  # noqa: PLC0415 - only if somebody has to wait
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


def forgiving(stream: TextIO) -> None:
    """Let a stream replace what its encoding does not know, rather than raise."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
