"""What to tell a user about an error of storage, without telling secrets."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from typing import Any

from raydvae.data.retry import CutShort, GaveUp, answer, causes

FULL = {errno.ENOSPC, errno.EDQUOT}
CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "s3fs", "urllib3"}
SECRET = re.compile(r"key|secret|token|pass|sas|cred|connection", re.IGNORECASE)  # names of options that hold one
# What stands before the host of an address. AWS's keys have slashes; the number after a host's colon is a port.
USER = re.compile(r"(?<=://)(?:[^/@\s\"']+|[^/@:\s\"']*:(?!\d+/)[^@\s\"']+)@")
SIGNED = re.compile(r"([?&][\w-]*(?:sig|token|secret|passw|credential|key)[\w-]*=)[^&\s\"']+", re.IGNORECASE)
MIN_SECRET = 4  # characters; hiding shorter ones would only garble the text


def explain(error: Exception) -> str | None:
    """Return what went wrong with storage and what to do about it; ``None`` if it has nothing to do with storage."""
    chain = list(causes(error))
    code = next((found for each in chain if (found := answer(each)[0])), "")
    text = str(error).rstrip(".")
    if isinstance(error, GaveUp):
        return f"{text}. Check the network, the endpoint and the store; then run the same command again."
    if code in {"NoSuchBucket", "NO_SUCH_BUCKET"}:
        return "the bucket does not exist. Create it, or check its name and the endpoint."
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder. Check the path."
    if isinstance(error, PermissionError):
        return f"permission denied ({text}). Check the rights or the key; what was committed is kept."
    if isinstance(error, OSError) and error.errno in FULL:
        return "the disk is full. Free some space and run the same command again; what was committed is kept."
    if isinstance(error, CutShort):
        return f"{text}. The file is damaged, or it changed while it was read."
    name = type(error).__name__
    if "Credential" in name:
        return f"{text}. Give a key, a profile or anon=true (--storage-option), or set AWS_PROFILE."
    if isinstance(error, OSError):
        return f"{text}."
    # Clients of object stores have exception trees of their own.
    if type(error).__module__.split(".")[0] in CLIENTS:
        return f"{text}. Check endpoint, bucket and credentials."
    return None


def hide(text: str, options: Mapping[str, Any] | None = None) -> str:
    """Return ``text`` without passwords and signatures in addresses and without the values of secret options."""
    text = SIGNED.sub(r"\1***", USER.sub("***@", text))
    for value in _secrets(options or {}):
        text = text.replace(value, "***")
    return text


def hide_all(value: Any) -> Any:
    """Return a JSON value with `hide` applied to every text in it."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {key: hide_all(item) for key, item in value.items()}
    return [hide_all(item) for item in value] if isinstance(value, list | tuple) else value


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and len(value) >= MIN_SECRET and SECRET.search(name):
            yield value
