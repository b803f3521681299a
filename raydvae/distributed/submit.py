"""A command as a job on a cluster, from any machine that reaches its job server."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import raydvae
from raydvae.errors import ConfigError, RaydvaeError


def submit(address: str, args: Sequence[str]) -> None:
    """Submit ``raydvae ARGS`` to ``address``, copy its log to stdout and return when it succeeded.

    This package travels with the job; the cluster needs its dependencies. Raises `ConfigError` when the job server
    cannot be reached or wants another token, and `RaydvaeError` when the job does not succeed.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    entrypoint = shlex.join(["python", "-m", "raydvae.cli.main", *args])
    try:
        client = JobSubmissionClient(address)
        package = str(Path(raydvae.__file__).parent)
        job = client.submit_job(entrypoint=entrypoint, runtime_env={"py_modules": [package]})
    except Exception as error:
        raise ConfigError(
            f"The job server at {address} did not take the job: {str(error).strip()}. Check the address; and where the "
            "cluster asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
        ) from None
    print(f"Job {job} on {address}", file=sys.stderr, flush=True)

    async def follow() -> None:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)

    asyncio.run(follow())
    status = client.get_job_status(job)
    if status != JobStatus.SUCCEEDED:
        raise RaydvaeError(f"Job {job} ended as {status}: its log is above. Submit the same command to go on.")
