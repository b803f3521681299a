"""Retries: which errors pass, how long is waited, what is counted and logged. The errors are the clients' own."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import urllib.error
from collections.abc import Callable
from typing import Any

import aiohttp
import botocore.exceptions
import pytest
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from raydvae.data import retry
from raydvae.data.retry import CutShort, GaveUp, Policy, passes


def answered(code: str, status: int = 0) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "text"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "GetObject")


def body_cut() -> Exception:
    error = aiohttp.ClientPayloadError("Response payload is not completed")
    error.__cause__ = aiohttp.http_exceptions.ContentLengthError("Not enough data")
    return error


PASSING: list[Exception] = [
    *(answered(code, 503) for code in ("SlowDown", "ServiceUnavailable", "503")),
    *(answered(code, 400) for code in ("RequestTimeout", "ThrottlingException", "BadDigest", "IncompleteBody")),
    *(answered(code, 500) for code in ("InternalError", "500", "a code of some other store")),
    answered("OperationAborted", 409),
    answered("TooManyRequests", 429),
    answered("InternalError"),
    *(translate_boto_error(answered(*a)) for a in [("SlowDown", 503), ("InternalError", 500), ("Odd", 502)]),
    translate_boto_error(answered("RequestTimeout", 400)),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
    botocore.exceptions.ConnectTimeoutError(endpoint_url="http://x"),
    botocore.exceptions.ConnectionClosedError(endpoint_url="http://x"),
    botocore.exceptions.ResponseStreamingError(error="cut"),
    botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    botocore.exceptions.HTTPClientError(error="broken"),
    body_cut(),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ServerTimeoutError(),
    aiohttp.ClientOSError(errno.ECONNRESET, "reset"),
    *(OSError(number, "text") for number in (errno.ECONNRESET, errno.ETIMEDOUT, errno.EIO, errno.EPIPE, errno.ESTALE)),
    OSError("When reading: AWS Error SLOW_DOWN during GetObject operation: reduce your rate"),
    OSError("When reading: AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 56"),
    OSError("When reading: AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body."),
    TimeoutError(),
    ConnectionResetError(),
    CutShort.of(1, 2),
    socket.gaierror(socket.EAI_AGAIN, "try again"),
    ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    urllib.error.HTTPError("http://x", 503, "text", {}, None),  # type: ignore[arg-type]
    urllib.error.URLError(ConnectionResetError()),
]
FINAL: list[Exception] = [
    *(answered(c, 403) for c in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403")),
    *(answered(code, 404) for code in ("NoSuchKey", "NoSuchBucket", "404")),
    *(translate_boto_error(answered(*a)) for a in [("AccessDenied", 403), ("ExpiredToken", 400), ("Odd", 400)]),
    answered("InvalidRange", 416),
    answered("NotImplemented", 501),
    botocore.exceptions.NoCredentialsError(),
    botocore.exceptions.ProfileNotFound(profile="x"),
    botocore.exceptions.SSLError(endpoint_url="https://x", error="certificate verify failed"),
    FileNotFoundError(errno.ENOENT, "text"),
    PermissionError(errno.EACCES, "text"),
    IsADirectoryError(errno.EISDIR, "text"),
    OSError(errno.ENOSPC, "text"),
    OSError(errno.EDQUOT, "text"),
    OSError("When reading: AWS Error ACCESS_DENIED during GetObject operation: no"),
    OSError("When reading: AWS Error NO_SUCH_BUCKET during GetObject operation: no"),
    ssl.SSLCertVerificationError(1, "text"),
    socket.gaierror(socket.EAI_NONAME, "no such host"),
    urllib.error.HTTPError("http://x", 404, "text", {}, None),  # type: ignore[arg-type]
    urllib.error.URLError("unknown url type"),
    GaveUp("text"),
    ValueError("text"),
    KeyError("text"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_errors_that_pass(error: Exception) -> None:
    assert passes(error)


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_errors_that_are_final(error: Exception) -> None:
    assert not passes(error)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited, instead of waiting."""
    seen: list[float] = []
    monkeypatch.setattr(retry.stopping, "sleep", seen.append)
    return seen


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    return call


def test_tries_are_counted_and_logged_without_the_error_s_text(
    waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    before = retry.count()
    with caplog.at_level(logging.WARNING, logger="raydvae.data.retry"):
        assert retry.retry("read s3://b/x", failing(3, OSError(errno.ECONNRESET, "http://user:secret@host"))) == "done"
    assert retry.count() - before == len(waits) == 3
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert all(line.startswith("read s3://b/x: ConnectionResetError ECONNRESET; try ") for line in lines)
    assert "try 2 of 8" in lines[0] and "secret" not in "".join(lines)


def test_the_number_of_tries_is_bounded_and_the_waits_grow_to_a_bound(waits: list[float]) -> None:
    policy = Policy()
    for _ in range(50):
        waits.clear()
        with pytest.raises(GaveUp, match=r"8 tries in .* failed, the last with: text") as caught:
            retry.retry("x", failing(100, TimeoutError("text")))
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert len(waits) == policy.tries - 1
        bounds = [min(policy.longest, policy.first * 2**n) for n in range(len(waits))]
        assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert sum(bounds) < 20


def test_the_total_time_is_bounded_but_there_are_two_tries(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 25))  # every look at the clock is 25 s later than the one before
    monkeypatch.setattr(retry.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(GaveUp, match=r"3 tries in 75\.0 s failed"):
        retry.retry("x", failing(100, TimeoutError("text")))
    clock = iter(range(0, 10**6, 1000))
    with pytest.raises(GaveUp, match="2 tries"):
        retry.retry("x", failing(100, TimeoutError("text")))


def test_final_errors_are_raised_at_once_as_they_are(waits: list[float]) -> None:
    error = PermissionError(errno.EACCES, "text")
    before = retry.count()
    with pytest.raises(PermissionError) as caught:
        retry.retry("x", failing(1, error))
    assert caught.value is error
    assert (waits, retry.count()) == ([], before)


def test_what_was_given_up_below_is_not_tried_again_above(waits: list[float]) -> None:
    calls: list[int] = []

    def inner() -> None:
        calls.append(1)
        raise TimeoutError

    with pytest.raises(GaveUp):
        retry.retry("outer", lambda: retry.retry("inner", inner))
    assert len(calls) == Policy().tries


def test_on_an_event_loop_it_is_the_same(quick_retries: Policy) -> None:
    call = failing(2, TimeoutError())

    async def later() -> str:
        return call()

    assert asyncio.run(retry.retry_async("x", later)) == "done"
    with pytest.raises(GaveUp):
        asyncio.run(retry.retry_async("x", _always_late))


async def _always_late() -> None:
    raise TimeoutError
