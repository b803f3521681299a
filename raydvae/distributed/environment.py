"""Ray's environment variables. Its native part reads them when it is imported, so they are set before that."""

from __future__ import annotations

import os
import secrets

IO_CORES = 2  # logical cores of our own cluster for reading and committing beside the workers
# No usage reports, no progress bars beside ours, none of the services that a small run does not need.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Processes stay for the next pass: by default those above the count of cores end after a second without work.
OWN = {"RAY_idle_worker_killing_time_threshold_ms": "60000"}


def prepare(address: str | None) -> None:
    """Set Ray's environment for a session with ``address``, or with a cluster of our own.

    Our own cluster gets a throw-away token: it keeps other users of the machine out, and nothing is written to $HOME.
    A cluster that exists has its own rules, which the user's environment names.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address or os.environ.get("RAY_ADDRESS"):
        return
    for name, value in OWN.items():
        os.environ.setdefault(name, value)
    # Despite its name: without it Ray listens on the machine's outer address, even for ray.init() on one machine.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_AUTH_MODE" in os.environ:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
