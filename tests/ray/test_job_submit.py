"""A real `ray job submit` to the local two-node cluster behind its token, from bucket to bucket."""

from __future__ import annotations

import ast
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from raydvae.data.importing import import_dataset
from raydvae.data.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROJECT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
START = 180.0  # seconds that the cluster may take on a busy machine
SETTINGS = ["--preset", "digits", "--width", "4", "--epochs", "1", "--batch", "16", "--unit-rows", "30", "--json"]
# -P: without the folder that a script starts in, `import raydvae` finds what every process of the job finds.
PROBE = """python -P -c "
import os, ray, raydvae
ray.init()
print('driver', raydvae.__file__)
print('worker', ray.get(ray.remote(lambda: __import__('raydvae').__file__).remote()))
print('uploaded', sorted(os.listdir('.')))
" && python jobs/purify.py s3://images/digits s3://images/never --workers 0
"""


def clean_environment() -> dict[str, str]:
    """This process' variables without those that the tests set for Ray, AWS and imports."""
    return {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "AWS_", "OMP_")) and n != "PYTHONPATH"}


@dataclass(frozen=True, kw_only=True)
class Running:
    """The cluster of cluster/local.py."""

    dashboard: str
    client: str
    token: Path

    def submit(self, *command: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
        """Submit from the project's folder; return the exit code of `ray job submit` and all that it printed."""
        if environment is None:
            environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        variables = ", ".join(f'"{name}": "{value}"' for name, value in (KEYS | {"OMP_NUM_THREADS": "1"}).items())
        done = subprocess.run(
            [RAY, "job", "submit", "--address", self.dashboard, "--working-dir", ".",
             "--runtime-env-json", f'{{"env_vars": {{{variables}}}}}', "--", *command],
            cwd=PROJECT, env=clean_environment() | environment, text=True, check=False, timeout=500,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an S3 server with 60 digits in s3://images/digits, in two shards."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        store = s3("digits", endpoint)
        store.fs.mkdir("images")
        import_dataset("digits", store, "digits", split="test", rows_per_shard=30, limit_per_class=6)
        yield endpoint
    finally:
        server.stop()


def s3(name: str, endpoint: str) -> Store:
    return Store(f"s3://images/{name}", {"endpoint_url": endpoint, "key": "testing", "secret": "testing"})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """cluster/local.py as a user starts it, stopped by the signal that a service manager sends."""
    log = tmp_path_factory.mktemp("cluster") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, PROJECT / "cluster/local.py", "--cpus", "2"],
            env=clean_environment(), stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START
        while "Ctrl-C" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        told = ("dashboard ", "client ", "token file ")
        words = dict(line.rsplit(None, 1) for line in log.read_text().splitlines() if line.startswith(told))
        yield Running(dashboard=words["dashboard"], client=words["client"], token=Path(words["token file"]))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert process.returncode == 0, log.read_text()
    assert not Path(words["token file"]).parent.exists(), "the cluster left its folder behind"


def test_a_job_purifies_from_bucket_to_bucket(cluster: Running, bucket: str) -> None:
    code, log = cluster.submit(
        "python", "jobs/purify.py", "s3://images/digits", "s3://images/purified", *SETTINGS,
        "--workers", "1", "--storage-option", f"endpoint_url={bucket}",
    )  # fmt: skip
    assert code == 0, log
    assert '"rows_in": 60, "rows_out": 60, "rows_rejected": 0' in log
    before, after = rows(s3("digits", bucket)), rows(s3("purified", bucket))
    assert len(after) == 60
    assert [row["label"] for row in after] == [row["label"] for row in before]
    pictures = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in after]
    assert {picture.size for picture in pictures} == {(32, 32)}
    assert all(a["image"]["bytes"] != b["image"]["bytes"] for a, b in zip(after, before, strict=True))


def rows(store: Store) -> list[dict[str, object]]:
    names = sorted(name for name in store.list() if name.endswith(".parquet") and not name.startswith("_raydvae"))
    return [row for name in names for row in pq.read_table(io.BytesIO(store.read(name))).to_pylist()]


def test_a_wrong_argument_fails_and_the_job_runs_what_was_uploaded(cluster: Running) -> None:
    code, log = cluster.submit("sh", "-c", PROBE)
    assert code != 0
    assert "raydvae: --workers is 0; give at least 1" in log
    for process in ("driver", "worker"):
        [path] = {line.split()[1] for line in log.splitlines() if line.startswith(f"{process} ")}
        assert path.startswith(str(cluster.token.parent)) and "/_ray_pkg_" in path
    [uploaded] = {line for line in log.splitlines() if line.startswith("uploaded ")}
    names = set(ast.literal_eval(uploaded.removeprefix("uploaded ")))
    assert names >= {"raydvae", "jobs"}
    assert not names & {".git", ".venv", "tests", "docs", "quickstart", "out", "shared"}


@pytest.mark.parametrize("kind", ["dashboard", "client"])
def test_from_a_laptop_the_command_runs_on_the_cluster(
    kind: str, cluster: Running, digits_folder: Path, tmp_path: Path
) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.token)}
    process = subprocess.Popen(
        [sys.executable, "-m", "raydvae.cli.main", "purify", digits_folder, tmp_path / "out", *SETTINGS,
         "--dry-run", "--address", getattr(cluster, kind)],
        cwd=PROJECT, env=clean_environment() | token, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    if kind == "client":
        kill_first_server(cluster)  # as Ray's own now and then die at birth
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    [plan] = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert plan["has"]["where"] == "the cluster of 2 nodes"
    assert plan["rows"] == 180


def kill_first_server(cluster: Running) -> None:
    """Kill the server that Ray's proxy starts for a client, before it can answer."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                if "--mode=specific-server" in words and str(cluster.token.parent) in (folder / "environ").read_text():
                    os.kill(int(folder.name), signal.SIGKILL)
                    return
        time.sleep(0.01)
    raise AssertionError("no server was started")


def test_without_the_token_nothing_is_submitted(cluster: Running) -> None:
    assert cluster.token.stat().st_mode & 0o777 == 0o600
    code, log = cluster.submit("python", "-c", "1", environment={"RAY_AUTH_MODE": "disabled"})
    assert code != 0
    assert "Unauthorized" in log and "submitted successfully" not in log
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{cluster.dashboard}/api/jobs/", timeout=30)
    assert refused.value.code == 401
