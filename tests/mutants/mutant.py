"""A planted bug, and how it is put into a copy of the project."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import symtable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutant", "Stale", "mutated", "plant"]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A planted bug.

    Attributes:
        name: words with hyphens between them.
        thought: what a careless engineer would have thought; one sentence.
        file: the file that is changed, relative to the root of the project.
        before: text that stands in it exactly once.
        after: what stands there instead.
        tests: test files, relative to the root, or single tests of a file whose others are slow (`file::test`): one of
            them must fail. The quickest come first.
    """

    name: str
    thought: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


class Stale(Exception):
    """A mutant does not fit the code, so it would prove nothing."""


def mutated(mutant: Mutant, root: Path) -> str:
    """Return the text of the mutant's file with its bug in it.

    Raises:
        Stale: its text does not stand there exactly once, or what comes out is no Python, or the same program, or uses
            a name that nothing has.
    """
    path = root / mutant.file
    if not path.is_file():
        raise Stale(f"{mutant.name}: {mutant.file} does not exist; plant this bug where that code is now")
    source = path.read_text(encoding="utf-8")
    count = source.count(mutant.before)
    if count != 1:
        raise Stale(
            f"{mutant.name}: its text stands {count} times in {mutant.file}, and must once; the code has changed, so "
            f"plant this bug anew:\n{mutant.before}"
        )
    changed = source.replace(mutant.before, mutant.after)
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
