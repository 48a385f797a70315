"""A planted bug, and how it is put into a copy of the project."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import symtable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Mutant", "Stale", "mutated", "plant"]

_NAMED: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A planted bug.

    Attributes:
        name: words with hyphens between them.
        thought: what a careless engineer would have thought; one sentence.
        file: the file that is changed, relative to the root of the project.
        function: the function, method or class in it that is changed, as in `Class.method`; "" for the whole module.
        before: text that stands there exactly once.
        after: what stands there instead.
        tests: test files, relative to the root, or single tests of a file whose others are slow (`file::test`): one of
            them must fail. The quickest come first.
    """

    name: str
    thought: str
    file: str
    function: str = ""
    before: str
    after: str
    tests: tuple[str, ...]


class Stale(Exception):
    """A mutant does not fit the code, so it would prove nothing."""


def mutated(mutant: Mutant, root: Path) -> str:
    """Return the text of the mutant's file with its bug in it.

    Raises:
        Stale: its function does not exist, or its text does not stand there exactly once, or what comes out is no
            Python, or the same program, or uses a name that nothing has.
    """
    path = root / mutant.file
    if not path.is_file():
        raise Stale(f"{mutant.name}: {mutant.file} does not exist; plant this bug where that code is now")
    source = path.read_text(encoding="utf-8")
    begin, end = _lines_of(mutant, source)
    lines = source.splitlines(keepends=True)
    part = "".join(lines[begin:end])
    if (count := part.count(mutant.before)) != 1:
        raise Stale(
            f"{mutant.name}: its text stands {count} times in {_place(mutant)}, and must once; "
            f"the code has changed, so plant this bug anew:\n{mutant.before}"
        )
    changed = "".join([*lines[:begin], part.replace(mutant.before, mutant.after), *lines[end:]])
    try:
        same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source))
    except SyntaxError as error:
        raise Stale(f"{mutant.name}: {mutant.file} would be no Python ({error}); any test would catch that") from None
    if same:
        raise Stale(f"{mutant.name}: changes nothing in {mutant.file} but its looks")
    if unknown := _unknown(changed) - _unknown(source):
        names = ", ".join(sorted(unknown))
        raise Stale(f"{mutant.name}: nothing in {mutant.file} is called {names}, so any test catches that")
    return changed


def _lines_of(mutant: Mutant, source: str) -> tuple[int, int]:
    """Return where the mutant's function begins and ends, in lines; the whole module has no name."""
    body, begin, end = ast.parse(source).body, 0, source.count("\n") + 1
    for name in filter(None, mutant.function.split(".")):
        found = [node for node in body if isinstance(node, _NAMED) and node.name == name]
        if len(found) != 1:
            raise Stale(f"{mutant.name}: {mutant.file} has {len(found)} of {mutant.function}, and must have one")
        (node,) = found
        body, begin, end = node.body, node.lineno - 1, node.end_lineno or end
    return begin, end


def _place(mutant: Mutant) -> str:
    return f"{mutant.function} of {mutant.file}" if mutant.function else mutant.file


def _unknown(source: str) -> set[str]:
    """Return the global names that a module uses and neither it nor Python has."""
    module = symtable.symtable(source, "", "exec")
    known = {each.get_name() for each in module.get_symbols() if each.is_assigned() or each.is_imported()}
    used, tables = set[str](), [module]
    for table in tables:
        used |= {each.get_name() for each in table.get_symbols() if each.is_global() and each.is_referenced()}
        tables += table.get_children()
    return used - known - set(dir(builtins))


def plant(mutant: Mutant, root: Path) -> None:
    """Put a bug into a copy of the project.

    Raises:
        Stale: as `mutated`.
    """
    path = root / mutant.file
    path.write_text(mutated(mutant, root), encoding="utf-8")
    # Python takes a compiled file of the same second and size for this one's.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
