"""S3 through s3fs, with retries of our own around each request, and answers that are checked to be whole.

s3fs retries the few errors of its list and sleeps the same time in every worker; botocore knows the others, and both
together would multiply. Here each request has the tries of `raydvae.data.retry` and nothing else tries again.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import s3fs
from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from fsspec.asyn import sync_wrapper
from s3fs.errors import translate_boto_error

from raydvae.data import retry
from raydvae.errors import ConfigError

PART = 16 * 2**20  # bytes of one part of an upload; a failed part is sent again alone
TEXTS = ("key", "secret", "token", "endpoint_url", "profile")
INTERNAL = {"self", "args", "kwargs", "session", "loop", "asynchronous", "session_vars", "event_hooks"}


class S3(s3fs.S3FileSystem):  # type: ignore[misc]
    """The file system of a `Store` on S3 or on anything that speaks its protocol.

    Listings are never cached: other processes write to the same folder. Raises `ConfigError` for unknown options.
    """

    retries = 1

    def __init__(self, **options: Any) -> None:
        check(options)
        config = {"retries": {"total_max_attempts": 1}, **options.pop("config_kwargs", {})}
        options["use_listings_cache"] = False
        super().__init__(config_kwargs=config, **options)

    async def _call_s3(self, method: str, *parts: Any, **kwargs: Any) -> Any:
        call = super()._call_s3

        async def once() -> Any:
            # The client's timeouts do not cover all that can hang, such as the wait for "100 Continue".
            answer = await asyncio.wait_for(call(method, *parts, **kwargs), retry.POLICY.hung)
            # A bulk delete succeeds even if no object was deleted.
            if method == "delete_objects" and answer.get("Errors"):
                raise translate_boto_error(ClientError({"Error": answer["Errors"][0]}, "DeleteObjects"))
            return answer

        return await retry.retry_async(_name(method, kwargs), once)

    async def _cat_file(
        self, path: str, version_id: str | None = None, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Return a file's bytes, or those in [start, end), by one request; s3fs would ask for the size first."""
        if start is not None and start == end:
            return b""
        bucket, key, version = self.split_path(path)
        asked: dict[str, Any] = {"Bucket": bucket, "Key": key}
        if start is not None or end is not None:
            asked["Range"] = await self._process_limits(path, start, end)
        if version_id or version:
            asked["VersionId"] = version_id or version
        return (await self._get(asked))[0]

    async def _cat_tagged(self, path: str) -> tuple[bytes, str]:
        """Return a file's bytes and its ETag, by one request."""
        bucket, key, _ = self.split_path(path)
        return await self._get({"Bucket": bucket, "Key": key})

    async def _get(self, asked: dict[str, Any]) -> tuple[bytes, str]:
        call = super()._call_s3

        async def once() -> tuple[bytes, str]:
            answer = await asyncio.wait_for(call("get_object", **asked), retry.POLICY.hung)
            try:
                data: bytes = await answer["Body"].read()
            finally:
                answer["Body"].close()
            if len(data) != answer["ContentLength"]:
                raise retry.CutShort.of(len(data), answer["ContentLength"])
            return data, str(answer.get("ETag", ""))

        return await retry.retry_async(_name("get_object", asked), once)

    async def _put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Write a file if its ETag is still ``tag``, or for None if it is not there; return the new one, else None.

        Raises `NotImplementedError` where the server cannot compare.
        """
        bucket, key, _ = self.split_path(path)
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            answer = await self._call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except Exception as error:
            found = [retry.answer(each) for each in retry.causes(error)]
            codes, statuses = {code for code, _ in found}, {status for _, status in found}
            if codes & {"NotImplemented", "MethodNotAllowed"} or 501 in statuses:
                raise NotImplementedError from None
            if codes & {"PreconditionFailed", "NoSuchKey"} or 412 in statuses:
                return None
            raise
        return str(answer["ETag"])

    cat_tagged = sync_wrapper(_cat_tagged)
    put_if = sync_wrapper(_put_if)

    async def _pipe_file(self, path: str, data: bytes, chunksize: int | None = None, **kwargs: Any) -> Any:
        return await super()._pipe_file(path, data, chunksize=chunksize or PART, **kwargs)


def check(options: dict[str, Any]) -> None:
    """Raise `ConfigError` for an option that S3 does not have, or one that is not text; its value is not shown."""
    known = {*inspect.signature(s3fs.S3FileSystem.__init__).parameters, *inspect.signature(AioSession).parameters}
    known = (known | {"use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache"}) - INTERNAL
    for name, value in options.items():
        if name not in known:
            raise ConfigError(
                f"S3 has no storage option {name!r}. The usual ones are endpoint_url, anon, profile, key, secret and "
                f"token; all are {', '.join(sorted(known))}."
            )
        if name in TEXTS and value is not None and not isinstance(value, str):
            raise ConfigError(f"The storage option {name!r} must be text; on the command line: '{name}=\"...\"'.")


def _name(method: str, asked: dict[str, Any]) -> str:
    place = "/".join(str(asked[part]) for part in ("Bucket", "Key") if part in asked)
    return f"S3 {method} {place or '/'}"
