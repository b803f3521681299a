"""What lies in a folder of this machine: links are followed, without loops and without telling anything twice."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator


def local_files(top: str) -> dict[str, int]:
    """Return the sizes of the files below a local folder, by their sorted names relative to it; "" for a file itself.

    Links are followed. Each real folder is listed once: under its own name if that lies below ``top``, else under the
    first link's. So a link to a folder above it makes no loop, and no file is there twice. Links whose names begin with
    a dot are not followed. A link that leads nowhere is listed as an empty file, see `raydvae.data.files.lost_link`.
    What is neither a file nor a folder is left out: reading a pipe would wait for ever.
    """
    if os.path.isfile(top):
        return {"": os.path.getsize(top)}
    sizes: dict[str, int] = {}
    for _, folder, files in _local_folders(top):
        for name in files:
            path = os.path.join(folder, name)
            try:
                info = os.stat(path)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                if os.path.islink(path):  # else it was deleted meanwhile
                    sizes[os.path.relpath(path, top)] = 0
                continue
            if stat.S_ISREG(info.st_mode):
                sizes[os.path.relpath(path, top)] = info.st_size
    return dict(sorted(sizes.items()))


def linked_folders(top: str) -> dict[str, str]:
    """Return the real paths of the folders that links below ``top`` lead `local_files` to, by the links' names."""
    starts = dict.fromkeys(start for start, _, _ in _local_folders(top))
    return {os.path.relpath(s, top): os.path.realpath(s) for s in starts if s != top and os.path.islink(s)}


def _local_folders(top: str) -> Iterator[tuple[str, str, list[str]]]:
    """Iterate over the folders: each with ``top`` or the link or hidden folder it was reached by, and its files."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    seen: set[str] = set()
    # What is really there comes before what links lead to, and what is visible before what is not: data that lies in
    # .v1 is listed as data/ where that is a link to it.
    links, veiled = [top], list[str]()
    while links or veiled:
        start = links.pop(0) if links else veiled.pop(0)
        for folder, folders, files in os.walk(start, onerror=failed):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            paths = {name: os.path.join(folder, name) for name in sorted(folders)}
            linked = {name for name, path in paths.items() if os.path.islink(path)}
            links += [paths[name] for name in paths if name in linked and not name.startswith((".", "_"))]
            veiled += [path for name, path in paths.items() if name.startswith("_" if name in linked else (".", "_"))]
            folders[:] = [name for name in paths if name not in linked and not name.startswith((".", "_"))]
            yield start, folder, files
