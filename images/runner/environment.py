"""Writes ``out/environment.json``: where a job really runs, as seen from inside."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .ending import BadJob, Failed

PACKAGES = (
    "torch", "transformers", "tokenizers", "numpy", "safetensors", "triton", "flash-attn", "accelerate", "bitsandbytes", "sentencepiece",
    "kernels", "mamba-ssm", "causal-conv1d", "flashinfer-python", "xformers",
)  # fmt: skip
"""Packages whose version can change a result or a time."""

GPU_FIELDS = {
    "driver_version": "driver", "memory.total": "memory_mib", "clocks.sm": "clock_sm_mhz", "clocks.mem": "clock_memory_mhz",
    "clocks.max.sm": "clock_sm_max_mhz", "power.limit": "power_limit_w", "persistence_mode": "persistence", "temperature.gpu": "celsius",
    "mig.mode.current": "mig",
}  # fmt: skip
"""What nvidia-smi is asked, and what the answer is called here."""


def environment(told: Mapping[str, Any], gpus: Sequence[Mapping[str, Any]], threads: int | None) -> dict[str, Any]:
    """Return the document. ``told`` is what the family says of its kernels, nothing until it has loaded."""
    torch = sys.modules.get("torch")
    return {
        "schema_version": 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "attention": told.get("attention"),
        "kernels": dict(told.get("kernels") or {}),
        "threads": int(torch.get_num_threads()) if torch is not None else threads,
        "cpu": cpu(),
        "gpus": [dict(gpu) for gpu in gpus],
        "driver": next((str(gpu["driver"]) for gpu in gpus if gpu.get("driver")), None),
    }


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that matter; CUDA's as torch was built for it."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        found["cuda"] = str(torch.version.cuda)
    return found


def cpu() -> str | None:
    """Return the processor's name."""
    try:
        match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or None


def gpus() -> list[dict[str, Any]]:
    """Return every GPU this process sees, with clocks, power cap and other processes where nvidia-smi tells them."""
    cuda = sys.modules["torch"].cuda
    told = _smi()
    seen = []
    for index in range(cuda.device_count() if cuda.is_available() else 0):
        properties = cuda.get_device_properties(index)
        uuid = _uuid(properties, told, index, cuda.device_count())
        seen.append({
            "index": index,
            "uuid": uuid,
            "name": properties.name,
            "memory": int(properties.total_memory),
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": int(properties.multi_processor_count),
            **told.get(bare(uuid), {}),
        })  # fmt: skip
    return seen


def assert_gpus(asked: Sequence[str], seen: Sequence[Mapping[str, Any]]) -> str | None:
    """Compare the GPUs of the job with those seen; return a warning where they cannot be compared.

    Raises Failed (gpu_lost) when there is none at all, BadJob when they are others.
    """
    if not seen:
        raise Failed("gpu_lost", "the job needs CUDA, but torch sees no GPU: is the driver loaded, and torch a CUDA build?")
    if any(gpu["uuid"] is None for gpu in seen):
        return "GPU UUIDs cannot be read here (an old torch and no nvidia-smi): not compared with the leased ones"
    if asked and sorted(map(bare, asked)) != sorted(bare(gpu["uuid"]) for gpu in seen):
        found = ", ".join(gpu["uuid"] for gpu in seen)
        raise BadJob(f"the job was given {', '.join(asked)} but sees {found}; check how the engine selects GPUs")
    return None


def bare(uuid: str | None) -> str:
    """Return a UUID without prefix and dashes: torch and nvidia-smi write it differently."""
    return re.sub(r"^(gpu|mig)-|-", "", (uuid or "").lower())


def _uuid(properties: Any, told: Mapping[str, Any], index: int, count: int) -> str | None:
    own = getattr(properties, "uuid", None)
    if own is not None:
        return str(own) if str(own).upper().startswith(("GPU-", "MIG-")) else f"GPU-{own}"
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.startswith(("GPU-", "MIG-"))]
    names = visible or [gpu["uuid"] for gpu in told.values()]
    return names[index] if len(names) == count else None


def _smi() -> dict[str, dict[str, Any]]:
    """Return what nvidia-smi says of each GPU, by bare UUID; empty where there is no such tool."""
    told: dict[str, dict[str, Any]] = {}
    for row in _query(f"--query-gpu=uuid,{','.join(GPU_FIELDS)}"):
        if len(row) == len(GPU_FIELDS) + 1:
            told[bare(row[0])] = {"uuid": row[0], **dict(zip(GPU_FIELDS.values(), row[1:])), "other_processes": []}  # noqa: B905
    for row in _query("--query-compute-apps=gpu_uuid,pid,used_memory"):
        if len(row) == 3 and bare(row[0]) in told and row[1] != str(os.getpid()):
            told[bare(row[0])]["other_processes"].append({"pid": row[1], "memory_mib": row[2]})
    return told


def _query(question: str) -> list[list[str]]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        command = [tool, question, "--format=csv,noheader,nounits"]
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
