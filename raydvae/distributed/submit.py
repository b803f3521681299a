"""A command on a cluster, from any machine that reaches its job server or its Ray Client port.

Either way the command's driver runs on the cluster, and this machine only follows it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import raydvae
from raydvae.data.failures import hide
from raydvae.errors import ConfigError, RaydvaeError

SERVERS = 3  # that a Ray Client cluster may try to start for one command


def submit(address: str, args: Sequence[str]) -> int:
    """Run ``raydvae ARGS`` on the cluster at ``address``, http(s):// or ray://; return its exit code.

    This package travels along; the cluster needs its dependencies. Raises `ConfigError` when the cluster cannot be
    reached or wants another token, and `RaydvaeError` when a job does not succeed.
    """
    package = str(Path(raydvae.__file__).parent)
    if address.startswith("ray://"):
        return _by_client(address, args, package)
    _by_job(address, args, package)
    return 0


def _by_job(address: str, args: Sequence[str], package: str) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    entrypoint = shlex.join(["python", "-m", "raydvae.cli.main", *args])
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=entrypoint, runtime_env={"py_modules": [package]})
    except Exception as error:
        raise _unreachable(f"The job server at {address} did not take the job", error) from None
    print(f"Job {job} on {hide(address)}", file=sys.stderr, flush=True)

    async def follow() -> None:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)

    asyncio.run(follow())
    status = client.get_job_status(job)
    if status != JobStatus.SUCCEEDED:
        raise RaydvaeError(f"Job {job} ended as {status}: its log is above. Submit the same command to go on.")


def _by_client(address: str, args: Sequence[str], package: str) -> int:
    import ray

    _connect(address, package)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(_run_there)
        code, printed = ray.get(task.remote(list(args)))
    except ray.exceptions.RayError as error:
        raise RaydvaeError(f"The command was cut off on the cluster: {error}. Run it again to go on.") from None
    finally:
        ray.shutdown()
    print(printed, end="", flush=True)
    return int(code)


def _connect(address: str, package: str) -> None:
    from raydvae.distributed.session import init

    # Ray's proxy forks a server for each client while gRPC's threads run, and some of these servers die at birth (Ray's
    # issue 63202 counts 7 of 100); nothing of the command has run by then.
    for attempt in range(1, SERVERS + 1):
        try:
            init(address=address, runtime_env={"py_modules": [package]})
            return
        except Exception as error:
            born_dead = isinstance(error, ConnectionAbortedError) and attempt < SERVERS
            if not born_dead:
                raise _unreachable(f"No Ray Client server answers at {address}", error) from None


def _run_there(args: list[str]) -> tuple[int, str]:
    import ray

    # A process of its own, as a job has: Ray is in it what the command makes of it.
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "raydvae.cli.main", *args]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout


def _unreachable(what: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{what}: {str(error).strip()}. Check the address; and where the cluster asks for a token, RAY_AUTH_MODE=token "
        "and RAY_AUTH_TOKEN."
    )
