"""The compute device as the runner needs it: wait for it, ask how much it holds, free it. One class for CPU, one for CUDA."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import random
import sys
from pathlib import Path
from typing import Any, Protocol

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class Device(Protocol):
    """What measuring and timing ask of a device. All sizes in bytes."""

    kind: str
    peak_repeats: bool
    """Whether a peak is the same from run to run, so that it may stand in a response."""

    def synchronise(self) -> None:
        """Return when all work given to the device is done."""

    def loaded(self) -> None:
        """Take what is allocated now as the weights, which peaks do not count."""

    def allocated(self) -> int | None:
        """Return what the allocator has given out; None where there is no such count."""

    def watch(self) -> None:
        """Start to look for a peak."""

    def peak(self) -> int | None:
        """Return the peak since ``watch``, above the weights; None where it cannot be had."""

    def release(self) -> None:
        """Give back what nobody holds any more."""


class Cpu:
    """The host's memory. A peak is the process's resident set above what it was at ``watch``: good to a few MB, Linux only."""

    kind = "cpu"
    peak_repeats = False

    def __init__(self) -> None:
        self._before: int | None = None

    def synchronise(self) -> None:
        """Nothing runs behind the back of a CPU process."""

    def loaded(self) -> None:
        """Nothing to note: a peak is taken above the resident set at ``watch``."""

    def allocated(self) -> int | None:
        """There is no allocator to ask."""
        return None

    def watch(self) -> None:
        """Reset the kernel's high-water mark of this process, once the C library has handed back what it keeps for later."""
        self._before = None
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
        if trim is not None:
            trim(0)
        try:
            CLEAR.write_text("5")
        except OSError:
            return
        self._before = _status("VmRSS")

    def peak(self) -> int | None:
        """Return the high-water mark above the resident set at ``watch``."""
        mark = _status("VmHWM")
        return None if mark is None or self._before is None else max(0, mark - self._before)

    def release(self) -> None:
        """Collect garbage."""
        gc.collect()


class Cuda:
    """All GPUs that this process sees, through torch's caching allocator.

    It rounds a block of 10 MiB and more up to 2 MiB. What is held counts as asked for, without that; a peak is of whole blocks, as the GPU
    must have room for them.
    """

    kind = "cuda"
    peak_repeats = True

    def __init__(self) -> None:
        self._cuda: Any = importlib.import_module("torch").cuda
        self._weights = 0

    def synchronise(self) -> None:
        """Wait for every GPU. Raises RuntimeError when a GPU is lost."""
        for index in self._indices():
            self._cuda.synchronize(index)

    def loaded(self) -> None:
        """Take the allocator's count as the weights."""
        self.synchronise()
        self._weights = sum(int(self._cuda.memory_allocated(index)) for index in self._indices())

    def allocated(self) -> int:
        """Return the bytes asked for in live blocks on all GPUs."""
        return sum(int(self._cuda.memory_stats(index).get("requested_bytes.all.current", 0)) for index in self._indices())

    def watch(self) -> None:
        """Reset the allocator's peaks."""
        for index in self._indices():
            self._cuda.reset_peak_memory_stats(index)

    def peak(self) -> int | None:
        """Return the sum of the GPUs' peaks above the weights."""
        return max(0, sum(int(self._cuda.max_memory_allocated(index)) for index in self._indices()) - self._weights)

    def release(self) -> None:
        """Collect garbage and give cached blocks back."""
        gc.collect()
        self._cuda.empty_cache()

    def _indices(self) -> range:
        return range(self._cuda.device_count())


def threads(count: int | None) -> None:
    """Bound the threads of torch and of the maths libraries under it. Called before the family's import and after its load."""
    if count is None:
        return
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def seed(value: int) -> None:
    """Seed Python, and numpy and torch where they are loaded: before every batch, so that a batch is a function of itself."""
    random.seed(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(value % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(value)


def _status(field: str) -> int | None:
    """Return a field of /proc/self/status, which counts in kB, in bytes."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None
