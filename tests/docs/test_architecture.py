"""The tree on the page about the architecture names every module of the inner rings and of the audit, and no other."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "explanation" / "architecture.md"
PACKAGE = re.compile(r"^      (\w+)/ ")
MODULES = re.compile(r"^        (\w+(?: \w+)*)(?:  |$)")


def tree(text: str) -> dict[str, set[str]]:
    """By a package's name, the modules that the page's tree gives it; those of which it names none are left out."""
    found: dict[str, set[str]] = {}
    package = ""
    for line in text.split("## The tree\n")[1].split("\n## ", maxsplit=1)[0].splitlines():
        if opened := PACKAGE.match(line):
            package = opened[1]
        elif named := MODULES.match(line):
            found.setdefault(package, set()).update(named[1].split())
    return found


def test_the_tree_names_every_module_and_no_other() -> None:
    shown = tree(PAGE.read_text(encoding="utf-8"))
    assert {"model", "log", "store", "runtime", "audit"} == shown.keys()
    for package, modules in shown.items():
        paths = (PROJECT / "kharon" / package).glob("*.py")
        assert {package: modules} == {package: {path.stem for path in paths if path.stem != "__init__"}}
