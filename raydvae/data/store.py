"""A folder on any fsspec file system: whole-file reads, atomic whole-file writes, clear errors.

Everything of raydvae that touches storage goes through here, so local disks and object stores behave alike. Names are
relative to the store's root with forward slashes, and never lead out of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import posixpath
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from raydvae.errors import ConfigError, StorageError

Options = Mapping[str, Any]
Names = list[str]
Blobs = list[bytes]
Sizes = list[int]
Spans = list[tuple[str, int, int]]  # file, first byte, byte after the last
TEMPORARY = ".tmp-"  # prefix of files that are being written: hidden, so that no reader of parquet folders lists them


def absolute(uri: str) -> str:
    """Return ``uri`` with a local path made absolute, so that it means the same in another process."""
    if "://" in uri:
        scheme, path = uri.split("://", 1)
        return f"{scheme}://{path.rstrip('/') or path[:1]}"
    return os.path.abspath(os.path.expanduser(uri))


class Store:
    """A folder. Cheap to pickle: only its address travels."""

    def __init__(self, uri: str, options: Options | None = None) -> None:
        if not uri:
            raise ConfigError("An empty path was given; name a folder or a URI such as s3://bucket/folder.")
        self.uri = absolute(uri)
        self.options = dict(options or {})
        try:
            self.fs, root = fsspec.core.url_to_fs(self.uri, **self.options)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"{self.uri} cannot be opened: {error}. Use a path, s3://… or another fsspec URI."
            ) from None
        self.root = root.rstrip("/")

    def __reduce__(self) -> tuple[type[Store], tuple[str, dict[str, Any]]]:
        return Store, (self.uri, self.options)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"  # never the options: they may hold a key

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str = "") -> str:
        """Return the file system's own path of ``name``."""
        clean = posixpath.normpath(name) if name else ""
        if clean.startswith(("/", "..")) or "\0" in clean:
            raise StorageError(f"The name {name!r} leads out of {self.uri}; names are relative and stay inside.")
        return f"{self.root}/{clean}" if clean else self.root or "/"

    def sub(self, name: str) -> Store:
        """Return the folder ``name`` of this one."""
        self.path(name)
        return Store(f"{self.uri}/{name}", self.options)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of that name."""
        with self._errors("look for", name):
            return bool(self.fs.exists(self.path(name)))

    def is_file(self, name: str = "") -> bool:
        """Whether ``name`` is a file."""
        with self._errors("look at", name):
            return bool(self.fs.isfile(self.path(name)))

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return the files below folder ``prefix`` and their sizes, by name; empty if there is no folder."""
        with self._errors("list", prefix):
            self.fs.invalidate_cache()
            found = self.fs.find(self.path(prefix), detail=True, withdirs=False)
        cut = len(self.root) + 1
        return {path[cut:]: int(info.get("size") or 0) for path, info in sorted(found.items())}

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        with self._errors("read", name):
            data: bytes = self.fs.cat_file(self.path(name))
            return data

    def read_many(self, names: Names) -> dict[str, bytes]:
        """Return the bytes of several files, fetched together where the file system can."""
        return dict(zip(names, self._fetch(names, None, None), strict=True))

    def read_spans(self, spans: Spans) -> Blobs:
        """Return the bytes of several parts of files, fetched together where the file system can."""
        return self._fetch(
            [name for name, _, _ in spans], [start for _, start, _ in spans], [stop for *_, stop in spans]
        )

    def _fetch(self, names: Names, starts: Sizes | None, stops: Sizes | None) -> Blobs:
        if not names:
            return []
        with self._errors("read", names[0]):
            # Not fs.cat: it takes the signs *, ? and [ in a file's name for a pattern.
            paths = [self.path(name) for name in names]
            blobs: Blobs = self.fs.cat_ranges(paths, starts, stops, on_error="raise")
            return blobs

    def open(self, name: str) -> Any:
        """Open a file for random-access reading."""
        with self._errors("open", name):
            return self.fs.open(self.path(name), "rb")

    def write(self, name: str, data: bytes) -> None:
        """Publish ``data`` as file ``name`` at once: a reader sees the old file, none, or all of the new one."""
        path = self.path(name)
        with self._errors("write", name):
            if not self.is_local:
                self.fs.pipe_file(path, data)  # object stores publish a put, or a completed multipart upload, whole
                return
            folder = os.path.dirname(path)
            os.makedirs(folder, exist_ok=True)
            temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}")
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise

    def delete(self, name: str) -> None:
        """Delete a file or a folder with all in it; nothing happens if there is none."""
        with self._errors("delete", name):
            if self.fs.exists(self.path(name)):
                self.fs.rm(self.path(name), recursive=True)

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value."""
        try:
            return json.loads(self.read(name))
        except ValueError:
            raise StorageError(f"{self.uri}/{name} is not valid JSON; it was damaged or is not ours.") from None

    def write_json(self, name: str, value: Any) -> None:
        """Publish ``value`` as JSON."""
        self.write(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    @contextlib.contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        where = f"{self.uri}/{name}" if name else self.uri
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError:
            raise StorageError(f"Cannot {verb} {where}: there is no such file or folder. Check the path.") from None
        except PermissionError as error:
            raise StorageError(
                f"Cannot {verb} {where}: permission denied ({error}). Check the rights or the key."
            ) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise StorageError(
                    f"Cannot {verb} {where}: the disk is full. Free some space and run the same command again; "
                    "what was committed is kept."
                ) from None
            raise StorageError(f"Cannot {verb} {where}: {error}.") from None
        except Exception as error:
            # botocore and other clients have exception trees of their own.
            if type(error).__module__.split(".")[0] in {"botocore", "aiobotocore", "aiohttp", "s3fs"}:
                raise StorageError(f"Cannot {verb} {where}: {error}. Check endpoint, bucket and credentials.") from None
            raise


def checksum(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
