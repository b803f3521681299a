"""A folder on any fsspec file system: whole-file reads, atomic whole-file writes, clear errors.

Everything of raydvae that touches storage goes through here, so local disks and object stores behave alike. Names are
relative to the store's root with forward slashes, and never lead out of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import posixpath
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from raydvae.data.failures import explain, hide
from raydvae.data.local import linked_folders, local_files
from raydvae.data.random_access import Reader
from raydvae.data.retry import CutShort, answer, causes, passes, retry
from raydvae.data.shapes import parse_json
from raydvae.errors import ConfigError, RaydvaeError, StorageError, shown

T = TypeVar("T")
Options = Mapping[str, Any]
Names = list[str]
Blobs = list[bytes]
Spans = list[tuple[str, int, int]]  # file, first byte, byte after the last
TEMPORARY = ".tmp-"  # prefix of files that are being written: hidden, so that no reader of parquet folders lists them
PRIVATE = re.compile(r"/_raydvae/[^/]+\.json$")  # what a run notes of itself: it may hold addresses
LOCK = "driver.lock"  # whoever replaces files of a folder that drivers compete for holds a lock on it
LOCK_PATIENCE = 20.0  # seconds to wait for that lock, which is held for milliseconds by any process that runs
AHEAD = 2**20  # bytes that an opened file reads in advance: enough for a tar's headers, little beside a column


class Fence(Protocol):
    """What keeps out the writes of a process that has lost its folder. Picklable."""

    def check(self, fresh: bool = False) -> None:
        """Raise `StorageError` if the folder is another driver's by now; with ``fresh`` whatever was known is old."""
        ...

    def publishing(self) -> AbstractContextManager[None]:
        """Keep other drivers from taking the folder over, on this machine's file systems, after a `check`."""
        ...


def absolute(uri: str) -> str:
    """Return ``uri`` with a local path made absolute, so that it means the same in another process."""
    if "://" in uri:
        scheme, path = uri.split("://", 1)
        return f"{scheme}://{path.rstrip('/') or path[:1]}"
    return os.path.abspath(os.path.expanduser(uri))


class Store:
    """A folder. Cheap to pickle: only its address and options travel, never a connection.

    Everything that touches storage is tried again after errors that pass, see `raydvae.data.retry`, and raises
    `StorageError` after errors that do not.
    """

    def __init__(self, uri: str, options: Options | None = None, fence: Fence | None = None) -> None:
        if not uri:
            raise ConfigError("An empty path was given; name a folder or a URI such as s3://bucket/folder.")
        self.address = absolute(uri)
        self.options = dict(options or {})
        self.fence = fence
        self._connect()

    def _connect(self) -> None:
        self._fs, root = connect(self.address, self.options)
        self._process = os.getpid()
        self.root = root.rstrip("/")

    def __reduce__(self) -> tuple[type[Store], tuple[str, dict[str, Any], Fence | None]]:
        return Store, (self.address, self.options, self.fence)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"  # never the options: they may hold a key

    @property
    def uri(self) -> str:
        """What is shown and noted of `address`: no password."""
        return hide(self.address)

    @property
    def fs(self) -> Any:
        """The fsspec file system; another one after a fork, since connections cannot be shared."""
        if self._process != os.getpid():
            self._connect()
        return self._fs

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of this machine."""
        return isinstance(self._fs, LocalFileSystem)

    def path(self, name: str = "") -> str:
        """Return the file system's own path of ``name``."""
        clean = posixpath.normpath(name) if name else ""
        if clean.startswith(("/", "..")) or "\0" in clean:
            raise StorageError(f"The name {name!r} leads out of {self.uri}; names are relative and stay inside.")
        return f"{self.root}/{clean}" if clean else self.root or "/"

    def beside(self, uri: str) -> Store | None:
        """Return the folder ``uri``, which a file in here names, if it lies in this store; else None.

        A file from a stranger may name any address: nothing is sent there, least of all this store's keys.
        """
        if "::" in uri or not uri or hide(uri) != uri:
            return None
        here, there = (urlsplit(name if "://" in name else f"file://{name}") for name in (self.address, uri))
        same = here.scheme == there.scheme and here.netloc == there.netloc and not there.query
        return Store(uri, self.options) if same else None

    def sub(self, name: str) -> Store:
        """Return the folder ``name`` of this one, behind the same fence."""
        self.path(name)
        return Store(f"{self.address}/{name}", self.options, self.fence)

    def fenced(self, fence: Fence | None) -> Store:
        """Return the same folder, written to and deleted from only while ``fence`` allows it; wherever it is sent."""
        return Store(self.address, self.options, fence)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of that name."""
        return bool(self._do("look for", name, lambda: self._info(name)))

    def is_file(self, name: str = "") -> bool:
        """Whether ``name`` is a file."""
        return self._do("look at", name, lambda: self._info(name)).get("type") == "file"

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return int(self._do("look at", name, lambda: self._info(name, missing_ok=False))["size"])

    def _info(self, name: str, missing_ok: bool = True) -> dict[str, Any]:
        # Not fs.exists and fs.isfile: they take some errors for an answer.
        path = self.path(name)
        if self.is_local:
            path = os.path.realpath(path)  # fsspec looks at a link, not at what it leads to
        else:
            self.fs.invalidate_cache()  # other processes write here
        try:
            return dict(self.fs.info(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            if not missing_ok or (name and _no_bucket(error)):
                raise
            return {}

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return the files below folder ``prefix`` and their sizes, by name; empty if there is no folder.

        On a local disk links to files and folders are followed, and each real folder is listed once, see `local_files`.
        """
        if self.is_local:
            there = self.path(prefix)
            found = self._do("list", prefix, lambda: local_files(there))
            at = posixpath.normpath(prefix) if prefix else ""
            return {posixpath.join(at, name) if name else at: size for name, size in found.items()}

        def find() -> dict[str, dict[str, Any]]:
            self.fs.invalidate_cache()
            found: dict[str, dict[str, Any]] = self.fs.find(self.path(prefix), detail=True, withdirs=False)
            return found

        cut = len(self.root) + 1
        infos = self._do("list", prefix, find)
        # S3 consoles mark an empty folder by an object whose name ends in a slash.
        return {p[cut:]: int(info.get("size") or 0) for p, info in sorted(infos.items()) if not p.endswith("/")}

    def linked(self) -> dict[str, str]:
        """Return the real paths of the folders that links in this local folder lead to, by the links' names."""
        return self._do("list", "", lambda: linked_folders(self.path()))

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        data: bytes = self._do("read", name, lambda: self.fs.cat_file(self.path(name)))
        return data

    def read_many(self, names: Names) -> dict[str, bytes]:
        """Return the bytes of several files, fetched together where the file system can."""
        return dict(zip(names, self._fetch([(name, None, None) for name in names]), strict=True))

    def read_spans(self, spans: Spans) -> Blobs:
        """Return the bytes of several parts of files, fetched together where the file system can.

        Raises `StorageError` when a part lies beyond the file's end.
        """
        return self._fetch(spans)

    def _fetch(self, spans: Sequence[tuple[str, int | None, int | None]]) -> Blobs:
        paths = [self.path(name) for name, *_ in spans]
        out: dict[int, bytes] = {}

        def fetch() -> None:
            # Only what is missing: of a thousand files some fail each time. Not fs.cat: it takes the signs *, ? and [
            # in a file's name for a pattern.
            left = [at for at in range(len(spans)) if at not in out]
            starts, stops = [spans[at][1] for at in left], [spans[at][2] for at in left]
            blobs = self.fs.cat_ranges([paths[at] for at in left], starts, stops, on_error="return")
            failed: dict[int, Exception] = {}
            for at, start, stop, blob in zip(left, starts, stops, blobs, strict=True):
                if isinstance(blob, Exception):
                    failed[at] = blob
                elif start is not None and stop is not None and len(blob) != stop - start:
                    failed[at] = CutShort.of(len(blob), stop - start)
                else:
                    out[at] = blob
            if failed:  # what is final comes first, whatever else may pass
                at = min(failed, key=lambda at: (passes(failed[at]), at))
                worst.append(spans[at][0])
                raise failed[at]

        worst = [spans[0][0]] if spans else []
        if spans:
            with self._errors("read", lambda: worst[-1]):
                retry(f"read {len(spans)} parts of {self.uri}", fetch)
        return [out[at] for at in range(len(spans))]

    def open(self, name: str) -> Any:
        """Open a file for random-access reading. Its reads raise `StorageError`, and return all that was asked for."""
        if self.is_local:
            return self._do("open", name, lambda: self.fs.open(self.path(name), "rb"))
        file = self._do("open", name, lambda: self.fs.open(self.path(name), "rb", block_size=AHEAD))
        return Reader(file, lambda call: self._do("read", name, call))

    def write(self, name: str, data: bytes) -> None:
        """Publish ``data`` as file ``name`` at once: a reader sees the old file, none, or all of the new one.

        Raises `StorageError`, and publishes nothing, when the store's fence says that the folder is another driver's.
        """
        path = self.path(name)

        def publish() -> None:
            if self.is_local:
                self._write_local(path, data, self.fence.publishing if self.fence else contextlib.nullcontext)
            else:
                if self.fence:
                    self.fence.check()
                self._put(path, data)

        self._do("write", name, publish)

    def _put(self, path: str, data: bytes) -> None:
        try:
            self.fs.pipe_file(path, data)  # object stores publish a put, or a completed multipart upload, whole
        except FileNotFoundError as error:
            if any(answer(each)[0] == "NoSuchUpload" for each in causes(error)):
                # Completed, but the answer was lost; or aborted by another. Sending all of it again is right for both.
                raise OSError(errno.EAGAIN, "the store lost the parts of the upload") from None
            raise

    def _write_local(self, path: str, data: bytes, publishing: Callable[[], AbstractContextManager[object]]) -> None:
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            mode = 0o600 if PRIVATE.search(path) else 0o666  # less the user's mask
            with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with publishing():
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def read_tagged(self, name: str) -> tuple[bytes, str] | None:
        """Return a file's bytes, and what `swap` tells by whether it was replaced since; None if there is no file."""

        def read() -> tuple[bytes, str] | None:
            with contextlib.suppress(FileNotFoundError):
                if tagged := getattr(self.fs, "cat_tagged", None):
                    found: tuple[bytes, str] = tagged(self.path(name))
                    return found
                data: bytes = self.fs.cat_file(self.path(name))
                return data, checksum(data)
            return None

        return self._do("read", name, read)

    def swap(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Publish ``data`` as ``name`` if that file still has ``tag``, or for None still is not there.

        Returns the new tag, or None if somebody was faster. Where an answer was lost on the way that somebody may have
        been this call: read the file. S3 compares, and so does a lock on local file systems; on any other the file
        may be replaced between looking and writing.
        """
        path = self.path(name)

        def unchanged() -> bool:
            found = self.read_tagged(name)
            return (None if found is None else found[1]) == tag

        def compare() -> str | None:
            if put := getattr(self.fs, "put_if", None):
                try:
                    stored: str | None = put(path, data, tag)
                    return stored
                except NotImplementedError:  # a server that speaks S3, but not this part of it
                    pass
            if not self.is_local:
                if not unchanged():
                    return None
                self._put(path, data)
                return (self.read_tagged(name) or (b"", ""))[1]
            try:
                self._write_local(path, data, swapping)
            except _Changed:
                return None
            return checksum(data)

        @contextlib.contextmanager
        def swapping() -> Iterator[None]:
            with self.exclusive():
                if not unchanged():
                    raise _Changed
                yield

        return self._do("write", name, compare)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock of this local folder; a process that ends by whatever means gives it back.

        Raises `StorageError` when another process keeps it: one that was stopped in the middle of a write.
        """
        os.makedirs(self.path(), exist_ok=True)
        lock = os.open(self.path(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_PATIENCE
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StorageError(
                            f"Another driver is at work on {hide(self.uri)}: it keeps the lock {LOCK}. If it was "
                            "stopped, let it go on or end it; then run the same command again."
                        ) from None
                    time.sleep(0.002)
                except OSError:  # a file system without locks
                    break
            yield
        finally:
            os.close(lock)

    def leftovers(self) -> Names:
        """Return the names of files that were being written by processes that were killed, or still are.

        Only folders of this machine have any: an object store shows no object before it is whole.
        """
        if not self.is_local:
            return []
        return [
            os.path.relpath(os.path.join(folder, name), self.path())
            for folder, _, names in os.walk(self.path())
            for name in names
            if name.startswith(TEMPORARY)
        ]

    def delete(self, name: str) -> None:
        """Delete a file or a folder with all in it; nothing happens if there is none."""

        def remove() -> None:
            if self.fence:
                self.fence.check()
            if self._info(name):
                with contextlib.suppress(FileNotFoundError):  # another process, or a try whose answer was lost, did it
                    self.fs.rm(self.path(name), recursive=True)

        self._do("delete", name, remove)

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value."""
        try:
            return parse_json(self.read(name))
        except ValueError:
            raise StorageError(f"{self.uri}/{name} is not valid JSON; it was damaged or is not ours.") from None

    def write_json(self, name: str, value: Any) -> None:
        """Publish ``value`` as JSON."""
        self.write(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def _do(self, verb: str, name: str, call: Callable[[], T]) -> T:
        with self._errors(verb, lambda: name):
            return retry(f"{verb} {self._where(name)}", call)

    def _where(self, name: str) -> str:
        return shown(hide(f"{self.uri}/{name}" if name else self.uri))

    @contextlib.contextmanager
    def _errors(self, verb: str, name: Callable[[], str]) -> Iterator[None]:
        try:
            yield
        except RaydvaeError:
            raise
        except Exception as error:
            if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):  # options that passed on
                raise ConfigError(
                    f"Cannot {verb} {self._where(name())} with the storage options {_names(self.options)}. Check their "
                    "names against the documentation of this file system in fsspec."
                ) from None
            text = explain(error)
            if text is None:
                raise
            raise StorageError(f"Cannot {verb} {self._where(name())}: {hide(text, self.options)}") from None


class _Changed(Exception):
    """A file is not what it was when somebody decided to replace it."""


def connect(uri: str, options: Options) -> tuple[Any, str]:
    """Return the file system of ``uri`` and its own path of it; `ConfigError` when there is no such thing."""
    try:
        if uri.startswith(("s3://", "s3a://")):
            from raydvae.data.s3 import S3  # imports clients that a local run never needs

            return S3(**options), str(S3._strip_protocol(uri))
        if "://" not in uri or uri.startswith("file://"):  # not url_to_fs: it takes a::b for a file in an archive
            return LocalFileSystem(**options), str(LocalFileSystem._strip_protocol(uri))
        fs, path = fsspec.core.url_to_fs(uri, **options)
        return fs, str(path)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"{hide(uri)} cannot be opened: {hide(str(error), options)}. Use a path, s3://… or another fsspec URI."
        ) from None
    except TypeError:  # its text may hold the values
        raise ConfigError(
            f"{hide(uri)} cannot be opened with the storage options {_names(options)}. Check their names against the "
            "documentation of this file system in fsspec."
        ) from None
    except OSError as error:  # an archive that is not there
        raise StorageError(f"{hide(uri)} cannot be opened: {hide(str(explain(error)), options)}") from None


def _names(options: Options) -> str:
    return ", ".join(sorted(options)) or "(none)"


def _no_bucket(error: BaseException) -> bool:
    return any(answer(each)[0] == "NoSuchBucket" for each in causes(error))


def checksum(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
