"""The extras of Kharon: a test that needs one which is not installed is skipped, and says so.

A test that needs one from its beginning says so by `need`. Of all others Kharon's errors tell: they name the extra.
Where all extras are installed nothing is skipped here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import re
import traceback
import warnings
from collections.abc import Iterator

import pytest

MODULES = {
    "cli": ("typer", "rich"),
    "cron": ("cronsim",),
    "export": ("pyarrow", "duckdb"),
    "http": ("starlette", "hypercorn", "httpx"),
    "zstd": ("compression.zstd | backports.zstd",),
}
_NAMED = re.compile(r"pip install 'kharon\[(\w+)\]'")


def _installed(module: str) -> bool:
    for name in module.split(" | "):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            return True
    return False


MISSING = {extra for extra, modules in MODULES.items() if not all(map(_installed, modules))}


def need(*extras: str) -> None:
    """Skip the test, or the module, if one of these extras is not installed."""
    for extra in extras:
        if extra in MISSING:
            pytest.skip(f"needs an extra: pip install 'kharon[{extra}]'", allow_module_level=True)


@contextlib.contextmanager
def skipping() -> Iterator[None]:
    """Skip a test to which Kharon says that an extra is missing, and let go of what the test had open."""
    try:
        yield
    except BaseException as error:
        named = {extra for each in _all(error) for extra in _NAMED.findall(str(each))}
        if not named & MISSING:
            raise
        with warnings.catch_warnings(action="ignore"):
            for each in _all(error):
                traceback.clear_frames(each.__traceback__)
            gc.collect()
    else:
        return
    need(*sorted(named))


def _all(error: BaseException) -> Iterator[BaseException]:
    """An error, those that it groups, and that which it was raised from."""
    yield error
    for each in (*getattr(error, "exceptions", ()), error.__cause__):
        if each is not None:
            yield from _all(each)
