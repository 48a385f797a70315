"""Sphinx builds the pages without a warning: every link leads somewhere, and every docstring is well formed."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PROJECT

import kharon
import kharon.testing
from kharon.runtime.atomic import Atomic
from kharon.runtime.waits import Group

for package in ("sphinx", "furo", "myst_parser", "sphinxcontrib_trio"):
    pytest.importorskip(package, reason="needs kharon[docs]")

METHODS = (kharon.Kharon, Atomic, Group, kharon.RecordStream, kharon.Follower)
"""Classes of which every public method and property is for users."""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("built")
    options = ["-q", "-W", "-n", "--keep-going", "-d", str(where / "doctrees")]
    ran = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(PROJECT / "docs"), str(where / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return where / "html"


def name_of(cls: type) -> str:
    """How the reference calls a class."""
    return f"kharon.{cls.__name__}" if cls.__name__ in kharon.__all__ else f"{cls.__module__}.{cls.__name__}"


def test_every_public_name_and_method_has_an_entry(built: Path) -> None:
    from sphinx.util.inventory import InventoryFile  # noqa: PLC0415 - it is an extra

    with (built / "objects.inv").open("rb") as file:
        objects = InventoryFile.load(file, "", lambda _base, path: path)
    entries = {name for kind, named in objects.items() if kind.startswith("py:") for name in named}
    names = {f"{module.__name__}.{name}" for module in (kharon, kharon.testing) for name in module.__all__}
    names |= {f"{name_of(cls)}.{name}" for cls in METHODS for name in dir(cls) if not name.startswith("_")}
    assert "kharon.Kharon.add" in names
    assert names - entries == set()


def test_the_verbs_of_a_queue_are_awaited_and_those_of_a_block_are_not(built: Path) -> None:
    page = html.unescape(re.sub(r"<[^>]+>", "", (built / "reference" / "api.html").read_text(encoding="utf-8")))
    for name in (name for name in dir(Atomic) if not name.startswith("_")):
        assert re.findall(rf"^((?:await )?){name}\(.* → ", page, re.MULTILINE) == ["await ", ""]
    assert re.findall(r"^((?:await )?restart\(id: str\) → \w+)", page, re.MULTILINE) == [
        "await restart(id: str) → Ticket",
        "restart(id: str) → None",
    ]
