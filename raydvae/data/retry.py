"""Trying storage again: which errors pass by themselves, how long to wait, when to give up.

One layer is responsible for retries. On S3 it is a single request (`raydvae.data.s3`), because a listing of 100 pages
or an upload of 100 parts would hardly ever get through if one failure began it anew; the retries of botocore and s3fs
are switched off, or the numbers of tries would multiply and the time would have no bound. On any other file system it
is one operation of `raydvae.data.store.Store`. What was given up below is not tried again above.

The wait before try n is drawn evenly from [0, first * 2^(n - 1)] ("full jitter"), so that a thousand workers that a
store turned away together do not come back together.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import logging
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from raydvae import stopping

T = TypeVar("T")
log = logging.getLogger(__name__)

PASSING_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EINTR", "EIO",
        "ENETDOWN", "ENETRESET", "ENETUNREACH", "EPIPE", "EREMOTEIO", "ESTALE", "ETIMEDOUT",
    )
    if hasattr(errno, name)
)  # fmt: skip
# Codes of S3 that pass whatever their HTTP status is (400, 403, 409, or none in the answer to a bulk delete).
PASSING_CODES = frozenset(
    {
        "BadDigest", "BandwidthLimitExceeded", "ConditionalRequestConflict", "IncompleteBody", "InternalError",
        "OperationAborted", "PriorRequestNotComplete", "RequestLimitExceeded", "RequestTimeout",
        "RequestTimeoutException", "RequestThrottled", "RequestThrottledException", "ServiceUnavailable", "SlowDown",
        "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
    }
)  # fmt: skip
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# Classes of clients that raydvae does not import; a name stands for its subclasses too.
PASSING_NAMES = frozenset(
    {
        "ClientConnectionError", "ClientPayloadError",  # aiohttp
        "ChecksumError", "ConnectTimeoutError", "ConnectionClosedError", "ConnectionError", "CredentialRetrievalError",
        "EndpointConnectionError", "FlexibleChecksumError", "HTTPClientError", "IncompleteRead", "IncompleteReadError",
        "MetadataRetrievalError", "ProtocolError", "ReadTimeoutError", "ResponseParserError", "ResponseStreamingError",
        "ServiceRequestError", "ServiceResponseError", "TransportError",
    }
)  # fmt: skip
# Subclasses of those which waiting does not mend: a certificate that is not trusted.
FINAL_NAMES = frozenset({"SSLError", "ClientSSLError", "ClientConnectorCertificateError", "SSLCertVerificationError"})
PYARROW = re.compile(r"AWS Error (\w+)(?:.*?HTTP status (\d{3}))?", re.DOTALL)
PYARROW_PASSING = frozenset(
    {"INTERNAL_FAILURE", "NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "THROTTLING"}
)
CHAIN = 8  # causes that are followed at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How often and how long to try.

    The waits of the default add up to at most 17.75 s. ``total`` counts the tries too: no new one begins after it, but
    there are always two.
    """

    tries: int = 8
    first: float = 0.25  # seconds, the longest wait before the second try
    longest: float = 5.0  # seconds, no wait is longer
    total: float = 60.0  # seconds
    hung: float = 120.0  # seconds, an S3 request that has no answer after them is taken for lost


POLICY = Policy()


class GaveUp(OSError):
    """Tried as often or as long as the policy allows; ``__cause__`` is the last error."""


class CutShort(OSError):
    """Fewer bytes came than were promised."""

    @classmethod
    def of(cls, got: int, expected: int) -> CutShort:
        """Return the error for ``got`` of ``expected`` bytes."""
        return cls(f"only {got} of {expected} bytes came")


_count = 0
_lock = threading.Lock()
_draw = random.SystemRandom()  # neither shared by forked processes nor of any use to a seeded computation


def count() -> int:
    """Return how many times this process has tried storage again."""
    return _count


class Tries:
    """The tries of one operation. ``what`` says which, for the log: no address with a password, no option."""

    def __init__(self, what: str) -> None:
        self.what, self.policy = what, POLICY
        self.done = 0
        self.started = time.monotonic()

    def after(self, error: Exception) -> float:
        """Count ``error`` and return how many seconds to wait; raise it if it is final, `GaveUp` if it was the last."""
        global _count
        self.done += 1
        if not passes(error):
            raise error
        policy, spent = self.policy, time.monotonic() - self.started
        wait = _draw.uniform(0.0, min(policy.longest, policy.first * 2 ** (self.done - 1)))
        if self.done >= policy.tries or (self.done > 1 and spent + wait > policy.total):
            raise GaveUp(f"{self.done} tries in {spent:.1f} s failed, the last with: {error}") from error
        with _lock:
            _count += 1
        log.warning("%s: %s; try %d of %d in %.1f s", self.what, kind(error), self.done + 1, policy.tries, wait)
        return wait


def retry(what: str, call: Callable[[], T]) -> T:
    """Return what ``call`` returns, called again after errors that pass."""
    tries = Tries(what)
    while True:
        try:
            return call()
        except Exception as error:
            wait = tries.after(error)
        stopping.sleep(wait)


async def retry_async(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Do the same on an event loop."""
    tries = Tries(what)
    while True:
        try:
            return await call()
        except Exception as error:
            wait = tries.after(error)
        await asyncio.sleep(wait)
        stopping.check()


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later. What nobody knows is final."""
    if isinstance(error, GaveUp):
        return False
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):  # cut connections
        return True
    if _named(error, FINAL_NAMES):
        return False
    if _named(error, PASSING_NAMES):  # first: aiohttp reports a cut body with a cause that looks like the answer 400
        return True
    for each in causes(error):
        # A store's own word counts more than the class that a client made of it.
        code, status = answer(each)
        if code or status:
            return code in PASSING_CODES or status in PASSING_STATUS
    return _passes_by_class(error)


def _passes_by_class(error: BaseException) -> bool:
    if isinstance(error, (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)):
        return False
    if isinstance(error, (CutShort, ConnectionError, TimeoutError, http.client.HTTPException, EOFError)):
        return True
    if isinstance(error, socket.gaierror):  # its numbers are not those of other errors
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, OSError) and error.errno in PASSING_ERRNOS:
        return True
    reason = getattr(error, "reason", None)  # urllib.error.URLError wraps what happened
    return isinstance(reason, BaseException) and _passes_by_class(reason)


def _named(error: BaseException, names: frozenset[str]) -> bool:
    """Whether the class of an error or of one of its causes, or a base of that class, has one of ``names``."""
    return any(base.__name__ in names for each in causes(error) for base in type(each).__mro__)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and what caused it, latest first."""
    each: BaseException | None = error
    for _ in range(CHAIN):
        if each is None:
            return
        yield each
        each = each.__cause__


def answer(error: BaseException) -> tuple[str, int]:
    """Return the error code and the HTTP status that a store answered with; empty and 0 if it did not answer."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code, int(code) if code.isdigit() else int(status or 0)
    if isinstance(error, OSError) and (found := PYARROW.search(str(error))):
        return ("SlowDown" if found[1] in PYARROW_PASSING else found[1]), int(found[2] or 0)
    for name in ("status", "status_code", "code"):  # aiohttp, azure, gcsfs and urllib
        value = getattr(error, name, None)
        with contextlib.suppress(TypeError, ValueError):
            if value is not None and not callable(value) and 400 <= int(value) < 600:
                return "", int(value)
    return "", 0


def kind(error: BaseException) -> str:
    """Name an error in few words. Its text is left out: clients put addresses and more into it."""
    for each in () if _named(error, PASSING_NAMES) else causes(error):
        code, status = answer(each)
        if code or status:
            return " ".join(part for part in (code, f"HTTP {status}" if status else "") if part)
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return f"{type(error).__name__} {errno.errorcode.get(error.errno, error.errno)}"
    return type(error).__name__
