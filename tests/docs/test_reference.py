"""The pages of the reference are true and complete.

To write anew the parts that are made from the code:

    KHARON_WRITE_EXPECTED=1 python -m pytest tests/docs/test_reference.py
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import attrs
import made
import msgspec
import pytest
from pages import PROJECT

import kharon
import kharon.errors
import kharon.model.events
import kharon.testing
from kharon.model.events import EVENTS

REFERENCE = PROJECT / "docs" / "reference"


def text_of(page: str) -> str:
    return (REFERENCE / page).read_text(encoding="utf-8")


def documented(page: str) -> set[str]:
    """What the directives of Sphinx on a page document, by full name."""
    module, found = "", set()
    for directive, name in re.findall(r"^\.\. ([\w:]+):: ([\w.]+)(?:\(.*\))?$", text_of(page), re.MULTILINE):
        if directive == "currentmodule":
            module = name
        else:
            found.add(name if name.startswith("kharon.") else f"{module}.{name}")
    return found


def assert_made(page: str, make: Callable[[], str]) -> None:
    text = text_of(page)
    now = made.with_part(text, make())
    if os.environ.get("KHARON_WRITE_EXPECTED"):
        (REFERENCE / page).write_text(now, encoding="utf-8")
    assert text == now


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_settings_are_those_of_the_code() -> None:
    assert_made("settings.md", made.settings_part)


def test_the_settings_table_is_true() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(.+?\) \| `(.+?)` \|", text_of("settings.md"), re.MULTILINE)
    defaults = kharon.Settings()
    assert [name for name, _ in rows] == [field.name for field in attrs.fields(kharon.Settings)]
    for name, shown in rows:
        assert getattr(defaults, name) == eval(shown, vars(kharon)), f"the page says that {name} is {shown}"


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_commands_are_those_of_the_code() -> None:
    pytest.importorskip("typer", reason="needs kharon[cli]")
    assert_made("command.md", made.commands_part)


def test_every_command_has_a_heading() -> None:
    pytest.importorskip("typer", reason="needs kharon[cli]")
    shown = re.findall(r"^### kharon ([\w-]+)$", text_of("command.md"), re.MULTILINE)
    assert shown == list(made.commands())
    assert {"ls", "history", "verify"} <= {*shown}


def test_every_variable_of_the_environment_is_told() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (PROJECT / "kharon").rglob("*.py")]
    known = {name for source in sources for name in re.findall(r'"(KHARON_[A-Z]+|NO_COLOR)"', source)}
    assert "KHARON_NOW" in known
    assert {name for name in known if f"| `{name}` |" not in text_of("command.md")} == set()


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_public_name_is_in_the_reference() -> None:
    pages = documented("api.md") | documented("errors.md") | documented("settings.md")
    public = {f"kharon.{name}" for name in kharon.__all__}
    public |= {f"kharon.testing.{name}" for name in kharon.testing.__all__}
    assert public - pages == set()


def test_every_error_says_what_to_do() -> None:
    errors = kharon.errors.__all__
    assert documented("errors.md") == {f"kharon.{name}" for name in errors}
    sections = re.split(r"^### ", text_of("errors.md"), flags=re.MULTILINE)[1:]
    assert {section.split()[0] for section in sections} == {*errors} - {"KharonError"}
    assert [section.split()[0] for section in sections if "**What to do.** " not in section] == []


def test_every_event_with_its_fields_is_in_the_reference() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.*)\|$", text_of("events.md"), re.MULTILINE)
    assert {name: re.findall(r"`(\w+)`", fields) for name, _when, fields in rows} == {
        name: [field.encode_name for field in msgspec.structs.fields(event)] for name, event in EVENTS.items()
    }
    assert [name for name, *_ in rows] == list(EVENTS)
