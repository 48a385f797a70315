"""Files that commands make: each appears under its name when it is complete, and replaces no other by mistake."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_target"]


def write_target(to: Path, write: Callable[[Path], None], *, force: bool) -> None:
    """Write a temporary file beside the target and rename it, so that the target is never incomplete.

    Args:
        to: the target.
        write: writes the file whose path it is given.
        force: whether to replace an existing file.

    Raises:
        FileExistsError: the target exists, and `force` is not set.
        OSError: it cannot be written. An existing file is unchanged.
    """
    temporary = to.with_name(
        f".kharon-{uuid.uuid4().hex[:8]}.tmp"
    )  # short: the target's name may be as long as allowed
    try:
        write(temporary)
        if force:
            temporary.replace(to)
        else:
            _rename(temporary, to)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _rename(temporary: Path, to: Path) -> None:
    """Give a file its name, unless there is one of that name."""
    try:
        os.link(temporary, to)  # unlike a rename, it never replaces a file that was created meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first
        os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            temporary.replace(to)
        except BaseException:
            to.unlink()
            raise
