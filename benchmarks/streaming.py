"""The Ray stream of a pass against a bare PyTorch loop, its memory, and what planning costs.

Prints one JSON object. Both ways read the same shards, run the same model on the same cores, and write PNG in parquet;
they take turns in one run. The first units of each turn start it up and are not timed; start-up is told apart.

    python benchmarks/streaming.py [--rows 16384] [--size 32] [--data FOLDER] [--width 64]   images/s of both, ratio
    python benchmarks/streaming.py --memory [--rows 16384] [--width 8]                       peaks at N and 10 N rows
    python benchmarks/streaming.py --plan 1000000 [--unit-rows 1024]                        planning and listing only

Without --data, scikit-learn's digits are repeated. FOLDER is parquet files with encoded images; they are repeated, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from raydvae.config import DVAEConfig, PurifyConfig, preset
from raydvae.data.classes import Classes, find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.distributed.engine import RayEngine
from raydvae.machine import available_cores
from raydvae.models.dvae import DVAE
from raydvae.purify.inference import load_dvae
from raydvae.purify.passes import SubtractPass
from raydvae.training.checkpoint import save_model
from raydvae.training.loop import TrainState

PRESETS = {32: "cifar10", 224: "imagenet100"}
ROWS = {32: 16384, 224: 384}
UNITS = 16  # of a turn, at least: fewer would time start and end
SHARD_UNITS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--size", type=int, choices=sorted(PRESETS), default=32)
    parser.add_argument("--data", default="")
    parser.add_argument("--width", type=int, nargs="+", default=[], help="of the D-VAE; default the preset's and 8")
    parser.add_argument("--unit-rows", type=int, default=0, help="default: the preset's, or less for 16 units a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--plan", type=int, default=0)
    parser.add_argument("--shards", default="", help=argparse.SUPPRESS)  # what the fresh processes are given
    args = parser.parse_args()
    rows = args.rows or ROWS[args.size]
    config = preset(PRESETS[args.size])
    unit_rows = args.unit_rows or max(1, min(config.data.unit_rows, rows // UNITS))
    if args.shards:
        result = planned(args.shards) if args.plan else peaks(args.shards, args.size, unit_rows, args.width[0])
    elif args.plan:
        result = plan(args.plan, args.unit_rows or config.data.unit_rows, args.data)
    elif args.memory:
        result = memory(rows, args.size, args.data, unit_rows, (args.width or [8])[0])
    else:
        widths = args.width or [config.stage1.model.width, 8]
        result = speeds(rows, args.size, args.data, unit_rows, widths, args.rounds)
    print(json.dumps(result, indent=1))


def speeds(rows: int, size: int, source: str, unit_rows: int, widths: list[int], rounds: int) -> dict[str, Any]:
    """Take turns with both ways, at each width."""
    cores = available_cores()
    models = []
    with tempfile.TemporaryDirectory() as folder, RayEngine(cores) as engine, Sampler() as sampler:
        write_shards(Path(folder, "data"), rows, unit_rows, source)
        started = time.monotonic()
        engine.connect()
        init = time.monotonic() - started
        for width in widths:
            work = make_pass(folder, size, unit_rows, width)
            turns: dict[str, list[Turn]] = {"bare": [], "ray": []}
            for number in range(rounds):
                for name in ("bare", "ray") if number % 2 == 0 else ("ray", "bare"):
                    turns[name].append(bare_turn(work, cores) if name == "bare" else ray_turn(work, engine))
            speed = {name: [turn.images_per_second for turn in made] for name, made in turns.items()}
            models.append(
                {
                    "width": width,
                    "ray_images_per_second": round(statistics.median(speed["ray"]), 1),
                    "bare_images_per_second": round(statistics.median(speed["bare"]), 1),
                    "ratio": round(
                        statistics.median(r / b for r, b in zip(speed["ray"], speed["bare"], strict=True)), 3
                    ),
                    "ratios": [round(r / b, 3) for r, b in zip(speed["ray"], speed["bare"], strict=True)],
                    "start_up_seconds": {
                        name: [round(turn.start_up, 1) for turn in made] for name, made in turns.items()
                    },
                }
            )
        peak = sampler.peaks()
    return {
        "ratio": models[0]["ratio"],
        "models": models,
        "rows": rows,
        "size": size,
        "unit_rows": unit_rows,
        "cores": cores,
        "ray_init_seconds": round(init, 1),
        "peak_mib": peak,
        "load": os.getloadavg()[0],
    }


@dataclasses.dataclass(slots=True)
class Turn:
    """When each unit of a turn was done, and how many rows it had."""

    began: float = dataclasses.field(default_factory=time.monotonic)
    times: list[float] = dataclasses.field(default_factory=list)
    rows: list[int] = dataclasses.field(default_factory=list)

    def add(self, rows: int) -> None:
        self.times.append(time.monotonic())
        self.rows.append(rows)

    @property
    def start_up(self) -> float:
        return self.times[0] - self.began

    @property
    def images_per_second(self) -> float:
        warm = len(self.times) // 4
        return sum(self.rows[warm + 1 :]) / (self.times[-1] - self.times[warm])


def ray_turn(work: SubtractPass, engine: RayEngine) -> Turn:
    turn = Turn()
    for record in engine.map(work, work.data.units()):
        turn.add(record["rows_out"])
    work.run.store.delete("")
    return turn


def bare_turn(work: SubtractPass, cores: int) -> Turn:
    """What one would write without raydvae: threads that decode ahead and encode behind, one model on all cores."""
    torch.set_num_threads(cores)
    model = load_dvae(work.store, work.architecture)
    size, step = work.config.image_size, work.config.pass_batch
    files = {file.name: work.data.store.path(file.name) for file in work.data.files}
    out = Path(work.run.store.path(""))
    out.mkdir()
    turn = Turn()

    def read(unit: Unit) -> tuple[Unit, np.ndarray, pa.Table]:
        table = pq.ParquetFile(files[unit.source]).read_row_group(unit.first_group)
        images = np.empty((unit.rows, size, size, 3), np.uint8)
        for index, value in enumerate(table.column("image").to_pylist()):
            image = Image.open(io.BytesIO(value["bytes"])).convert("RGB")
            images[index] = (
                image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)
            )
        return unit, images, table

    def write(unit: Unit, images: np.ndarray, table: pa.Table) -> int:
        encoded = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        column = pa.array(encoded, type=table.schema.field("image").type)
        table = table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), column)
        pq.write_table(table, out / unit.file, compression="none")
        return len(images)

    generator = torch.Generator().manual_seed(0)
    units = work.data.units()
    with torch.no_grad(), ThreadPoolExecutor(cores) as readers, ThreadPoolExecutor(cores) as writers:
        written: list[Future[int]] = []
        ahead = [readers.submit(read, unit) for unit in units[: cores + 1]]
        for number in range(len(units)):
            unit, images, table = ahead.pop(0).result()
            if number + cores + 1 < len(units):
                ahead.append(readers.submit(read, units[number + cores + 1]))
            labels = torch.tensor(table.column("label").to_pylist())
            changed = np.empty_like(images)
            for at in range(0, len(images), step):
                x = torch.from_numpy(images[at : at + step]).permute(0, 3, 1, 2).float().div_(255)
                x = x.contiguous(memory_format=torch.channels_last)
                noise = torch.randn(model.latent_shape(len(x)), generator=generator)
                p_hat = model.estimate_perturbation(x, labels[at : at + step], noise)
                done = (x - p_hat).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
                changed[at : at + step] = done.permute(0, 2, 3, 1).numpy()
            written.append(writers.submit(write, unit, changed, table))
            while len(written) > cores or (written and number == len(units) - 1):
                turn.add(written.pop(0).result())
    shutil.rmtree(out)
    return turn


def make_pass(folder: str, size: int, unit_rows: int, width: int, shards: str = "") -> SubtractPass:
    """Return pass 1 of the preset, with a D-VAE of random weights and the given width."""
    config = shaped(preset(PRESETS[size]), unit_rows, width)
    data = open_dataset(shards or f"{folder}/data", config.data)
    found = find_classes(data)
    classes = Classes(max(found.count, config.num_classes), None, text=False)
    model_config = dataclasses.replace(config.stage1.model, num_classes=classes.count)
    store = Store(f"{folder}/model-{width}")
    torch.manual_seed(0)
    state = TrainState(0, {name: value.clone() for name, value in DVAE(model_config).state_dict().items()}, {})
    save_model(store, state, {"task": "benchmark"})
    return SubtractPass("pass1", Run(Store(f"{folder}/out-{width}")), data, classes, config, model_config, store)


def shaped(config: PurifyConfig, unit_rows: int, width: int) -> PurifyConfig:
    model: DVAEConfig = dataclasses.replace(config.stage1.model, width=width)
    return dataclasses.replace(
        config,
        stage1=dataclasses.replace(config.stage1, model=model),
        data=dataclasses.replace(config.data, unit_rows=unit_rows, size_policy="resize"),
    )


def write_shards(folder: Path, rows: int, unit_rows: int, source: str) -> None:
    """Write ``rows`` rows, those of ``source`` or digits repeated, a row group a unit."""
    if source:
        found = open_dataset(source)
        schema = found.schema
        parts = [found.read(unit, [schema.image, schema.label]) for unit in found.units()[: -(-rows // 1024)]]
        table = pa.concat_tables(parts).replace_schema_metadata(None).rename_columns(["image", "label"])
    else:
        store = Store(f"{folder}-once")
        import_dataset("digits", store, "digits")
        table = pa.concat_tables([pq.read_table(store.path(n)) for n in store.list()]).replace_schema_metadata(None)
    folder.mkdir(parents=True)
    repeated = np.arange(rows) % table.num_rows
    step = unit_rows * max(SHARD_UNITS, rows // unit_rows // 1000)
    for number, at in enumerate(range(0, rows, step)):
        part = table.take(repeated[at : at + step]).combine_chunks()
        pq.write_table(part, folder / f"train-{number:05d}.parquet", row_group_size=unit_rows, compression="none")


def memory(rows: int, size: int, source: str, unit_rows: int, width: int) -> dict[str, Any]:
    """Run the stream over N and over 10 N rows, each in a fresh process with a cluster of its own."""
    runs = []
    for count in (rows, 10 * rows):
        with tempfile.TemporaryDirectory() as folder:
            write_shards(Path(folder, "data"), count, unit_rows, source)
            options = ["--size", str(size), "--unit-rows", str(unit_rows), "--width", str(width)]
            runs.append(fresh(folder, options) | {"rows": count})
    before, after = (run["peak_mib"] for run in runs)
    roles = [role for role in before if role in after]
    ratios = {role: round(after[role]["uss"] / before[role]["uss"], 3) for role in roles}
    return {"memory_ratio": ratios, "size": size, "unit_rows": unit_rows, "width": width, "runs": runs}


def peaks(folder: str, size: int, unit_rows: int, width: int) -> dict[str, Any]:
    """Run the stream once and watch its processes."""
    cores = available_cores()
    work = make_pass(folder, size, unit_rows, width)
    with RayEngine(cores) as engine:
        engine.connect()
        with Sampler() as sampler:
            turn = ray_turn(work, engine)
            found = sampler.peaks()
    return {"images_per_second": round(turn.images_per_second, 1), "peak_mib": found}


def plan(rows: int, unit_rows: int, source: str) -> dict[str, Any]:
    """Plan ``rows`` rows in a fresh process: open the data set, cut units, list what is done, build the stream."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder, "data"), rows, max(unit_rows, 1024), source)
        return fresh(folder, ["--plan", str(rows), "--unit-rows", str(unit_rows)]) | {"rows": rows}


def planned(folder: str) -> dict[str, Any]:
    """Plan what lies in ``folder``; half of the units are committed (empty records: a listing reads none)."""
    unit_rows = int(sys.argv[sys.argv.index("--unit-rows") + 1])
    work = make_pass(folder, 32, unit_rows, 8)
    seconds: dict[str, float] = {}
    memory_mib = {"before": uss(os.getpid())["uss"]}

    def step(name: str, made: Any) -> Any:
        started = time.monotonic()
        value = made()
        seconds[name] = round(time.monotonic() - started, 3)
        memory_mib[name] = uss(os.getpid())["uss"]
        return value

    data: Dataset = step("open", lambda: open_dataset(f"{folder}/data", work.data.data))
    units: list[Unit] = step("units", data.units)
    commits = Path(work.run.home.path("commits/pass1"))
    commits.mkdir(parents=True)
    for unit in units[: min(len(units), 20_000) : 2]:
        (commits / f"{unit.id}.json").touch()
    done = step("done", lambda: work.run.done("pass1"))
    left = step("left", lambda: [unit for unit in units if unit.id not in done])
    with RayEngine(available_cores()) as engine:
        engine.connect()
        memory_mib["ray"] = uss(os.getpid())["uss"]
        from raydvae.distributed import passes

        step("stream", lambda: next(passes.plans(work, left, available_cores(), use_gpu=False)))
    return {
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 2),
        "driver_uss_mib": memory_mib,
        "units": len(units),
        "unit_rows": unit_rows,
        "files": len(data.files),
        "committed": len(done),
    }


def fresh(folder: str, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--shards", folder, *options]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    value: dict[str, Any] = json.loads(made.stdout)
    return value


class Sampler:
    """Peak memory of this process and of the Ray workers below it, by what they do, in MiB.

    USS are the pages of a process alone, RSS those it shares too: the object store counts in each process that maps it.
    """

    INTERVAL = 0.3

    def __enter__(self) -> Sampler:
        self.found: dict[str, dict[str, float]] = defaultdict(lambda: {"uss": 0.0, "pss": 0.0, "rss": 0.0})
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.thread.join()

    def peaks(self) -> dict[str, dict[str, float]]:
        return {role: {kind: round(mib, 1) for kind, mib in values.items()} for role, values in self.found.items()}

    def _follow(self) -> None:
        while not self.end.wait(self.INTERVAL):
            for pid, role in roles():
                for kind, mib in uss(pid).items():
                    self.found[role][kind] = max(self.found[role][kind], mib)


def roles() -> Iterator[tuple[int, str]]:
    """Yield the driver, its Ray workers and its raylet (the object store), each with what it does."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    me = os.getpid()
    yield me, "driver"
    for pid in parents:
        above = pid
        while above in parents and above != me:
            above = parents[above]
        if above != me or pid == me:
            continue
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        for sign, role in (("_Compute", "compute"), ("_Read", "io"), ("_Commit", "io"), ("raylet/raylet ", "raylet")):
            if sign in title.split(" --")[0] + " ":
                yield pid, role
                break


def uss(pid: int) -> dict[str, float]:
    values: dict[str, float] = defaultdict(float)
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, amount = line.split()[:2]
            values[name.rstrip(":")] += float(amount) / 1024
    except OSError:
        return {}
    return {"uss": values["Private_Clean"] + values["Private_Dirty"], "pss": values["Pss"], "rss": values["Rss"]}


if __name__ == "__main__":
    main()
