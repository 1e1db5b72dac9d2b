"""Devices and leases, with a driver that is made up."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from longctx.orchestrator import devices
from longctx.orchestrator.errors import EngineUnavailable, Interrupted

Pretend = Callable[[str], None]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pretend]:
    """Put an ``nvidia-smi`` on PATH that prints what the test wants."""

    def pretend(rows: str, code: int = 0) -> None:
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\nprintf '%s' '{rows}'\nexit {code}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tool.parent))
        devices.gpus.cache_clear()

    yield pretend
    devices.gpus.cache_clear()


TWO = "GPU-1, NVIDIA A100, 81920\nGPU-2, NVIDIA A100, 81920\n"


def test_gpus_as_the_driver_lists_them(driver: Pretend) -> None:
    driver("GPU-1, NVIDIA A100, 81920\nGPU-2, NVIDIA GH200, [N/A]\n")
    assert devices.gpus() == (devices.Gpu("GPU-1", "NVIDIA A100", 81920 * 2**20), devices.Gpu("GPU-2", "NVIDIA GH200", None))
    assert devices.hardware("cuda") == "NVIDIA A100 + NVIDIA GH200"
    assert (devices.resolve("auto"), devices.resolve("cuda"), devices.resolve("cpu")) == ("cuda", "cuda", "cpu")


def test_without_gpus_cuda_is_refused(driver: Pretend) -> None:
    driver("")
    assert devices.resolve("auto") == "cpu"
    with pytest.raises(EngineUnavailable, match=r"wants device cuda.*\nSet resources\.device"):
        devices.resolve("cuda")


def test_a_driver_that_fails_lists_nothing(driver: Pretend) -> None:
    driver("NVIDIA-SMI has failed", 9)  # type: ignore[call-arg]
    assert devices.gpus() == ()


HOLD = """
import sys, time
from pathlib import Path
from longctx.orchestrator import devices
with devices.lease(1, Path(sys.argv[1])) as held:
    print(*held, flush=True)
    time.sleep(60)
"""


def test_gpus_are_leased_across_processes_and_freed_by_kill_9(driver: Pretend, tmp_path: Path) -> None:
    driver(TWO)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"GPU-1\n"
        with devices.lease(1, tmp_path) as held:
            assert held == ("GPU-2",)
        with pytest.raises(Interrupted), devices.lease(2, tmp_path, lambda: True):
            pytest.fail("one of them is taken")
        other.kill()
    with devices.lease(2, tmp_path) as held:
        assert held == ("GPU-1", "GPU-2")


def test_waiting_for_a_gpu_heeds_a_stop(driver: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(TWO)
    monkeypatch.setattr(devices, "LEASE_POLL_SECONDS", 0.001)
    asked: list[int] = []
    with (
        devices.lease(2, tmp_path),
        pytest.raises(Interrupted),
        devices.lease(1, tmp_path, lambda: len(asked) > 3 or asked.append(1) is not None),
    ):
        pytest.fail("nothing is free")


def test_more_gpus_than_there_are(driver: Pretend, tmp_path: Path) -> None:
    driver(TWO)
    with pytest.raises(EngineUnavailable, match="wants 3 GPUs, and this host has 2"), devices.lease(3, tmp_path):
        pytest.fail("there are two")


def test_no_gpu_wanted_touches_nothing(tmp_path: Path) -> None:
    with devices.lease(0, tmp_path / "none") as held:
        assert held == ()
    assert not (tmp_path / "none").exists()


def test_the_processor_has_a_name() -> None:
    assert devices.hardware("cpu").strip()
