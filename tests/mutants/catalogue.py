"""All planted bugs. A new part of Kharon gets a module of its own beside these, and its line here."""

from __future__ import annotations

from typing import Final

from . import blocks, history, model, reading, recovery, runtime, store, writing
from .mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS: Final[tuple[Mutant, ...]] = (
    *writing.MUTANTS,
    *reading.MUTANTS,
    *recovery.MUTANTS,
    *history.MUTANTS,
    *store.MUTANTS,
    *model.MUTANTS,
    *runtime.MUTANTS,
    *blocks.MUTANTS,
)
