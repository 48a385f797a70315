"""The planted bugs fit the code as it is, and the program that runs them does not call anything caught that is not.

Whether the tests catch them is for `python -m tests.mutants` to say; here none of them is run.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from mutants import __main__ as program
from mutants.catalogue import MUTANTS
from mutants.mutant import Mutant, Stale, mutated

ROOT = Path(__file__).parents[1]
main = partial(program.main, plugins=())  # those that Kharon's tests need take most of a second to load
THING = "def double(number):\n    return number * 2\n\n\ndef nothing():\n    return None\n"
TESTS = """\
from kharon.thing import double, nothing


def test_one():
    assert double(1) == 2


def test_nothing():
    nothing()
"""


# --- the catalogue ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_fits_the_code(mutant):
    mutated(mutant, ROOT)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_says_what_it_is_and_who_should_catch_it(mutant):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", mutant.name)
    assert re.fullmatch(r"[A-Z].*[^.]\.", mutant.thought)
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file()
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_each_is_planted_once(record_property):
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.function, mutant.before, mutant.after) for mutant in MUTANTS}) == len(MUTANTS)
    record_property("planted_bugs", len(MUTANTS))
    assert len(MUTANTS) >= 25


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """A project of one file and one file of tests."""
    root = tmp_path / "project"
    for folder in ("kharon", "tests"):
        (root / folder).mkdir(parents=True)
    (root / "kharon" / "__init__.py").touch()
    (root / "kharon" / "thing.py").write_text(THING)
    (root / "tests" / "test_thing.py").write_text(TESTS)
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    return root


def bug(name: str, before: str = "number * 2", after: str = "number * 3", function: str = "") -> Mutant:
    file, tests = "kharon/thing.py", ("tests/test_thing.py",)
    return Mutant(name=name, thought="Why not.", file=file, function=function, before=before, after=after, tests=tests)


CAUGHT = bug("caught")
SURVIVES = bug("survives", "return None", "return 0")


def test_all_caught(root, capsys):
    assert main([], [CAUGHT, bug("other", "* 2", "+ 2")], root) == 0
    said = capsys.readouterr().out
    assert re.search(r"^caught +\d+\.\d s  caught  tests/test_thing\.py::test_one$", said, re.MULTILINE)
    assert re.search(r"^2 of 2 planted bugs were caught, in \d+ s and \d+ s of processor time$", said, re.MULTILINE)
    assert (root / "kharon" / "thing.py").read_text() == THING


def test_a_text_that_stands_twice_is_told_apart_by_its_function(root, capsys):
    assert main([], [bug("named", "return", "return 1 +", "double")], root) == 0
    assert "1 of 1 planted bugs were caught" in capsys.readouterr().out


def test_a_survivor_fails_the_run(root, capsys):
    assert main(["--jobs", "1"], [SURVIVES, CAUGHT], root) == 1
    said = capsys.readouterr().out
    assert re.search(r"^SURVIVED .* survives\n +kharon/thing\.py: Why not\.$", said, re.MULTILINE)
    assert "1 of 2 planted bugs were caught" in said


def test_a_hang_is_no_catch(root, capsys):
    """It may be the machine; and it costs each run as long as the limit: a test that can hang has one of its own."""
    hanging = bug("hangs", "return number * 2", "while number:\n        pass")
    assert main([], [hanging], root, limit_seconds=0.5) == 1
    said = capsys.readouterr().out
    assert re.search(r"^HANGS .* hangs  it never ends$", said, re.MULTILINE)
    assert "0 of 1 planted bugs were caught" in said


@pytest.mark.parametrize("after", ["number * 2\n\n\nimport nonsense", "number * 2\n\n\n__import__('os')._exit(1)"])
def test_what_breaks_everything_is_no_catch(root, capsys, after):
    assert main([], [bug("broken", "number * 2", after), CAUGHT], root) == 2
    said = capsys.readouterr().out
    assert re.search(r"^ERROR .* broken", said, re.MULTILINE)
    assert "1 of 2 planted bugs were caught" in said


@pytest.mark.parametrize(
    ("mutant", "why"),
    [
        (bug("gone", "number * 7"), "stands 0 times"),
        (bug("twice", "return"), "stands 2 times"),
        (bug("elsewhere", function="nothing"), "stands 0 times in nothing of kharon/thing.py"),
        (bug("nowhere", function="triple"), "has 0 of triple"),
        (bug("no-method", function="double.half"), "has 0 of double.half"),
        (bug("nonsense", after="number *"), "no Python"),
        (bug("same", after="(number * 2)  # twice"), "changes nothing"),
        (bug("unheard", after="number * TWO"), "is called TWO"),
    ],
)
def test_a_bug_that_does_not_fit_is_an_error_before_anything_is_run(root, capsys, mutant, why):
    assert main([], [CAUGHT, mutant], root) == 2
    said = capsys.readouterr().out
    assert re.fullmatch(rf"ERROR +{mutant.name}: [\s\S]*{why}[\s\S]*", said)
    assert "green" not in said
    with pytest.raises(Stale, match=why):
        mutated(mutant, root)


def test_a_file_that_is_gone(root, capsys):
    (root / "kharon" / "thing.py").unlink()
    assert main([], [CAUGHT], root) == 2
    assert "kharon/thing.py does not exist" in capsys.readouterr().out


def test_nothing_is_planted_while_the_tests_fail_anyway(root, capsys):
    (root / "tests" / "test_thing.py").write_text(TESTS.replace("== 2", "== 5"))
    assert main([], [CAUGHT], root) == 2
    said = capsys.readouterr().out
    assert "assert 2 == 5" in said
    assert "must be green before any bug is planted" in said
    assert "planted bugs were caught" not in said


def test_some_of_them(root, capsys):
    assert main(["-k", "aug"], [CAUGHT, SURVIVES], root) == 0
    assert main(["-k", "nobody"], [CAUGHT, SURVIVES], root) == 2
    assert "no planted bug has 'nobody' in its name" in capsys.readouterr().out


def test_the_list(root, capsys):
    assert main(["--list"], [CAUGHT, SURVIVES], root) == 0
    assert capsys.readouterr().out.splitlines() == [
        "caught",
        "    kharon/thing.py: Why not.",
        "survives",
        "    kharon/thing.py: Why not.",
        "2 planted bugs",
    ]
