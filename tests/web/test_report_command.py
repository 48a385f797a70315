"""`kharon report`: the file that it writes, and the one that it does not."""

from __future__ import annotations

import json

import extras
import pytest
import scenario

from kharon.cli import main
from kharon.cli import report as command
from kharon.web.report import report


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("report", …)`: exit code, stdout, stderr."""
    extras.need("cli")
    monkeypatch.setenv("KHARON_NOW", scenario.NOW.isoformat())

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_page_is_written(run, night, tmp_path):
    to = tmp_path / "report.html"
    assert run("report", night, "-o", to) == (0, "", f"{to}: open it in a browser; it needs nothing else\n")
    assert to.read_text() == report(night, now=scenario.NOW)
    assert run("report", night, "sweep", "--output", tmp_path / "sweep.html")[0] == 0
    assert (tmp_path / "sweep.html").read_text() == report(night, "sweep", now=scenario.NOW)
    assert names(tmp_path) == ["report.html", "sweep.html"]


def test_a_page_on_stdout(run, night):
    assert run("report", night, "sweep", "-o", "-") == (0, report(night, "sweep", now=scenario.NOW), "")


def test_as_json(run, night, tmp_path):
    to = tmp_path / "report.html"
    code, out, err = run("report", night, "sweep", "-o", to, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"to": str(to), "id": "sweep", "bytes": to.stat().st_size}


def test_a_file_is_replaced_only_when_told_so(run, night, tmp_path, monkeypatch):
    to = tmp_path / "report.html"
    to.write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(command, "report", None)  # refused before the log is read
        code, out, err = run("report", night, "-o", to)
    assert (code, out) == (2, "")
    assert err == f"kharon: -o: {to} exists; name another file, or give --force to replace it\n"
    assert to.read_text() == "mine"
    assert run("report", night, "-o", to, "--force")[0] == 0
    assert to.read_text().startswith("<!doctype html>")
    assert names(tmp_path) == ["report.html"]


def test_a_file_that_comes_meanwhile_is_not_replaced(run, night, tmp_path, monkeypatch):
    to = tmp_path / "report.html"

    def meanwhile(*_arguments, **_more):
        to.write_text("mine")
        return "page"

    monkeypatch.setattr(command, "report", meanwhile)
    code, _, err = run("report", night, "-o", to)
    assert (code, err.endswith("give --force to replace it\n"), to.read_text()) == (2, True, "mine")
    assert names(tmp_path) == ["report.html"]


def test_a_disk_that_is_full_leaves_what_was_there(run, night, tmp_path, monkeypatch):
    to = tmp_path / "report.html"
    to.write_text("mine")
    monkeypatch.setattr(command, "report", lambda *_a, **_m: "\u00e9")  # cannot be written as ASCII: fails half way
    assert run("report", night, "-o", to, "--force")[0] == 2
    assert (to.read_text(), names(tmp_path)) == ("mine", ["report.html"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nobody", "-o", "{}/a.html"], 1, "there is no record of it"),
        ([], 2, "Missing option '-o' / '--output'"),
        (["-o", "{}"], 2, "is a directory; name a file in it"),
        (["-o", "{}/no/where.html"], 2, "there is no directory"),
        (["-o", "-", "--json"], 2, "name a file, or leave --json out"),
    ],
)
def test_what_cannot_be(run, night, tmp_path, arguments, code, says):
    found = run("report", night, *(argument.format(tmp_path) for argument in arguments))
    assert (found[0], found[1]) == (code, "")
    assert says in found[2]
    assert found[2].count("\n") == 1
    assert names(tmp_path) == []
