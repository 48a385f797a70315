"""All planted bugs. A new part of Kharon gets a module of its own beside these, and its line here."""

from __future__ import annotations

from typing import Final

from . import audit, history, model, reading, recovery, runtime, schedules, store, tubes, waiting, writing
from .mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS: Final[tuple[Mutant, ...]] = (
    *writing.MUTANTS,
    *reading.MUTANTS,
    *recovery.MUTANTS,
    *history.MUTANTS,
    *audit.MUTANTS,
    *store.MUTANTS,
    *model.MUTANTS,
    *waiting.MUTANTS,
    *runtime.MUTANTS,
    *schedules.MUTANTS,
    *tubes.MUTANTS,
)
