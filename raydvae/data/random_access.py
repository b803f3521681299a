"""Random-access reading of a remote file, as pyarrow and tarfile do it, that survives cut connections."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

from raydvae.data.retry import CutShort


class Reader(io.RawIOBase):
    """A file whose reads go through ``guard``, which tries them again and translates errors."""

    def __init__(self, file: Any, guard: Callable[[Callable[[], bytes]], bytes]) -> None:
        self.file, self.guard = file, guard
        self.length = int(file.seek(0, os.SEEK_END))
        file.seek(0)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it can be sought in."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return int(self.file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set and return where the next read begins."""
        return int(self.file.seek(offset, whence))

    def read(self, size: int | None = -1) -> bytes:
        """Return ``size`` bytes, or all that are left."""
        at = self.tell()
        left = max(0, self.length - at)
        expected = left if size is None or size < 0 else min(size, left)

        def whole() -> bytes:
            self.file.seek(at)
            data: bytes = self.file.read(expected)
            if len(data) != expected:
                raise CutShort.of(len(data), expected)
            return data

        return self.guard(whole) if expected else b""

    def readall(self) -> bytes:
        """Return all that is left."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as the file goes, and return how far that is."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self.file.close()
        super().close()
