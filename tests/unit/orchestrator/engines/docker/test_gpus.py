"""A container gets its GPUs and no other."""

from pathlib import Path

import pytest

from longctx.orchestrator.engines.docker.gpus import cdi_devices, device_requests
from longctx.orchestrator.errors import EngineUnavailable

JSON = '{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0"}, {"name": "GPU-a"}]}'
YAML = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: GPU-b\n  containerEdits: {}\n- name: 1\n"
OTHER = "cdiVersion: 0.5.0\nkind: vendor.com/net\ndevices:\n- name: GPU-c\n"


def test_specifications_in_json_and_yaml(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nvidia.json").write_text(JSON)
    (tmp_path / "etc" / "other.yml").write_text(OTHER)
    (tmp_path / "etc" / "nvidia.yaml.bak").write_text(YAML.replace("GPU-b", "GPU-z"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "nvidia.yaml").write_text(YAML)
    found = cdi_devices([tmp_path / "etc", str(tmp_path / "run"), tmp_path / "nowhere"])
    assert found == {"0", "GPU-a", "GPU-b", "1"}
    assert cdi_devices([tmp_path / "etc"], kind="vendor.com/net") == {"GPU-c"}


@pytest.mark.parametrize("text", ["", "[]", "{", "kind: nvidia.com/gpu", "kind: nvidia.com/gpu\ndevices: 3", "- a: [", "\x00"])
def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    for suffix in ("json", "yaml"):
        (tmp_path / f"a.{suffix}").write_text(text)
    (tmp_path / "b.yaml").write_text(YAML)
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    assert cdi_devices([tmp_path]) == {"GPU-b", "1"}


def test_no_gpu_asks_for_nothing() -> None:
    assert device_requests((), cdi=frozenset({"GPU-a"}), nvidia_runtime=True) == []


def test_cdi_first_then_the_runtime_and_always_by_name() -> None:
    by_cdi = device_requests(("GPU-a", "GPU-b"), cdi=frozenset({"GPU-a", "GPU-b", "all"}), nvidia_runtime=True)
    assert by_cdi == [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"]}]
    by_runtime = device_requests(("GPU-a", "GPU-b"), cdi=frozenset({"GPU-a"}), nvidia_runtime=True)
    assert by_runtime == [{"Driver": "nvidia", "DeviceIDs": ["GPU-a", "GPU-b"], "Capabilities": [["gpu"]]}]
    assert not any("Count" in request for request in by_cdi + by_runtime)


def test_an_engine_that_can_give_none_says_which() -> None:
    with pytest.raises(EngineUnavailable, match=r"no CDI device nvidia\.com/gpu for GPU-b, and no NVIDIA runtime") as raised:
        device_requests(("GPU-a", "GPU-b"), cdi=frozenset({"GPU-a"}), nvidia_runtime=False)
    assert "nvidia-ctk cdi generate" in raised.value.next_step
