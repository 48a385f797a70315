"""The reserve: a file that holds disk space, and gives it up for settling when the disk is full.

It is given up piece by piece, since any program may take the freed space: one that fills the disk gets at most a piece
at a time. A reserve that is lost in a crash is made again, so it is never synced.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from kharon.log.files import File, Files, naming

__all__ = ["NO_ROOM", "RESERVE", "Reserve"]

RESERVE: Final = "reserve"
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
_PIECE: Final = 64 << 10  # bytes: 200 plain settles; 16 blocks of 4 KiB, so that the tail's own rounding fits in


class Reserve:
    """The reserve of one queue.

    Args:
        files: the file system.
        path: the file.
        size: how many bytes it should hold; 0: there is no reserve.

    Attributes:
        left: how many bytes it holds.
    """

    def __init__(self, files: Files, path: Path, size: int) -> None:
        self._files = files
        self._path = path
        self._size = size
        self.left = 0

    @property
    def whole(self) -> bool:
        """Whether it holds all of its bytes."""
        return self.left >= self._size

    def fill(self) -> bool:
        """Allocate the missing bytes; return whether the reserve is whole.

        Without room, or without a free descriptor, it is unchanged.

        Raises:
            OSError: the disk fails in another way.

        Cost: O(1) if the file system can allocate, else O(size).
        """
        if self.whole:
            return True
        there = self._files.permissions(self._path) is not None
        try:
            file = self._files.append(self._path) if there else self._files.create(self._path)
        except OSError as error:
            if error.errno in NO_ROOM | _NO_DESCRIPTOR:
                return False
            raise
        try:
            with naming(self._path):
                self._allocate(file)
        finally:
            file.close()
        return self.whole

    def _allocate(self, file: File) -> None:
        self.left = file.size()
        try:
            file.allocate(self._size)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            file.truncate(self.left)
        else:
            self.left = self._size

    def give_up(self, size: int) -> bool:
        """Free room for `size` bytes and a little more, or all that is left; return whether any was freed.

        Without a free descriptor none is.

        Raises:
            OSError: the disk fails.
        """
        if not self.left:
            return False
        try:
            file = self._files.append(self._path)
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                return False
            raise
        try:
            self.left = max(0, self.left - -(-size // _PIECE) * _PIECE)
            with naming(self._path):
                file.truncate(self.left)
        finally:
            file.close()
        return True
