"""The pages of the reference are true and complete."""

from __future__ import annotations

import re

import attrs
from pages import PROJECT

import kharon

REFERENCE = PROJECT / "docs" / "reference"


def test_the_settings_table_is_true() -> None:
    table = (REFERENCE / "settings.md").read_text(encoding="utf-8").split("| setting | default |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE)
    defaults = kharon.Settings()
    assert [name for name, _ in rows] == [field.name for field in attrs.fields(kharon.Settings)]
    for name, shown in rows:
        value = eval(shown.strip("`").replace(" ", ""), vars(kharon))
        assert getattr(defaults, name) == value, f"the page says that {name} is {shown}"
