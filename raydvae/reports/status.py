"""How a run is doing, read from its folder: works for live and dead runs, from any machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from raydvae.data.damage import Damage, Found, examine
from raydvae.data.lease import INTERVAL, read_holder
from raydvae.data.manifest import HOME, Run
from raydvae.data.store import Store
from raydvae.training.checkpoint import MODEL, read_metrics

STEPS = {"purify": ("stage1", "pass1", "stage2", "pass3"), "poison": ("surrogate", "poison")}
SILENT = 4 * INTERVAL  # seconds after which a driver that has not renewed its note is taken for dead


def status(store: Store) -> dict[str, Any]:
    """Return what is done and left, the rate, the time left, and how the last driver ended."""
    run = Run(store)
    known = run.read()
    note = read_holder(run.home) or {}
    units = known["source"].get("units")
    passes = sorted({name.split("/")[1] for name in run.home.list("commits")})
    found = {name: examine(run, name, sums=False, spare=f"{HOME}/work/") for name in passes}
    damaged = [damage for each in found.values() for damage in each.damaged]
    steps = {name: _step(run, known, name, units, found) for name in STEPS.get(known["kind"], ())}
    steps = {name: step for name, step in steps.items() if step}
    seen = max(0.0, time.time() - note["renewed"]) if note else None
    state = note.get("state", "unknown")
    if state == "running" and seen is not None and seen > SILENT:
        state = "dead"
    result: dict[str, Any] = {
        "run": store.uri,
        "kind": known["kind"],
        "state": state,
        "seen_seconds_ago": None if seen is None else round(seen, 1),
        "driver": f"process {note['pid']} on {note['host']}" if note else None,
        "rows": known["source"]["rows"],
        "steps": steps,
        "rows_rejected": _rejected(found, known["kind"]),
        "damaged": [[damage.file, damage.what] for damage in damaged],
        "retries": note.get("retries", 0),
        "error": note.get("error"),
    }
    if state == "running" and note.get("step"):
        result["now"] = _now(note)
    return result


def lines(about: Mapping[str, Any]) -> list[str]:
    """Return ``about`` for a person."""
    driver = f" by {about['driver']}, seen {about['seen_seconds_ago']:.0f} s ago" if about["driver"] else ""
    out = [f"{about['kind']} run {about['run']}: {about['state']}{driver}"]
    out += [f"  {name:<9} {step['done']} of {step['total']} {step['unit']}" for name, step in about["steps"].items()]
    if now := about.get("now"):
        left = "" if now["seconds_left"] is None else f", about {now['seconds_left']:.0f} s left"
        done = f"{now['done']} of {now['total']} {now['unit']}"
        out.append(f"  now       {now['step']}: {done}, {now['rate']:.3g} a second{left}")
    out.append(f"  rejected  {about['rows_rejected']} rows of {about['rows']}")
    if about["damaged"]:
        shown = Found(damaged=[Damage("", *each) for each in about["damaged"]]).text
        out.append(f"  damaged   {shown}; run the same raydvae {about['kind']} command again to mend it")
    if about["retries"]:
        out.append(f"  retries   {about['retries']} requests to storage")
    if about["error"]:
        out.append(f"  error     {about['error']}")
    return out


def _now(note: Mapping[str, Any]) -> dict[str, Any]:
    seconds = max(1e-9, note["renewed"] - note["step_began"])
    rate = note["done"] / seconds
    left = (note["total"] - note["done"]) / rate if rate else None
    names = ("step", "done", "total", "unit")
    return {name: note[name] for name in names} | {"rate": rate, "seconds_left": left}


def _step(
    run: Run, known: Mapping[str, Any], name: str, units: int | None, found: Mapping[str, Found]
) -> dict[str, Any]:
    if (name in known["config"] and isinstance(known["config"][name], dict)) or name == "surrogate":
        train = known["config"].get(name, {}).get("train", {})
        total = train.get("epochs") if isinstance(train, dict) else None
        finished = run.home.exists(f"{name}/{MODEL}")
        done = len(read_metrics(run.home.sub(name)))
        if total is None and not done:
            return {}
        return {"done": done, "total": total or (done if finished else "?"), "unit": "epochs", "finished": finished}
    done = len(found[name].good) if name in found else 0
    return {"done": done, "total": units if units is not None else "?", "unit": "units"}


def _rejected(found: Mapping[str, Found], kind: str) -> int:
    step = {"purify": "pass1", "poison": "poison"}.get(kind, "")
    return sum(record["rows_rejected"] for record in found[step].good.values()) if step in found else 0
