"""Makes the parts of the reference that come from the code: the settings, and the commands with their options.

A page has such a part between two comments, `BEGIN` and `END`. `test_reference.py` proves that it is what is made here.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import attrs

import kharon

BEGIN = "<!-- made by tests/docs/made.py -->\n"
END = "<!-- end -->\n"


def with_part(page: str, part: str) -> str:
    """The text of a page with another part between the comments."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, "the page has no such part"
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


# --- settings ---------------------------------------------------------------------------------------------------------


def settings_part() -> str:
    """A table of all settings with their defaults and units, and a section on each, by the docstring of `Settings`."""
    entries = _attributes(inspect.getdoc(kharon.Settings) or "")
    heading_of = {name: names for names, _ in entries for name in names.split(", ")}
    lines = ["| setting | default | unit |", "|---|---|---|"]
    for field in attrs.fields(kharon.Settings):
        slug = heading_of[field.name].replace(", ", "-")
        lines.append(f"| [`{field.name}`](#{slug}) | {_default(field.name)} | {_unit(field)} |")
    for names, meaning in entries:
        text = textwrap.fill(meaning[0].upper() + meaning[1:], 120, break_long_words=False, break_on_hyphens=False)
        lines += ["", f"## {names}", "", text]
    return "\n".join(lines) + "\n"


def _attributes(docstring: str) -> list[tuple[str, str]]:
    """The entries of the section `Attributes:`, each with its name, or its names."""
    section = docstring.partition("\nAttributes:\n")[2].partition("\n\n")[0]
    found = []
    for entry in re.split(r"\n(?=    \w)", "\n" + section)[1:]:
        names, _, meaning = entry.partition(":")
        found.append((names.strip(), " ".join(meaning.split())))
    return found


def _default(name: str) -> str:
    value = getattr(kharon.Settings(), name)
    if name.endswith("_bytes") and value is not None:
        return f"`{value >> 20} * 2**20`"
    if isinstance(value, kharon.BackoffDelay):
        assert value == kharon.BackoffDelay()
        return "`BackoffDelay()`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return "`(" + "".join(f'"{each}",' for each in value) + ")`"
    return f"`{int(value):_}`" if isinstance(value, float) and value.is_integer() else f"`{value!r}`"


def _unit(field: attrs.Attribute[Any]) -> str:
    """What a number of this setting counts; nothing where its meaning says it."""
    if field.name.endswith("_bytes"):
        return "bytes"
    return "seconds" if "float" in str(field.type) or field.name == "fsync" else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# --- commands ---------------------------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Typer's commands by name."""
    from typer.main import get_command  # noqa: PLC0415 - it is an extra

    from kharon.cli.app import app  # noqa: PLC0415

    return dict(get_command(app).commands)  # type: ignore[attr-defined]


def commands_part() -> str:
    """Every command with its arguments and options, by its help."""
    return "\n".join(_command(name, command) for name, command in commands().items())


def _command(name: str, command: Any) -> str:
    arguments = [each for each in command.params if not each.opts[0].startswith("-")]
    options = [each for each in command.params if each.opts[0].startswith("-")]
    usage = " ".join(each.metavar if each.required else f"[{each.metavar}]" for each in arguments)
    needed = "".join(f" {each.opts[0]} {each.metavar}" for each in options if each.required)
    rows = [(each.metavar, each.help) for each in arguments]
    rows += [(", ".join(each.opts) + (f" {each.metavar}" if each.metavar else ""), each.help) for each in options]
    return "\n".join(
        [
            f"### kharon {name}",
            "",
            f"`kharon {name} {usage}{needed} [OPTIONS]`",
            "",
            inspect.cleandoc(command.help),
            "",
            "| argument or option | meaning |",
            "|---|---|",
            *(f"| `{_cell(what)}` | {_cell(meaning)} |" for what, meaning in rows),
            "",
        ]
    )
