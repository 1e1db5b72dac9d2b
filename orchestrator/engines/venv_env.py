"""The variables a job's process starts with: none of the caller's, so that no secret, path or switch of a person reaches a method."""

import os
from pathlib import PurePath

from .base import ContainerSpec


def base_environment(python: PurePath, *, home: PurePath, temporary: PurePath) -> dict[str, str]:
    """Return what every process of an environment gets: an own home and own caches, no byte code, nothing fetched."""
    return {
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "USER": "longctx",
        "LOGNAME": "longctx",
        "TMPDIR": str(temporary),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "HF_HOME": str(home / ".cache" / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRITON_CACHE_DIR": str(home / ".cache" / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / ".cache" / "inductor"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        # OpenMP's threads spin for long while they wait, and keep each other from working where a machine does anything else: three to
        # four times slower was seen. Not to spin at all costs an idle machine a third of its decoding.
        "GOMP_SPINCOUNT": "10000",
        "PYTHONUNBUFFERED": "1",
    }


def job_environment(spec: ContainerSpec, python: PurePath, root: PurePath, *, home: PurePath, temporary: PurePath) -> dict[str, str]:
    """Return the variables of one job. On cuda only its GPUs are visible; where it has no list, those the scheduler left visible."""
    result = base_environment(python, home=home, temporary=temporary)
    if spec.environment.system is not None:
        result.update(spec.environment.system.variables)
    result["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root / "code"), result.get("PYTHONPATH"))))
    if spec.threads is not None:
        result.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(spec.threads)))
    if spec.device == "cpu" or spec.gpus:
        result["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpus) if spec.device == "cuda" else ""
    elif "CUDA_VISIBLE_DEVICES" in os.environ:
        result["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    return {**result, **spec.env}
