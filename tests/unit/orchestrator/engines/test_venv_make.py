"""Which torch is taken: from the wheelhouse, from an index in the settings, or by uv's own choice."""

import platform
from pathlib import Path

import pytest

from longctx.orchestrator.contracts.job import DeviceKind
from longctx.orchestrator.contracts.manifest import EnvironmentSpec
from longctx.orchestrator.engines.venv_make import torch_arguments, torch_wheel
from longctx.orchestrator.environments import Environment
from longctx.orchestrator.settings import Settings

MACHINE = platform.machine()
SPEC = EnvironmentSpec(name="e", summary="", python=("3.11",), torch={"cpu": "2.13.0", "cuda": "2.13.0"}, imports=())
ENVIRONMENT = Environment(spec=SPEC, folder=Path("e"), sha256="0" * 64)


@pytest.mark.parametrize(
    ("file", "device", "requirement"),
    [
        ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_{}.whl", "cpu", "torch==2.13.0+cpu"),
        ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_{}.whl", "cuda", None),
        ("torch-2.13.0+cu130-cp311-cp311-manylinux_2_28_{}.whl", "cuda", "torch==2.13.0+cu130"),
        ("torch-2.13.0-cp311-cp311-manylinux_2_28_{}.whl", "cuda", "torch==2.13.0"),
        ("torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_{}.whl", "cpu", None),
        ("torch-2.13.0+cpu-cp311-cp311t-manylinux_2_28_{}.whl", "cpu", None),
        ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_riscv.whl", "cpu", None),
        ("torch-2.13.0.1+cpu-cp311-cp311-manylinux_2_28_{}.whl", "cpu", None),
        ("torch-2.12.0+cpu-cp311-cp311-manylinux_2_28_{}.whl", "cpu", None),
    ],
)
def test_wheels_are_matched_by_version_build_python_and_machine(
    tmp_path: Path, file: str, device: DeviceKind, requirement: str | None
) -> None:
    (tmp_path / file.format(MACHINE)).touch()
    found = torch_wheel(tmp_path, "2.13.0", device, "3.11")
    assert (found.requirement if found else None) == requirement


def test_no_wheelhouse_no_wheel(tmp_path: Path) -> None:
    assert torch_wheel(None, "2.13.0", "cpu", "3.11") is None
    assert torch_wheel(tmp_path / "absent", "2.13.0", "cpu", "3.11") is None


@pytest.mark.parametrize(
    ("device", "driver", "settings", "expected"),
    [
        ("cpu", False, {}, ["--no-deps", "--torch-backend", "cpu", "torch==2.13.0"]),
        ("cpu", False, {"torch_index": "URL"}, ["--no-deps", "--index", "URL", "torch==2.13.0"]),
        ("cuda", True, {}, ["--constraint", "e/requirements.lock", "--torch-backend", "auto", "torch==2.13.0"]),
        ("cuda", False, {}, ["--constraint", "e/requirements.lock", "torch==2.13.0"]),
    ],
)
def test_without_a_wheel(device: DeviceKind, driver: bool, settings: dict[str, str], expected: list[str]) -> None:
    assert torch_arguments(ENVIRONMENT, device, "3.11", Settings.model_validate(settings), driver=driver) == expected


def test_a_cpu_wheel_is_installed_without_any_index(tmp_path: Path) -> None:
    (tmp_path / f"torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_{MACHINE}.whl").touch()
    found = torch_arguments(ENVIRONMENT, "cpu", "3.11", Settings(wheelhouse=tmp_path), driver=False)
    assert found == ["--no-deps", "--no-index", "torch==2.13.0+cpu"]


def test_a_cuda_wheel_gets_its_libraries_from_the_index_unless_offline(tmp_path: Path) -> None:
    (tmp_path / f"torch-2.13.0+cu130-cp311-cp311-manylinux_2_28_{MACHINE}.whl").touch()
    online = torch_arguments(ENVIRONMENT, "cuda", "3.11", Settings(wheelhouse=tmp_path), driver=True)
    offline = torch_arguments(ENVIRONMENT, "cuda", "3.11", Settings(wheelhouse=tmp_path, offline=True), driver=True)
    assert "--no-index" not in online and "--no-index" in offline and online[-1] == offline[-1] == "torch==2.13.0+cu130"
