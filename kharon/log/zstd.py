"""Segments compressed by zstd (RFC 8878): read as a stream, written as one frame.

The library is an extra, `kharon[zstd]`, and is loaded when the first segment needs it. A segment is never held whole:
the window is at most 8 MiB. A file that decompresses to more than `MAX_DECOMPRESSED_BYTES` is refused, so that a small
file cannot cause endless reading.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from kharon.errors import CorruptLog, KharonError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in the standard library from Python 3.12 on

__all__ = ["MAX_DECOMPRESSED_BYTES", "ZSTD_SUFFIX", "compress_chunks", "load_zstd", "open_segment"]

ZSTD_SUFFIX: Final = ".zst"
MAX_DECOMPRESSED_BYTES: Final = 1 << 30
"""The size of the largest segment that is compressed, and the most that one may decompress to."""
_MAX_WINDOW_LOG: Final = 23  # 8 MiB
_LIBRARIES: Final = ("compression.zstd", "backports.zstd")  # the standard library's, from Python 3.14 on; its backport
_CHUNK_BYTES: Final = 1 << 18


def load_zstd(what: str) -> Any:
    """Return the zstd module.

    Args:
        what: the part of Kharon that needs it, for the message.

    Raises:
        KharonError: it is not installed.
    """
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise KharonError(f"{what} needs zstd, which is not installed; install the extra: pip install 'kharon[zstd]'")


def open_segment(read: Callable[[Path], BinaryIO], path: Path) -> BinaryIO:
    """Open a segment for reading, compressed or not: the bytes read are the same.

    Raises:
        KharonError: it is compressed, and zstd is not installed.
        OSError: it cannot be read.
    """
    if path.suffix != ZSTD_SUFFIX:
        return read(path)
    zstd = load_zstd(str(path))
    return io.BufferedReader(_Decompressed(zstd, read(path), path), _CHUNK_BYTES)


def compress_chunks(source: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the bytes of `source` compressed into one frame with a checksum. Uses about 4 MiB of memory.

    Measured 35 ms for 9 MB of records. zstd releases the GIL for each chunk, so an event loop in another thread runs
    on.

    Raises:
        KharonError: zstd is not installed.
    """
    zstd = load_zstd("compressing a segment")
    options = {zstd.CompressionParameter.checksum_flag: 1}
    compressor = zstd.ZstdCompressor(options=options)
    for chunk in source:
        yield compressor.compress(chunk)
    yield compressor.flush()


class _Decompressed(io.RawIOBase):
    """The bytes of a compressed segment.

    Raises:
        CorruptLog: it cannot be decompressed, or decompresses to more than `MAX_DECOMPRESSED_BYTES`.
    """

    def __init__(self, zstd: Any, file: BinaryIO, path: Path) -> None:
        self._zstd = zstd
        self._file = file
        self._path = path
        options = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        self._stream = zstd.ZstdFile(file, options=options)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        at = self._stream.tell()
        with self._corrupt(), memoryview(buffer) as view:
            count: int = self._stream.readinto(view)
        if at + count > MAX_DECOMPRESSED_BYTES:
            raise CorruptLog(str(self._path), 0, at, f"it decompresses to more than {MAX_DECOMPRESSED_BYTES} bytes")
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_END:  # all of it would have to be decompressed
            raise io.UnsupportedOperation("the length of a compressed segment is not known before it has been read")
        with self._corrupt():
            at: int = self._stream.seek(offset, whence)
        return at

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()

    @contextlib.contextmanager
    def _corrupt(self) -> Iterator[None]:
        try:
            yield
        except (self._zstd.ZstdError, EOFError) as error:
            raise CorruptLog(str(self._path), 0, self._stream.tell(), f"it cannot be decompressed: {error}") from None
