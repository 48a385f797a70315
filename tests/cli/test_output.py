"""Tables, colour, the bar, and where each goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from running import Stream

from kharon.cli import main
from kharon.cli.output import Bar, Output, Styled

PROJECT = Path(__file__).parents[2]


def written(*rows, terminal=False, right=(), heads=("a", "", "text"), **more):
    stream = Stream(terminal=terminal, **more)
    Output(json=False, stdout=stream, stderr=stream).table(heads, rows, right=right)
    return stream.text().splitlines()


def test_columns_are_aligned():
    assert written(("1", "xx", "one"), ("333", "", "three")) == ["a        text", "1    xx  one", "333      three"]
    assert written(("1", "xx", "one"), ("333", "", ""), right=[0]) == ["  a      text", "  1  xx  one", "333"]


def test_wide_characters_take_two_columns():
    assert written(("日本", "x", "one"), ("abc", "y", "two")) == ["a        text", "日本  x  one", "abc   y  two"]


def test_no_rows_no_heads():
    assert written() == []
    assert written(("x", "y", "z"), heads=("", "", "")) == ["x  y  z"]


def test_a_table_that_grows():
    stream = Stream()
    write = Output(json=False, stdout=stream, stderr=stream).growing_table(("id", "what"))
    for rows in ([("a", "one")], [], [("long-id", "two")], [("b", "three")]):
        write(rows)
    assert stream.text().splitlines() == ["id  what", "a   one", "long-id  two", "b        three"]


def test_only_a_terminal_cuts(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    long = "x" * 500
    assert written(("1", "2", long)) == ["a     text", f"1  2  {long}"]
    assert written(("1", "2", long), terminal=True) == ["a     text", f"1  2  {'x' * 33}…"]
    assert written(("1", "2", "日本語" * 9), terminal=True) == ["a     text", f"1  2  {'日本語' * 5}日…"]
    assert written(("1", "2", "x" * 34), terminal=True) == ["a     text", f"1  2  {'x' * 34}"]
    assert len(written(("1", "2", "日" * 17), terminal=True)[1]) == 23


def test_of_what_happened_something_is_shown_in_the_narrowest_terminal(monkeypatch):
    """A line that goes on in the next one is better than a table that does not say it."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    assert written(("1" * 30, "2", "x" * 21), terminal=True)[1] == f"{'1' * 30}  2  {'x' * 19}…"
    assert written(("1" * 30, "2", "failed: 129,459.8"), terminal=True)[1] == f"{'1' * 30}  2  failed: 129,459.8"


def test_one_ticket_is_shown_whole(kharon, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    for command in ("show", "why"):
        assert (
            kharon(command, "queue", "invoice-1042", terminal=True).out == kharon(command, "queue", "invoice-1042").out
        )
    assert "…" in kharon("ls", "queue", terminal=True).out


@pytest.mark.parametrize(
    ("environment", "terminal", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"FORCE_COLOR": "1"}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm-256color"}, True, True),
    ],
)
def test_colour(monkeypatch, environment, terminal, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (head, row) = written(("1", "2", Styled("failed", "red")), terminal=terminal)
    assert (row == "1  2  \x1b[31mfailed\x1b[0m") is coloured
    assert ("\x1b[1m" in head) is coloured
    assert coloured or row == "1  2  failed"


def test_colour_does_not_count_as_width(monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    rows = written((Styled("ab", "red"), "x", "one"), ("abcd", "y", Styled("", "red")), terminal=True)
    assert rows[1:] == ["\x1b[31mab\x1b[0m    x  one", "abcd  y"]


def test_what_the_encoding_does_not_know_is_escaped(run, tmp_path):
    ran = run("ls", tmp_path / "größe", encoding="ascii")
    assert "gr\\xf6\\xdfe does not exist" in ran.err


def test_charts_are_ascii_where_blocks_cannot_be_written(kharon):
    plain = kharon("stats", "queue", encoding="ascii")
    assert (plain.code, plain.out.isascii()) == (0, True)
    assert "@" in plain.out.splitlines()[-3]
    assert "█" in kharon("stats", "queue").out
    assert "####" in kharon("stats", "queue", "--by", "tube", encoding="ascii").out


# --- the bar ----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def bar(seconds, *, terminal=True, total=10_000, done=5000):
    """What is drawn when so much has been done after so many seconds."""
    clock, stream = Clock(), Stream(terminal=terminal)
    with Bar("reading", total, stream, clock) as drawn:
        clock.now = seconds
        drawn.update(done)
        drawn.update(done + 1)
    return stream.text()


def test_nobody_sees_a_bar_who_does_not_wait(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert bar(0.9) == ""
    assert bar(99, terminal=False) == ""


def test_who_waits_sees_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    drawn = bar(1.0)
    assert "reading" in drawn
    assert "50 %" in drawn
    assert drawn.endswith("\x1b[2K"), "it is gone when the work is done"


def test_a_total_that_was_too_small_is_corrected(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert "100 %" in bar(1.0, total=10, done=20)


def test_a_total_that_is_not_known(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    clock, stream = Clock(), Stream(terminal=True)
    with Bar("simulating", None, stream, clock) as drawn:
        clock.now = 2
        drawn.update(1)
        drawn.update(50, 100)
    assert "simulating" in stream.text()
    assert "50 %" in stream.text()


def test_a_bar_has_no_colour_where_there_is_to_be_none(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in bar(1.0)


def test_reading_a_queue_moves_the_bar(at_home, queue_of_a_night):
    """The bytes that are read are the bytes that there are, compressed and archived ones too."""
    from kharon.cli import queues  # noqa: PLC0415

    at_home.setattr(Bar, "_PATIENCE", -1.0)
    at_home.setenv("TERM", "xterm")
    told = []
    at_home.setattr(Bar, "update", lambda _self, done, _total=None: told.append(done))
    out = Output(json=False, stdout=Stream(), stderr=Stream(terminal=True))
    queues.state_of_queue(out, queue_of_a_night)
    assert told == sorted(told)
    assert told[-1] == queues.size_of(queue_of_a_night) > 50_000
    assert queues.size_of(queue_of_a_night / "nowhere") == 0


# --- starting ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
sys.modules.update(dict.fromkeys({missing!r}))
from kharon.cli import main
code = main({arguments!r})
print(code, sorted(set({names!r}) & set(sys.modules)), file=sys.stderr)
"""


def started(arguments, *, missing=(), names=("trio", "kharon._face", "kharon.runtime", "kharon.log", "rich.console")):
    program = PROGRAM.format(
        arguments=[str(argument) for argument in arguments], missing=list(missing), names=list(names)
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(PROJECT), "COLUMNS": "80"},
    )


def test_help_imports_nothing_that_it_does_not_need():
    ran = started(["--help"])
    assert ran.stdout.startswith("Usage: kharon")
    assert ran.stderr == "0 []\n"
    assert started([]).stdout == ran.stdout


def test_looking_needs_no_trio(queue_of_a_night):
    ran = started(["ls", queue_of_a_night, "--json"])
    assert ran.stderr == "0 ['kharon.log']\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_how_to_install_it(missing):
    ran = started(["ls", "queue"], missing=[missing])
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == [
        "kharon: the command needs Typer and Rich, which come with an extra: pip install 'kharon[cli]'",
        "2 []",
    ]


def test_another_missing_module_is_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, "kharon.cli.app", None)
    with pytest.raises(ModuleNotFoundError, match=r"kharon\.cli\.app"):
        main(["--help"])


def test_python_dash_m(queue_of_a_night):
    command = [sys.executable, "-m", "kharon", "anchor", str(queue_of_a_night)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(PROJECT)})
    assert ran.stdout.startswith("kharon-anchor ")
    assert ran.stderr == ""


def test_the_entry_point_is_declared():
    import tomllib  # noqa: PLC0415

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"kharon": "kharon.cli:main"}
    extras = project["optional-dependencies"]
    assert {"cli", "export"} <= extras.keys()
    assert any("kharon[" in line and "cli" in line and "export" in line for line in extras["test"])


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_mistake_of_ours_is_one_line_too(kharon, monkeypatch):
    from kharon.cli import tickets  # noqa: PLC0415

    monkeypatch.setattr(tickets, "print_tickets", lambda *_: 1 / 0)
    ran = kharon("ls", "queue")
    assert (ran.code, ran.out) == (2, "")
    mistake = "this is a bug in Kharon: KHARON_TRACEBACK=1 shows the traceback"
    assert ran.err == f"kharon: ZeroDivisionError: division by zero; {mistake}\n"
    assert '"error":"InternalError"' in kharon("ls", "queue", "--json").err
    monkeypatch.setenv("KHARON_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        kharon("ls", "queue")


def test_what_cannot_be_read_is_one_line(run, tmp_path, monkeypatch):
    from kharon.cli import tickets  # noqa: PLC0415

    def refused(*_):
        raise PermissionError(13, "Permission denied", "queue/log")

    monkeypatch.setattr(tickets, "print_tickets", refused)
    ran = run("ls", tmp_path)
    assert (ran.code, ran.err) == (2, "kharon: queue/log: Permission denied\n")
