"""What the host side costs: CLI start, a plan of 10,000 cells, memory against 100,000 requests, and a warm cell's overhead.

Usage: python benchmarks/host.py [--cells N] [--requests N] [--skip-run]
Prints one JSON object; benchmarks/README.md keeps the figures. Nothing is asserted here: a slow machine is not a failure.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def median_seconds(action: Callable[[], object], times: int) -> dict[str, float]:
    """Run something several times; return median, least and greatest seconds."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        spent.append(time.perf_counter() - start)
    return {"median_s": round(statistics.median(spent), 4), "min_s": round(min(spent), 4), "max_s": round(max(spent), 4)}


def cli_start() -> dict[str, Any]:
    """``longctx --version`` and ``--help`` as processes, beside a bare interpreter."""
    tool = shutil.which("longctx", path=str(Path(sys.executable).parent)) or "longctx"
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "longctx --version": [tool, "--version"],
        "longctx run --help": [tool, "run", "--help"],
    }
    return {
        name: median_seconds(lambda command=command: subprocess.run(command, capture_output=True, check=True), 15)
        for name, command in commands.items()
    }


def plan_of(cells: int) -> dict[str, Any]:
    """A manifest of one model, many variants and tasks: read, expanded, compared with the disk, planned."""
    from longctx.orchestrator import world
    from longctx.orchestrator.plan import Options
    from longctx.orchestrator.settings import load_settings
    from longctx.orchestrator.store import RunFolder

    variants = max(cells // 100, 1)
    manifest = {
        "name": "large",
        "models": [{"name": "tiny", "source": "random:tiny-llama"}],
        "methods": [{"method": "streaming-llm", "params": {"tokens": list(range(8, 8 + variants))}}],
        "evals": [
            {"task": "passkey/default", "label": f"t{number}", "params": {"lengths": {"words": [16 + number]}, "depths": [0.5]}}
            for number in range(100)
        ],
        "resources": {"device": "cpu"},
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LONGCTX_CACHE"] = f"{folder}/cache"
        path = Path(folder) / "m.yaml"
        path.write_text(yaml.safe_dump(manifest))
        settings = load_settings()
        here = world.look(world.read(path, settings), settings, "venv", lambda _: None, fetch=True)
        known = world.facts(here, build=True)  # builds the tasks once; a later plan finds them
        made = []

        def plan() -> None:
            loaded = world.look(world.read(path, settings), settings, "venv", lambda _: None, fetch=False)
            made.append(world.make_plan(loaded, known, RunFolder(Path(folder) / "runs/large"), Options(run="large")))

        figures = median_seconds(plan, 5)
        return figures | {"cells": len(made[-1].cells)}


def memory_of(requests: int) -> dict[str, Any]:
    """Peak memory of one cell's whole way on the host at two sizes, each in a process of its own; the slope is bytes a request."""
    points = []
    for count in (requests // 10, requests):
        done = subprocess.run([sys.executable, __file__, "--one-memory", str(count)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        points.append(json.loads(done.stdout))
    first, last = points
    slope = (last["peak_rss_bytes"] - first["peak_rss_bytes"]) / (last["requests"] - first["requests"])
    return {"points": points, "bytes_a_request": round(slope)}


def one_memory(count: int) -> dict[str, Any]:
    """Build a task of ``count`` requests, accept ids, write a job, merge as many responses and score them. Only the model is missing."""
    from longctx.orchestrator import cells, jobs, scoring, taskstore, world
    from longctx.orchestrator.code import folders
    from longctx.orchestrator.contracts.plan import Lock
    from longctx.orchestrator.plan import Options
    from longctx.orchestrator.settings import load_settings
    from longctx.orchestrator.store import RunFolder, plain

    fifth = count // 5  # the eval has five depths unless told
    manifest = {
        "name": "many",
        "models": [{"name": "tiny", "source": "random:tiny-llama"}],
        "methods": [{"method": "full-kv"}],
        "evals": [{"task": "passkey/default", "params": {"lengths": {"words": [16]}, "repeats": fifth}}],
        "resources": {"device": "cpu"},
        "timing": {"per_bucket": 0},
    }
    marks: dict[str, float] = {}
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LONGCTX_CACHE"] = f"{folder}/cache"
        path = Path(folder) / "m.yaml"
        path.write_text(yaml.safe_dump(manifest))
        settings, run = load_settings(), RunFolder(Path(folder) / "runs/many")
        start = time.perf_counter()
        here = world.look(world.read(path, settings), settings, "venv", lambda _: None, fetch=True)
        known = world.facts(here, build=True)
        for task in known.tasks.values():
            taskstore.place(task, run)
        marks["build_s"] = time.perf_counter() - start
        peaks["build"] = peak_rss()
        forget_peak()
        plan = world.make_plan(here, known, run, Options(run="many"))
        (cell,) = plan.cells
        name = jobs.ids_name(cell.model, cell.task, plain(cell.prompting))
        _fake_ids(run.requests(cell.task), run.ids(name))
        (model,) = [one for one in here.models.values() if one is not None]
        lock = Lock(run="many", longctx="0", created_at=0, models=(model,), environments=(), methods=(), tasks=plan.tasks)
        start = time.perf_counter()
        attempt = jobs.new_attempt(run, plan.jobs[0].job)
        variant = here.loaded.variants[0]
        jobs.generate(run, plan, lock, plan.jobs[0], attempt, folders(variant.environment, variant.method.folder), settings.cache)
        marks["job_s"] = time.perf_counter() - start
        peaks["job"] = peak_rss()
        forget_peak()
        _fake_responses(run.ids(name), attempt.out / f"{cell.cell}.responses.jsonl")
        start = time.perf_counter()
        cells.collect(run, {cell.cell: cell}, dead=True)
        marks["merge_s"] = time.perf_counter() - start
        peaks["merge"] = peak_rss()
        forget_peak()
        start = time.perf_counter()
        result = scoring.score_cell(run, cell, plan.tasks[0], model, plan.seed)
        marks["score_s"] = time.perf_counter() - start
        peaks["score"] = peak_rss()
        forget_peak()
        if result.counts.scored != count:
            raise SystemExit(f"scored {result.counts.scored} of {count}")
    return {
        "requests": count,
        "peak_rss_bytes": max(peaks.values()),
        "peaks": peaks,
        **{name: round(value, 2) for name, value in marks.items()},
    }


def peak_rss() -> int:
    """Peak memory of this very process, bytes; ``ru_maxrss`` would carry over that of the process it was started by."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def forget_peak() -> None:
    """Start a new peak from what is resident now, so that each phase has its own (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _fake_ids(requests: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    ids = list(range(64))
    sha256 = hashlib.sha256(struct.pack("<64I", *ids)).hexdigest()
    with requests.open("rb") as lines, out.open("w") as file:
        for line in lines:
            row = {
                "id": json.loads(line)["id"], "request_sha256": hashlib.sha256(line.rstrip(b"\n")).hexdigest(), "ids": ids,
                "spans": [], "truncated": 0, "given_sha256": sha256, "stop_ids": [],
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


def _fake_responses(ids: Path, out: Path) -> None:
    with ids.open() as lines, out.open("w") as file:
        for line in lines:
            row = json.loads(line)
            response = {
                "id": row["id"],
                "request_sha256": row["request_sha256"],
                "text": "12345.",
                "finish": "stop",
                "tokens": {"given": 64, "truncated": 0, "generated": 6},
                "given_sha256": row["given_sha256"],
                "fed_sha256": row["given_sha256"],
                "batch": {"id": 0, "size": 1},
                "time": {"prefill_s": 0.1, "decode_s": 0.1},
                "memory": {"weights": 1, "peak": None},
                "kv": None,
            }
            file.write(json.dumps(response) + "\n")


def warm_cell() -> dict[str, Any]:
    """A second and a third run of the smoke manifest: nothing to do but find that out; and one with a cell's scores to make again."""
    tool = shutil.which("longctx", path=str(Path(sys.executable).parent)) or "longctx"
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"LONGCTX_RUNS": f"{folder}/runs"}
        command = [tool, "run", "smoke", "--engine", "venv"]

        def run() -> None:
            subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)

        run()
        reuse = median_seconds(run, 5)
        summary = json.loads((Path(folder) / "runs/smoke/summary.json").read_bytes())
        verdicts = [json.loads(path.read_bytes()) for path in Path(folder).glob("runs/smoke/jobs/*/1/verdict.json")]
        inside = {verdict["job"]: round(verdict["seconds"], 2) for verdict in verdicts}
        return {"reuse_a_run": reuse, "cells": len(summary["rows"]), "first_run_job_seconds": inside}


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--skip-run", action="store_true", help="leave out what needs environments")
    parser.add_argument("--one-memory", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_memory:
        print(json.dumps(one_memory(arguments.one_memory)))
        return
    figures: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"}
    figures["cli"] = cli_start()
    figures["plan"] = plan_of(arguments.cells)
    figures["memory"] = memory_of(arguments.requests)
    if not arguments.skip_run:
        figures["warm"] = warm_cell()
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
