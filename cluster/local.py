"""A two-node Ray cluster on this machine's loopback, with job server and token, to try `ray job submit` on.

    python cluster/local.py

starts it, prints its addresses and a command to submit with, and stops it on Ctrl-C or SIGTERM. It is laid out like the
clusters in this folder: a head that does no work, and a node that does it all. Nothing is written outside of one
temporary folder, and no other Ray cluster of the machine is touched (`ray stop` would end them all).
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

STORE = 300 * 2**20  # bytes of each node's object store
LOOPBACK = "127.0.0.1"


def main() -> None:
    """Start the cluster, say how to use it, wait for a signal, stop it."""
    parser = argparse.ArgumentParser(description="A two-node Ray cluster on loopback, until Ctrl-C.")
    parser.add_argument(
        "--cpus", type=int, default=(os.cpu_count() or 1) + 2, help="cores of the worker node, 2 or more"
    )
    parser.add_argument("--dashboard-port", type=int, default=0, help="port of dashboard and job server; 0: any free")
    options = parser.parse_args()

    stop = threading.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        stop.set()
        if cluster is None:
            sys.exit(128 + signum)  # through the cleaning up below

    cluster = None
    signal.signal(signal.SIGTERM, on_signal)
    # A short name: the paths of Ray's sockets lie below it and may have at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="rdv-", dir="/tmp"))
    try:
        environment = prepare(folder)
        cluster, client = start(folder, options.cpus, options.dashboard_port)
        for number in (signal.SIGINT, signal.SIGTERM):  # again: Ray's start has set handlers of its own
            signal.signal(number, on_signal)
        print(usage(f"http://{cluster.webui_url}", cluster.address, client, environment), flush=True)
        stop.wait()
    except KeyboardInterrupt:
        pass
    finally:
        if cluster is not None:
            with suppress(AssertionError):  # Ray's check for zombies, too early on a busy machine
                cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def prepare(folder: Path) -> dict[str, str]:
    """Write a fresh token and set Ray's environment; return what a client of the cluster needs of it."""
    token = folder / "token"
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)
    client = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    # Ray's native part reads these when it is imported.
    os.environ.update(
        client,
        RAY_TMPDIR=str(folder),  # also keeps ray.init() of others on this machine from joining this cluster
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # despite its name: without it Ray listens on the outer address
        RAY_USAGE_STATS_ENABLED="0",
        # The `python` of a job's command is looked for here: it has to be the one that has raydvae's dependencies.
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    )
    return client


def start(folder: Path, cpus: int, port: int) -> tuple[Any, int]:
    """Return the running cluster, and its port for Ray Client.

    Ray's agents start slowly on small machines, so that a second try is made.
    """
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_host": LOOPBACK,
        "dashboard_agent_listen_port": 0,  # any free one; by default always the same
        "object_store_memory": STORE,
    }
    for attempt in (1, 2):
        cluster = Cluster()
        try:
            # Another port at each try: what a failed start leaves holds the first until this process ends.
            client = free_port()
            cluster.add_node(**head, dashboard_port=port or free_port(), ray_client_server_port=client)
            # A folder of its own, as on a machine of its own: in one folder, the node that unpacks a job's working
            # directory second deletes what the first has unpacked, under the feet of the running job.
            cluster.add_node(num_cpus=cpus, object_store_memory=STORE, temp_dir=str(folder / "worker"))
            return cluster, client
        except Exception as error:
            with suppress(Exception):
                cluster.shutdown()
            if attempt == 2:
                sys.exit(f"Ray did not start: {error}. Is there memory left, and room in /tmp?")
    raise AssertionError("unreachable")


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def usage(dashboard: str, address: str, client: int, environment: dict[str, str]) -> str:
    """Return what to tell the user: first lines that a program can read, then a command."""
    variables = " ".join(f"{name}={value}" for name, value in environment.items())
    return (
        f"dashboard  {dashboard}\n"
        f"address    {address}\n"
        f"client     ray://{LOOPBACK}:{client}\n"
        f"token file {environment['RAY_AUTH_TOKEN_PATH']}\n\n"
        "Submit from the project's folder, in another terminal:\n\n"
        f"  {variables} \\\n"
        f"  ray job submit --address {dashboard} --working-dir . -- \\\n"
        "  python jobs/purify.py IN OUT --workers 1\n\n"
        f"or, with the same variables, raydvae purify IN OUT --address {dashboard}\n\n"
        "Ctrl-C stops the cluster."
    )


if __name__ == "__main__":
    main()
