"""How a container gets its GPUs and no other: by UUID, as CDI devices where the engine knows them, else as an NVIDIA device request."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...errors import EngineUnavailable

KIND = "nvidia.com/gpu"
STEP = "Make them with `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` (NVIDIA Container Toolkit), then `longctx doctor`."


def cdi_devices(folders: Iterable[str | Path], kind: str = KIND) -> frozenset[str]:
    """Return the names of a kind's devices in the CDI specifications of these folders; a file that cannot be read counts as none."""
    import yaml

    found: set[str] = set()
    for folder in folders:
        for path in sorted(Path(folder).glob("*")):
            if path.suffix not in (".json", ".yaml", ".yml"):
                continue
            try:
                text = path.read_text(encoding="utf-8")
                spec = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
                if spec["kind"] == kind:
                    found |= {str(device["name"]) for device in spec["devices"]}
            except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
                continue
    return frozenset(found)


def device_requests(gpus: Sequence[str], *, cdi: frozenset[str], nvidia_runtime: bool) -> list[dict[str, Any]]:
    """Return the engine's device requests for these UUIDs; none for no GPU.

    Raises EngineUnavailable where the engine can give GPUs in neither way: a container that silently sees none, or all, helps nobody.
    """
    if not gpus:
        return []
    if all(uuid in cdi for uuid in gpus):
        return [{"Driver": "cdi", "DeviceIDs": [f"{KIND}={uuid}" for uuid in gpus]}]
    if nvidia_runtime:
        return [{"Driver": "nvidia", "DeviceIDs": list(gpus), "Capabilities": [["gpu"]]}]
    missing = ", ".join(uuid for uuid in gpus if uuid not in cdi)
    raise EngineUnavailable(f"The Docker Engine has no CDI device {KIND} for {missing}, and no NVIDIA runtime.", STEP)
